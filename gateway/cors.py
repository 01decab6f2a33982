"""Which pages of other origins may use the shim (CORS), by settings."""

from collections.abc import Collection, Iterable, Sequence

from gateway.bindings import ANY_METHOD
from gateway.headers import Head
from gateway.statuses import Headers

ALL = "*"
MAX_AGE_SECONDS = b"600"
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
# What pages may send and read beyond what every page may.
SENT = (
    b"authorization, content-type, grpc-timeout, idempotency-key, if-match, if-none-match, "
    b"last-event-id, traceparent, tracestate, x-api-key, x-request-timeout"
)
READ = b"etag, retry-after, www-authenticate"


class Cors:
    """The origins that are let in: ``https://shop.example``, or ``*`` for all."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._origins = frozenset(origins)

    def headers(self, origin: str) -> Headers:
        """What a response to a page of this origin needs; nothing if it is not let in."""
        if not self._origins:
            return ()
        if ALL in self._origins:
            allowed = b"*"
        elif origin in self._origins:
            allowed = origin.encode("latin-1")
        else:
            return ((b"vary", b"origin"),)
        return (
            (b"access-control-allow-origin", allowed),
            (b"access-control-expose-headers", READ),
            (b"vary", b"origin"),
        )

    def preflight(self, head: Head, methods: Sequence[str]) -> Headers:
        """What a page that asks first is told; nothing if it is not let in or asks nothing."""
        origin = head.get(b"origin")
        if b"access-control-request-method" not in head.known or not self.admits(origin):
            return ()
        return (
            (b"access-control-allow-methods", ", ".join(spelt_out(methods)).encode()),
            (b"access-control-allow-headers", SENT),
            (b"access-control-max-age", MAX_AGE_SECONDS),
        )

    def admits(self, origin: str) -> bool:
        """Whether pages of this origin are let in."""
        return ALL in self._origins or origin in self._origins


def spelt_out(methods: Iterable[str]) -> list[str]:
    """The HTTP methods that a path has: those of its bindings, and OPTIONS, which the shim answers."""
    found = set(methods)
    if ANY_METHOD in found:
        found = found - {ANY_METHOD} | set(METHODS)
    return sorted(found | {"OPTIONS"})
