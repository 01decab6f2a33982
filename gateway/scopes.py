"""What ASGI's scope says of a request, as the shim wants it."""

import hashlib
from typing import Any

from gateway.headers import Head
from gateway.routes import Match
from gateway.statuses import invalid

Scope = dict[str, Any]


def path_of(scope: Scope) -> str:
    """The path as it was sent, undecoded."""
    raw: bytes = scope["raw_path"]
    return raw.decode("latin-1")


def peer_of(scope: Scope) -> str:
    """Where the connection comes from, as gRPC writes it; what headers say of that doesn't count."""
    client = scope.get("client")
    if not client:
        return "unknown"
    host, port = client[0], client[1]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def address_of(scope: Scope) -> str:
    """The address that the connection comes from."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def callers_of(scope: Scope, head: Head) -> list[str]:
    """Under which names a stream counts: the credentials, or the address of who sends none."""
    sent = [value for name, value in head.metadata if name in {"authorization", "x-api-key"}]
    if sent:
        return sorted({hashlib.sha256(value.encode()).hexdigest() for value in sent})
    return [address_of(scope)]


def values_of(match: Match) -> dict[str, str]:
    """The text of each variable of the path. Raises Refused for what is no encoded UTF-8."""
    try:
        return match.values()
    except ValueError:
        raise invalid("the path is not percent-encoded UTF-8") from None
