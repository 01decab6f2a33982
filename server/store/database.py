"""The pool of connections, and what a broken one means to a caller."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg

from server.domain.errors import Unavailable
from server.store.epochs import begin_if_restored
from server.store.watch import statements
from telemetry.traces import current

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

RETRY_AFTER_SECONDS = 1.0
ACQUIRE_TIMEOUT_SECONDS = 2.0
# A statement's plan is kept with it. One made for a table that was nearly empty reads the whole table, and
# PostgreSQL makes another only when it has analyzed it, in a minute or never.
PLANS_LAST_SECONDS = 10

# For what reads much and changes little: as long as it takes, in the transaction in which it stands. Not
# every PostgreSQL has all of these.
UNHURRIED = """SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"""

# The connection is gone, the server is starting, stopping or full, or its disk is: nothing
# that the request itself is to blame for.
UNREACHABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # Of a connection that PostgreSQL ended amid an answer, before the socket is seen closed.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.DiskFullError,
)
# Two transactions met; the same work succeeds when run again.
COLLISION = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
# Somebody held a lock, or the database was busy, for longer than anybody is let wait.
TOO_LONG = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)


class Undone(Unavailable):
    """The work took too long, and nothing of it was done. Other work may go on."""


class Collided(Undone):
    """It met another transaction, and may be done again at once."""


class Blocked(Undone):
    """Somebody else kept a lock for longer than it was to wait."""


def unavailable(why: str = "the database can't be reached") -> Unavailable:
    """The refusal when the database can't be reached, or can't write."""
    return Unavailable(
        "STORAGE_UNAVAILABLE",
        f"{why}; retry with the same request_id",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def overlong(kind: type[Undone]) -> Undone:
    """The refusal of what took too long, for that kind of reason."""
    return kind(
        "CONTENTION",
        "others have been changing the same for too long; nothing was done, try again",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


class Database:
    """Connections to PostgreSQL, made when first needed and again after they broke.

    ``waiting`` counts those who wait for one. ``committed`` is called after each transaction that was
    committed, and must neither fail nor take long.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.waiting = 0
        self.committed: Callable[[], None] = _nobody

    @classmethod
    async def open(cls, url: str, connections: int = 6, **session: str) -> "Database":
        """A pool of at most ``connections``; raises what asyncpg raises if the first can't be made.

        ``session``: settings of PostgreSQL's that are to be others than usual.
        """
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=connections,
            command_timeout=30,
            timeout=5,
            max_cached_statement_lifetime=PLANS_LAST_SECONDS,
            init=begin_if_restored,
            reset=_keep_session,
            server_settings={
                "application_name": "laurel",
                # A session that hangs would hold back every reader of the event log.
                "idle_in_transaction_session_timeout": "15s",
                "statement_timeout": "30s",
                "lock_timeout": "20s",
                "jit": "off",
                **session,
            },
        )
        return cls(pool)

    def count(self) -> tuple[int, int, int]:
        """How many connections are in use, idle, and may be at most."""
        idle = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle, self._pool.get_max_size()

    async def close(self) -> None:
        """Wait for what is under way, then close every connection."""
        await self._pool.close()

    def terminate(self) -> None:
        """Close every connection at once."""
        self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection.

        Raises Unavailable if there is none or if it breaks meanwhile, Undone if its work takes too long,
        Collided if the work met that of another transaction, Blocked if it waited too long for one.
        """
        try:
            self.waiting += 1
            try:
                connection = await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_SECONDS)
            finally:
                self.waiting -= 1
            try:
                trace = current.get()
                if trace is None or trace.span is None:
                    yield connection
                else:
                    with statements(connection, trace):
                        yield connection
            finally:
                await self._pool.release(connection)
        except asyncpg.DiskFullError:
            raise unavailable("the database's disk is full") from None
        except UNREACHABLE:
            raise unavailable() from None
        except COLLISION:
            raise Collided(
                "CONTENTION",
                "others change the same at this moment; nothing was done, try again",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from None
        except TOO_LONG as error:
            raise overlong(Blocked if isinstance(error, asyncpg.LockNotAvailableError) else Undone) from None

    @asynccontextmanager
    async def transaction(self, first: str = "") -> AsyncIterator[Connection]:
        """A connection in a READ COMMITTED transaction, committed on a normal exit.

        ``first`` is a statement without parameters that travels along with BEGIN.
        """
        async with self.connection() as connection:
            try:
                await connection.execute(f"BEGIN; {first}")
                yield connection
            except BaseException:
                # A connection that broke has nothing to roll back, and says so.
                with suppress(*UNREACHABLE):
                    await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")
            self.committed()


def _nobody() -> None:
    """Nobody wants to know of commits."""


async def _keep_session(connection: asyncpg.Connection) -> None:
    """Hand the connection on as it is; asyncpg has rolled back what was left open."""
    # No session here sets, listens or locks beyond its transaction. Resetting all that
    # would be a round trip, as much again as a small read costs.
