"""Templates: what a message says, by occasion, channel and language."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

MAX_SUBJECT = 500
MAX_TEXT = 16_000
MAX_HTML = 64_000
MAX_LANGUAGES = 50  # of one program
LAST_RESORT = "en"  # has a template of Laurel's own for everything


class Key(NamedTuple):
    """What a template is for. ``language`` is a BCP 47 tag in its customary case."""

    occasion: str
    channel: str
    language: str


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says; as a template, with places for facts. A part that a channel hasn't is empty."""

    subject: str = ""
    text: str = ""
    html: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """A template in force. ``version`` counts what the program wrote; 0 is Laurel's own."""

    key: Key
    content: Content
    version: int = 0


class Parts(NamedTuple):
    """Which parts a channel's templates have; what isn't required may be left out."""

    required: tuple[str, ...]
    possible: tuple[str, ...]


PARTS: Mapping[str, Parts] = MappingProxyType(
    {
        "email": Parts(("subject", "text"), ("subject", "text", "html")),
        "sms": Parts(("text",), ("text",)),
        "push": Parts(("subject", "text"), ("subject", "text")),
        "inbox": Parts(("subject", "text"), ("subject", "text")),
    }
)
LIMITS: Mapping[str, int] = MappingProxyType({"subject": MAX_SUBJECT, "text": MAX_TEXT, "html": MAX_HTML})


def languages(wanted: str, fallback: str) -> tuple[str, ...]:
    """Where to look for a template, in order: ``hi-IN``, ``hi``, the program's own, English."""
    return tuple(dict.fromkeys([*_shorter(wanted), *_shorter(fallback), LAST_RESORT]))


def _shorter(tag: str) -> list[str]:
    parts = tag.split("-") if tag else []
    return ["-".join(parts[:length]) for length in range(len(parts), 0, -1)]
