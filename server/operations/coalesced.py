"""Reads that wait at the same moment become one query, as writes become one batch.

A lone read starts at once. While a query is under way the others gather, and the next query
answers all of them, once no more keep coming: a query costs more in waking up for its answer
than in reading. Those who have waited for long don't wait for a slow query, but start another
beside it. No read ever joins a query that has begun, so each sees whatever was committed before
it was asked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

from server.domain.errors import ResourceExhausted
from server.operations.gathering import gathered
from server.store.database import Connection, Database
from telemetry.traces import Trace, current

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

MOST_AT_ONCE = 256
MOST_WAITING = 4096
LANES = 4
# Several times what a query takes. With a second query always under way instead, a read costs a
# fifth more CPU here and twice as much in the database.
PATIENCE_SECONDS = 0.010
RETRY_AFTER_SECONDS = 0.5


class _Waiting(NamedTuple, Generic[Key, Value]):
    key: Key
    answer: "asyncio.Future[Value | None]"
    trace: Trace | None


class Gathered(Generic[Key, Value]):
    """Looks things up by key; ``find`` gets several keys and finds those that exist."""

    def __init__(self, find: Callable[[Collection[Key]], Awaitable[Mapping[Key, Value]]]) -> None:
        self._find = find
        self._waiting: list[_Waiting[Key, Value]] = []
        self._lanes: set[asyncio.Task[None] | None] = set()
        self._patience: asyncio.TimerHandle | None = None

    async def get(self, key: Key) -> Value | None:
        """What the key leads to, None if nothing. Raises Unavailable, and OVERLOADED when too many wait."""
        if len(self._waiting) >= MOST_WAITING:
            raise ResourceExhausted("OVERLOADED", "too many reads are waiting", None, RETRY_AFTER_SECONDS)
        answer: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(key, answer, current.get()))
        # If others wait already, it is seen to that a query takes them all.
        if len(self._waiting) == 1:
            if self._lanes:
                self._be_patient()
            else:
                self._start()
        return await answer

    def _be_patient(self) -> None:
        self._patience = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._hurry)

    def _hurry(self) -> None:
        """Start another query beside those that take so long."""
        if self._waiting and len(self._lanes) < LANES:
            self._start()

    def _start(self) -> None:
        self._lanes.add(asyncio.create_task(self._lane()))

    async def _lane(self) -> None:
        """One query after the other, as long as somebody waits."""
        try:
            while self._waiting:
                if self._patience is not None:
                    self._patience.cancel()
                await gathered(self._waiting, MOST_AT_ONCE, await self._answer())
        finally:
            # At once, before anybody wakes up to its last answers and asks again: it would be waited for.
            self._lanes.discard(asyncio.current_task())

    async def _answer(self) -> int:
        """Answer those who wait; how many they were."""
        # Those who gave up meanwhile need no answer.
        batch = [w for w in self._waiting[:MOST_AT_ONCE] if not w.answer.done()]
        del self._waiting[:MOST_AT_ONCE]
        if self._waiting:
            self._be_patient()
        if not batch:
            return 0
        # The query belongs to the first of its traces that is sampled.
        current.set(next((w.trace for w in batch if w.trace is not None and w.trace.span is not None), None))
        try:
            found = await self._find({w.key for w in batch})
        except Exception as fault:  # noqa: BLE001 - it is the answer to each of them
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(fault)
        else:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_result(found.get(waiting.key))
        return len(batch)


class Coalesced(Gathered[Key, Value]):
    """The same in PostgreSQL: ``read`` gets a connection too."""

    def __init__(
        self,
        database: Database,
        read: Callable[[Connection, Collection[Key]], Awaitable[Mapping[Key, Value]]],
    ) -> None:
        self._database = database
        self._read = read
        super().__init__(self._connected)

    async def _connected(self, keys: Collection[Key]) -> Mapping[Key, Value]:
        async with self._database.connection() as connection:
            return await self._read(connection, keys)
