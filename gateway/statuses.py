"""From what went wrong to an HTTP response: the status table and google.rpc.Status as JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from google.rpc import code_pb2, error_details_pb2, status_pb2
from protobuf import Message, Registry, message_to_json_value

from gateway.backend import Failed

Headers = tuple[tuple[bytes, bytes], ...]

# As google/rpc/code.proto has it.
HTTP: Mapping[int, int] = MappingProxyType(
    {
        code_pb2.OK: 200,
        code_pb2.CANCELLED: 499,
        code_pb2.UNKNOWN: 500,
        code_pb2.INVALID_ARGUMENT: 400,
        code_pb2.DEADLINE_EXCEEDED: 504,
        code_pb2.NOT_FOUND: 404,
        code_pb2.ALREADY_EXISTS: 409,
        code_pb2.PERMISSION_DENIED: 403,
        code_pb2.RESOURCE_EXHAUSTED: 429,
        code_pb2.FAILED_PRECONDITION: 400,
        code_pb2.ABORTED: 409,
        code_pb2.OUT_OF_RANGE: 400,
        code_pb2.UNIMPLEMENTED: 501,
        code_pb2.INTERNAL: 500,
        code_pb2.UNAVAILABLE: 503,
        code_pb2.DATA_LOSS: 500,
        code_pb2.UNAUTHENTICATED: 401,
    }
)
TYPES = "type.googleapis.com/"
# For an UNAVAILABLE that doesn't say when to come back, in seconds.
RETRY_SECONDS = 1
BEARER = "Bearer"


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of the request, or a parameter or header, that is wrong, and why."""

    field: str
    description: str


@dataclass(eq=False)
class Refused(Exception):  # noqa: N818 - reads as the sentence it is
    """The shim itself can't pass a request on.

    ``http`` is the HTTP status, ``code`` gRPC's; ``unread`` tells that the body was not read
    to its end.
    """

    http: int
    code: int
    reason: str
    message: str
    violations: Sequence[Violation] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Headers = ()
    unread: bool = False


def invalid(message: str, *violations: Violation, reason: str = "INVALID_FIELD") -> Refused:
    """The request is wrong: 400, with what is wrong by field."""
    return Refused(400, code_pb2.INVALID_ARGUMENT, reason, message, violations)


def wrong(field: str, description: str) -> Refused:
    """One field, parameter or header is wrong: 400."""
    return invalid(f"{field}: {description}", Violation(field, description))


def internal(message: str) -> Refused:
    """What is behind the shim, or the shim itself, doesn't do what it should: 500."""
    return Refused(500, code_pb2.INTERNAL, "INTERNAL", message)


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """What the client gets instead of a reply."""

    http: int
    status: dict[str, Any]
    headers: Headers

    @property
    def body(self) -> bytes:
        """The status as JSON."""
        text = json.dumps(self.status, separators=(",", ":"), ensure_ascii=False)
        # A name that was sent may hold half a character, which no UTF-8 has.
        return text.encode("utf-8", "replace")


class Errors:
    """Renders what went wrong. ``domain`` is that of the shim's own ErrorInfo."""

    def __init__(self, registry: Registry, domain: str) -> None:
        found = registry.message("google.rpc.Status")
        assert found is not None
        self._status: type[Message] = found.type
        self._registry = registry
        self._domain = domain

    def of(self, error: Failed | Refused) -> ErrorResponse:
        """The response that tells of the error."""
        if isinstance(error, Refused):
            return self._refused(error)
        return self._failed(error)

    def _refused(self, error: Refused) -> ErrorResponse:
        info: dict[str, Any] = {
            "@type": f"{TYPES}google.rpc.ErrorInfo",
            "reason": error.reason,
            "domain": self._domain,
            "metadata": dict(error.metadata),
        }
        details = [info]
        if error.violations:
            violations = [{"field": v.field, "description": v.description} for v in error.violations]
            details.append({"@type": f"{TYPES}google.rpc.BadRequest", "fieldViolations": violations})
        headers = error.headers
        if error.http in {429, 503}:
            details.append({"@type": f"{TYPES}google.rpc.RetryInfo", "retryDelay": f"{RETRY_SECONDS}s"})
            headers += ((b"retry-after", b"%d" % RETRY_SECONDS),)
        status = {"code": error.code, "message": error.message, "details": details}
        return ErrorResponse(error.http, status, headers)

    def _failed(self, error: Failed) -> ErrorResponse:
        status = error.status
        headers: Headers = ()
        seconds = _retry_seconds(status)
        if seconds is not None:
            headers += ((b"retry-after", b"%d" % seconds),)
        if status.code == code_pb2.UNAUTHENTICATED:
            headers += ((b"www-authenticate", (error.challenge or BEARER).encode("latin-1", "replace")),)
        return ErrorResponse(error.http or HTTP.get(status.code, 500), self._json(status), headers)

    def _json(self, status: status_pb2.Status) -> dict[str, Any]:
        """Proto3 JSON; a detail that the contracts don't know keeps its bytes, in base64."""
        return {
            "code": status.code,
            "message": status.message,
            "details": [self._detail(detail.type_url, detail.value) for detail in status.details],
        }

    def _detail(self, url: str, value: bytes) -> Any:
        found = self._registry.message(url.rpartition("/")[2])
        if found is not None:
            try:
                shown = message_to_json_value(found.type.from_binary(value), registry=self._registry)
            except (ValueError, TypeError, RecursionError):
                pass
            else:
                return {"@type": url, **shown} if isinstance(shown, dict) else {"@type": url, "value": shown}
        return {"@type": url, "value": base64.b64encode(value).decode()}


def _retry_seconds(status: status_pb2.Status) -> int | None:
    """What Retry-After says: whole seconds, at least one."""
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            delay = retry.retry_delay
            return max(1, int(delay.seconds + (delay.nanos > 0)))
    return RETRY_SECONDS if status.code == code_pb2.UNAVAILABLE else None
