"""The one mapping from what Laurel refuses to what a gRPC client sees."""

from collections.abc import Mapping
from types import MappingProxyType
from uuid import uuid4

import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from server import logs
from server.domain import errors

DOMAIN = "loyalty.laurel"

CODES: Mapping[type[errors.Refused], int] = MappingProxyType(
    {
        errors.InvalidArgument: code_pb2.INVALID_ARGUMENT,
        errors.NotFound: code_pb2.NOT_FOUND,
        errors.AlreadyExists: code_pb2.ALREADY_EXISTS,
        errors.FailedPrecondition: code_pb2.FAILED_PRECONDITION,
        errors.Aborted: code_pb2.ABORTED,
        errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
        errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
        errors.ResourceExhausted: code_pb2.RESOURCE_EXHAUSTED,
        errors.Unavailable: code_pb2.UNAVAILABLE,
        errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    }
)

# A status travels in HTTP/2 trailers, twice: percent-encoded text and base64 details.
# Clients drop what exceeds 8 KiB together, so that each part has its bound, in bytes.
MAX_MESSAGE = 1000
MAX_DETAILS = 3000
MAX_VALUE = 256

REALM = 'Bearer realm="laurel"'
# What of an ErrorInfo's metadata belongs into a challenge (RFC 6750, RFC 9470).
CHALLENGE = ("error", "acr_values", "max_age")


def status_of(error: BaseException, metadata: Mapping[str, str] | None = None) -> status_pb2.Status:
    """The status, with details, for any exception; what isn't a refusal is logged as an incident.

    ``metadata`` is added to a refusal's own.
    """
    if not isinstance(error, errors.Refused):
        return _fault(error)
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), None)
    if code is None:
        return _fault(error)
    status = _status(code, error.message, error.reason, {**error.metadata, **(metadata or {})})
    if isinstance(error, errors.Retryable) and error.retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_seconds * 10**9))
        _add(status, retry)
    if isinstance(error, errors.InvalidArgument) and error.violations:
        _add(status, _bad_request(error, MAX_DETAILS - status.ByteSize()))
    return status


def challenge(status: status_pb2.Status) -> str | None:
    """What `www-authenticate` says with this status; None for any but UNAUTHENTICATED."""
    if status.code != code_pb2.UNAUTHENTICATED:
        return None
    info = error_details_pb2.ErrorInfo()
    if not status.details or not status.details[0].Unpack(info):
        return REALM
    # No quotes to escape: every value is a word of ours or of the settings, which bar them.
    return ", ".join(
        [REALM, *(f'{name}="{info.metadata[name]}"' for name in CHALLENGE if name in info.metadata)]
    )


def unknown_method(method: str) -> status_pb2.Status:
    """The status for a method that no contract has."""
    return _status(
        code_pb2.UNIMPLEMENTED, "the server has no such method", "METHOD_UNKNOWN", {"method": method}
    )


def _fault(error: BaseException) -> status_pb2.Status:
    incident = str(uuid4())
    structlog.get_logger().error("incident", incident=incident, **logs.describe(error))
    return _status(code_pb2.INTERNAL, "internal error", "INTERNAL", {"incident": incident})


def _status(code: int, message: str, reason: str, metadata: Mapping[str, str]) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=_cut(message, MAX_MESSAGE))
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    for name, value in metadata.items():
        info.metadata[name] = _cut(value, MAX_VALUE)
    _add(status, info)
    return status


def _bad_request(error: errors.InvalidArgument, room: int) -> error_details_pb2.BadRequest:
    """As many violations as there is room for; the first always."""
    request = error_details_pb2.BadRequest()
    for violation in error.violations:
        request.field_violations.add(
            field=_cut(violation.field, MAX_VALUE), description=_cut(violation.description, MAX_VALUE)
        )
        if request.ByteSize() > room and len(request.field_violations) > 1:
            del request.field_violations[-1]
            break
    return request


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)


def _cut(text: str, limit: int) -> str:
    """At most ``limit`` bytes of UTF-8, whole characters, an ellipsis where something is missing."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode("utf-8", "ignore") + "…"
