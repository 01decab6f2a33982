"""Request headers: what is passed on, what the shim acts on; all others have no effect."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from google.rpc import code_pb2

from gateway.statuses import Refused, wrong

# Passed on as they are. Nothing else that a client says about itself or its way reaches
# the server: neither Forwarded nor X-Forwarded-*, neither client certificates nor Grpc-Metadata-*.
FORWARDED = {name: name.decode() for name in (b"authorization", b"x-api-key", b"traceparent", b"tracestate")}
# Of these the shim makes something itself; of a header sent twice the last counts.
KNOWN = frozenset(
    (
        b"accept", b"access-control-request-method", b"content-encoding", b"content-length",
        b"content-type", b"grpc-timeout", b"host", b"idempotency-key", b"if-match", b"if-none-match",
        b"last-event-id", b"origin", b"sec-websocket-protocol", b"x-request-timeout",
    )
)  # fmt: skip
UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

_VISIBLE = re.compile(r"[\x20-\x7e]*")
_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_SECONDS = re.compile(r"[0-9]{1,8}(?:\.[0-9]{1,9})?")


@dataclass(slots=True)
class Head:
    """The headers of a request that matter."""

    metadata: list[tuple[str, str]] = field(default_factory=list)
    known: dict[bytes, str] = field(default_factory=dict)

    def get(self, name: bytes) -> str:
        """The header's text, "" if it was not sent."""
        return self.known.get(name, "")


def read(headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Sort the headers. Raises Refused for one to be passed on that isn't visible ASCII."""
    head = Head()
    for name, value in headers:
        forwarded = FORWARDED.get(name)
        if forwarded is not None:
            text = value.decode("latin-1")
            if not _VISIBLE.fullmatch(text):
                raise wrong(forwarded, "must be visible ASCII")
            head.metadata.append((forwarded, text))
        elif name in KNOWN:
            head.known[name] = value.decode("latin-1")
    return head


def timeout(head: Head, longest: float) -> float | None:
    """Seconds until the client's deadline, at most ``longest``; None if it has set none. Raises Refused."""
    asked: list[float] = []
    if text := head.known.get(b"x-request-timeout"):
        if not _SECONDS.fullmatch(text) or not float(text):
            raise wrong("x-request-timeout", "must be a positive number of seconds, such as 2.5")
        asked.append(float(text))
    if text := head.known.get(b"grpc-timeout"):
        found = _GRPC_TIMEOUT.fullmatch(text)
        if found is None or not int(found[1]):
            raise wrong("grpc-timeout", "must be digits and a unit, such as 500m for half a second")
        asked.append(int(found[1]) * UNITS[found[2]])
    return min(*asked, longest) if asked else None


def idempotency_key(head: Head) -> str:
    """The key that the client gave, "" for none. Raises Refused.

    The draft standard has it as a quoted string; many send it bare.
    """
    text = head.get(b"idempotency-key").strip()
    if not text:
        if b"idempotency-key" in head.known:
            raise _no_key()
        return ""
    if text.startswith('"'):
        if len(text) < 3 or not text.endswith('"') or "\\" in text or '"' in text[1:-1]:
            raise _no_key()
        text = text[1:-1]
    if not _VISIBLE.fullmatch(text):
        raise _no_key()
    return text


def length(head: Head) -> int | None:
    """The announced size of the body in bytes, if there is one."""
    text = head.known.get(b"content-length", "")
    return int(text) if text.isdecimal() else None


def media_type(head: Head) -> tuple[str, str]:
    """The type of the body, in lower case, and its charset; each "" if not said."""
    kind, _, parameters = head.get(b"content-type").partition(";")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return kind.strip().lower(), value.strip().strip('"').lower()
    return kind.strip().lower(), ""


def check_type(head: Head, kinds: frozenset[str]) -> None:
    """Raises Refused for a body of a type, charset or encoding that isn't read here."""
    kind, charset = media_type(head)
    if kind not in kinds or charset not in {"", "utf-8"}:
        raise Refused(
            415,
            code_pb2.INVALID_ARGUMENT,
            "MEDIA_TYPE_UNSUPPORTED",
            f"the body must be {max(kinds)} in UTF-8",
            headers=((b"accept", max(kinds).encode()),),
        )
    if head.get(b"content-encoding").lower() not in {"", "identity"}:
        raise Refused(
            415,
            code_pb2.INVALID_ARGUMENT,
            "MEDIA_TYPE_UNSUPPORTED",
            "the body must not be compressed",
            headers=((b"accept-encoding", b"identity"),),
        )


def _no_key() -> Refused:
    return wrong("idempotency-key", "must be a key in visible ASCII, bare or in double quotes")
