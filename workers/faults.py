"""What went wrong with a handler: whether it passes by itself, and what may be written down of it."""

import asyncpg
from redis import exceptions as redis

from server.domain.errors import DeadlineExceeded, Refused, Retryable
from server.store.database import COLLISION, TOO_LONG, UNREACHABLE, Connection


class Hung(Exception):  # noqa: N818 - the word for it
    """A handler took longer than its holder may hope to keep the lease."""


# Redis is away, starting, full or has become a replica.
REDIS_AWAY = (redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError, redis.ReadOnlyError)
PASSING = (Retryable, DeadlineExceeded, Hung, *REDIS_AWAY, *UNREACHABLE, *COLLISION, *TOO_LONG)


class Failed(Exception):  # noqa: N818 - the fault is what it holds
    """A handler failed. ``passes``: it may go well another time, with the same events."""

    def __init__(self, fault: Exception, passes: bool) -> None:
        super().__init__()
        self.fault = fault
        self.passes = passes


def judged(fault: Exception, connection: Connection) -> Failed:
    """The fault of a handler, and whether it passes."""
    if connection.is_closed():
        return Failed(fault, True)
    # asyncpg raises this for a connection that is gone, and else for what is wrong with us:
    # a value that doesn't fit its column won't fit another time.
    misuse = isinstance(fault, asyncpg.InterfaceError)
    return Failed(fault, isinstance(fault, PASSING) and not misuse)


def failure(fault: Exception) -> Failed:
    """The fault of a transaction in which a handler took part.

    What the handler raised is judged already. A commit that is refused is the handler's fault too; an
    outage is nobody's, and comes as Unavailable.
    """
    return fault if isinstance(fault, Failed) else Failed(fault, not isinstance(fault, asyncpg.PostgresError))


def told(fault: BaseException) -> str:
    """What kind of fault it is, without anything it may quote."""
    name = type(fault).__qualname__
    if isinstance(fault, Refused):
        return f"{name} {fault.reason}"
    if isinstance(fault, asyncpg.PostgresError) and fault.sqlstate:
        return f"{name} {fault.sqlstate}"
    return name
