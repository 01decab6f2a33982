"""Every way in which Laurel refuses.

``Refused`` is the root; its direct subclasses are the categories that
``server/rpc/errors.py`` maps to gRPC codes, one each. The reason is a name of
``ErrorReason`` in ``protos/loyalty/v1/error_reason.proto`` without its prefix;
every value that varies stands in ``metadata`` as text, never personal data.

    Refused
      InvalidArgument     one violation per field, each with the path to it
      NotFound
      AlreadyExists
      FailedPrecondition  the state forbids it
      Aborted             somebody else was first; read again and retry
      Unauthenticated
      PermissionDenied
      Retryable           carries ``retry_after_seconds``
        ResourceExhausted
        Unavailable
      DeadlineExceeded
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One mistake: ``field`` is its path in the request, such as ``lines[3].amount``."""

    field: str
    description: str


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """A request that Laurel understands and declines."""

    def __init__(self, reason: str, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: Mapping[str, str] = metadata or {}


class InvalidArgument(Refused):
    """The request is wrong whatever the state."""

    def __init__(
        self,
        violations: Sequence[Violation],
        reason: str = "INVALID_FIELD",
        message: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        text = message or "; ".join(f"{v.field}: {v.description}" for v in violations[:5])
        super().__init__(reason, text, metadata)
        self.violations = tuple(violations)


def invalid(field: str, description: str, reason: str = "INVALID_FIELD", **metadata: str) -> InvalidArgument:
    """The refusal of one field."""
    return InvalidArgument((Violation(field, description),), reason, metadata=metadata)


class NotFound(Refused):
    """No such thing in the caller's program, or not the caller's: the same answer."""


class AlreadyExists(Refused):
    """Somebody or something has it already."""


class FailedPrecondition(Refused):
    """The state forbids it; retrying alone won't help."""


class Aborted(Refused):
    """The caller acted on something stale."""


class Unauthenticated(Refused):
    """No valid credential."""


class PermissionDenied(Refused):
    """A valid credential that may not do this."""


class Retryable(Refused):
    """May be retried after ``retry_after_seconds``."""

    def __init__(
        self,
        reason: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(reason, message, metadata)
        self.retry_after_seconds = retry_after_seconds


class ResourceExhausted(Retryable):
    """Too much at once."""


class Unavailable(Retryable):
    """Not now; a write's outcome may be unknown until retried with its request_id."""


class DeadlineExceeded(Refused):
    """The caller's time is over."""
