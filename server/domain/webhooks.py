"""Webhooks: where partners hear of what happened, which URLs may be called, and how calls are signed.

Signed as Standard Webhooks says: HMAC-SHA-256 of id, timestamp and body, one signature for each
secret that is valid.
"""

import base64
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from server.domain.addresses import is_loopback, is_public
from server.domain.deliveries import NOBODY
from server.domain.events import Event

CHANNEL = "webhook"
# Of a call that only tries an endpoint out.
TEST_TYPE = "webhook.test"

SECRET_PREFIX = "whsec_"  # noqa: S105 - that much of it is public
SECRET_BYTES = 32
# More than these don't sign at once; the oldest goes.
MAX_SECRETS = 4
DEFAULT_OVERLAP = timedelta(days=1)
MAX_OVERLAP = timedelta(days=30)
# An endpoint that took nothing for so long is asked no more.
FAILING_LIMIT = timedelta(days=5)

# For so long it is remembered what an endpoint took.
KEPT = timedelta(days=30)

MAX_URL = 1000
MAX_PATTERNS = 50
MAX_ENDPOINTS = 100
PORTS = {"https": 443, "http": 80}
FIRST_FREE_PORT = 1024

_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
# What some resolvers read as a number: 0x7f.1, 127.1, 2130706433.
_NUMERIC = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|\d+)")
_PATTERN = re.compile(r"\*|[a-z_]+(?:\.[a-z_]+)*(?:\.\*)?")


class EndpointStatus(StrEnum):
    """Whether an endpoint is called."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a partner listens. ``disabled_reason`` says why it isn't called, if it isn't.

    ``failing_since``: the first failure since the last success. ``event_types`` are names or patterns.
    """

    program_id: UUID
    endpoint_id: UUID
    url: str
    description: str
    event_types: tuple[str, ...]
    status: EndpointStatus
    disabled_reason: str
    failing_since: datetime | None
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads: ``host`` is a name or an address in numbers, ``target`` path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port as a request names them; the usual port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


class UrlError(Exception):
    """A URL that is not called; the message completes "must ..."."""


def place_of(url: str, loopback: bool) -> Place:
    """Where the URL leads. Raises UrlError.

    ``loopback``: whether this machine may be called, by http too, as in development.
    """
    if (
        not 0 < len(url) <= MAX_URL
        or not url.isascii()
        or not url.isprintable()
        or set(url) & set(' \\"<>^`{|}')
    ):
        raise UrlError(f"be a URL of at most {MAX_URL:,} ASCII characters, names and paths encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlError("be a URL such as https://partner.example/hooks") from None
    if "@" in parts.netloc:
        raise UrlError("hold no user or password")
    if "#" in url:
        raise UrlError("have no fragment")
    host = (parts.hostname or "").lower()
    here = host == "localhost" or is_loopback(host)
    if here and not loopback and parts.scheme in PORTS:
        raise UrlError(
            "begin with https:// and lead to a public address, unless LAUREL_WEBHOOK_LOOPBACK is set"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback and here):
        raise UrlError("begin with https://")
    _check_host(host, here and loopback)
    if port is None:
        port = PORTS[parts.scheme]
    elif port != PORTS["https"] and port < FIRST_FREE_PORT:
        raise UrlError(f"have port {PORTS['https']}, or one from {FIRST_FREE_PORT} on")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(parts.scheme, host, port, target)


def _check_host(host: str, allowed: bool) -> None:
    if allowed or is_public(host):
        return
    if ":" in host or _NUMERIC.fullmatch(host) or host == "localhost" or host.endswith(".localhost"):
        raise UrlError("lead to a public address")
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise UrlError("name a host, in ASCII")


def may_connect(host: str, address: str, loopback: bool) -> bool:
    """Whether an address to which a host's name was resolved may be called."""
    if loopback and (host == "localhost" or is_loopback(host)):
        return is_loopback(address)
    return is_public(address)


def known_event_types() -> frozenset[str]:
    """Every type of event that the log may hold."""

    def below(kind: type[Event]) -> Iterator[str]:
        for deeper in kind.__subclasses__():
            if "event_type" in vars(deeper):
                yield deeper.event_type
            yield from below(deeper)

    return frozenset(below(Event))


def pattern_mistake(pattern: str) -> str:
    """What is wrong with a filter, "" if nothing."""
    if not _PATTERN.fullmatch(pattern):
        return "must be a type such as points.earned, a pattern such as points.*, or *"
    if not any(matches((pattern,), known) for known in known_event_types()):
        return "matches no type of event"
    return ""


def matches(patterns: Iterable[str], event_type: str) -> bool:
    """Whether one of the patterns is of this type."""
    return any(
        pattern in ("*", event_type) or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
        for pattern in patterns
    )


def body_of(
    event_type: str,
    event_id: UUID,
    member_id: UUID,
    times: tuple[datetime, datetime],
    payload: Mapping[str, Any],
) -> bytes:
    """What is posted, the same at every attempt. ``times``: when it happened and when it was recorded."""
    occurred_at, recorded_at = (moment.astimezone(UTC).isoformat().replace("+00:00", "Z") for moment in times)
    data = {
        "event_id": str(event_id),
        **({} if member_id == NOBODY else {"member_id": str(member_id)}),
        "occurred_at": occurred_at,
        "recorded_at": recorded_at,
        "payload": payload,
    }
    content = {"type": event_type, "timestamp": occurred_at, "data": data}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def secret_text(secret: bytes) -> str:
    """A secret as partners get to see it."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


def signatures(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The header ``webhook-signature``. ``timestamp`` is seconds since 1970, of this attempt."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets
    )
