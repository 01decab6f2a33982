"""Templates: what a message says, by occasion, channel and language."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

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


class Part(NamedTuple):
    """A part of a channel's templates. ``limit`` in characters is for it and for what comes of it."""

    limit: int
    required: bool = True


_LINE = Part(200)
# Longer ones are cut up and paid for several times over.
_SHORT = Part(1000)

PARTS: Mapping[str, Mapping[str, Part]] = MappingProxyType(
    {
        "email": {"subject": _LINE, "text": Part(16_000), "html": Part(64_000, required=False)},
        "sms": {"text": _SHORT},
        "push": {"subject": _LINE, "text": _SHORT},
        "inbox": {"subject": _LINE, "text": Part(4000)},
    }
)


def languages(wanted: str, fallback: str) -> tuple[str, ...]:
    """Where to look for a template, in order: ``hi-IN``, ``hi``, the program's own, English."""
    return tuple(dict.fromkeys([*_shorter(wanted), *_shorter(fallback), LAST_RESORT]))


def _shorter(tag: str) -> list[str]:
    parts = tag.split("-") if tag else []
    return ["-".join(parts[:length]) for length in range(len(parts), 0, -1)]
