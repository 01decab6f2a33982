"""The relay: brings what the event log holds to every consumer, each event in effect exactly once.

A consumer is worked for by whoever holds its lease. What the handler writes and the consumer's new
position are one transaction, which is refused when somebody else has taken the lease meanwhile. A
batch that fails is made smaller; an event that fails by itself becomes a dead letter in the transaction
that moves past it. What passes, such as an outage, is tried again later, the same events first.

Wake-ups make it fast, and nothing depends on one arriving: every second it looks by itself.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from uuid import UUID

import structlog

from server import logs
from server.ending import ended
from server.store import dead_letters, subscriptions
from server.store import log as event_log
from server.store.database import Connection, Database
from server.store.log import LoggedEvent, Stretch
from server.store.subscriptions import Fenced, Lease
from workers.faults import Failed, Hung, failure, judged, told
from workers.subscriptions import Subscription
from workers.watch import Watch

SWEEP_SECONDS = 1.0
# Between two looks, so that a stream of wake-ups doesn't become one of queries.
REST_SECONDS = 0.02
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0
# A handler that takes longer for one event is tried so often before the event counts as dead.
HANGS = 3
# A lease is needed for nothing that a crash could take away.
UNFLUSHED = "SET LOCAL synchronous_commit = off"

log = structlog.get_logger()


class Relay:
    """Works for the consumers of ``consumers`` that nobody else is working for.

    ``holder`` names this process and no other. ``lease_seconds``: somebody else may take over
    from a holder that has done nothing for so long; a handler has most of it for one batch.
    ``at_once``: so many transactions of handlers at most are under way, each on a connection of its own.
    ``handled`` is told, after the commit, which consumer has taken which events.
    """

    def __init__(
        self,
        database: Database,
        consumers: Mapping[str, Subscription],
        holder: str,
        new_id: Callable[[], UUID],
        watch: Watch,
        lease_seconds: float = 10.0,
        at_once: int = 4,
        handled: Callable[[str, Sequence[LoggedEvent]], None] | None = None,
    ) -> None:
        self._database = database
        self._consumers = consumers
        self._holder = holder
        self._new_id = new_id
        self._tell = handled or (lambda _consumer, _events: None)
        self._watch = watch
        self._lease_seconds = lease_seconds
        self._patience = lease_seconds * 0.6
        # What waits longer than that for a lock or an answer is of no use to us, and begins again.
        bound = f"{lease_seconds * 400:.0f}ms"
        self._bounded = f"SET LOCAL statement_timeout = '{bound}'; SET LOCAL lock_timeout = '{bound}'"
        self._woken = asyncio.Event()
        self._stopping = False
        # Why it could not look the last time, "" if it could.
        self.trouble = ""
        self._places = asyncio.Semaphore(at_once)
        self._at_work: dict[str, asyncio.Task[None]] = {}
        # How many events are handed over at once, where it is fewer than a consumer allows.
        self._fewer: dict[str, int] = {}

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    async def run(self) -> None:
        """Look for work and have it done, until ``stop``."""
        enrolled = False
        while not self._stopping:
            self._woken.clear()
            try:
                if not enrolled:
                    await self._enrol()
                    enrolled = True
                await self._look()
                self.trouble = ""
            except Exception as fault:  # noqa: BLE001 - whatever it is, looking must go on
                self.trouble = told(fault)
                log.warning("relay_interrupted", **logs.describe(fault))
                await asyncio.sleep(SWEEP_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._woken.wait()
            await asyncio.sleep(REST_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Begin nothing more, and let what is under way finish for so long; the rest is undone."""
        self._stopping = True
        self.wake()
        at_work = list(self._at_work.values())
        if at_work:
            _, late = await asyncio.wait(at_work, timeout=seconds)
            await ended(late)

    async def _enrol(self) -> None:
        chosen: dict[bool, list[str]] = {True: [], False: []}
        for name, subscription in self._consumers.items():
            chosen[subscription.from_beginning].append(name)
        async with self._database.transaction(self._bounded) as connection:
            await subscriptions.enrol(connection, chosen[True], chosen[False])

    async def _look(self) -> None:
        free = self._consumers.keys() - self._at_work.keys()
        if not free:
            return
        async with self._database.connection() as connection:
            found = await subscriptions.with_work(connection, free)
        for consumer in found if not self._stopping else ():
            task = asyncio.create_task(self._serve(consumer), name=f"relay-{consumer}")
            self._at_work[consumer] = task
            task.add_done_callback(partial(self._served, consumer))

    def _served(self, consumer: str, _: asyncio.Task[None]) -> None:
        # Whoever was told of more work meanwhile found the lease taken, so we look ourselves.
        del self._at_work[consumer]
        self.wake()

    async def _serve(self, consumer: str) -> None:
        """Work for a consumer until there is nothing left, or something stands in the way."""
        try:
            async with self._places, self._database.transaction(UNFLUSHED) as connection:
                lease = await subscriptions.take(connection, consumer, self._holder, self._lease_seconds)
            if lease is not None:
                await self._drain(lease)
        except Exception as fault:  # noqa: BLE001 - the other consumers go on; the lease runs out
            log.warning("relay_interrupted", consumer=consumer, **logs.describe(fault))

    async def _drain(self, lease: Lease) -> None:
        left: Lease | None = lease
        try:
            while left is not None and not self._stopping:
                lease = left
                async with self._places:
                    left = await (self._replay(lease) if lease.replays else self._step(lease))
        except Fenced:
            self._watch.failed(lease.consumer, "fenced")
            log.warning("relay_fenced", consumer=lease.consumer)
        except Exception as fault:  # noqa: BLE001 - whatever it is, the consumer shows it and waits
            await self._postpone(lease, fault.fault if isinstance(fault, Failed) else fault)
        else:
            if left is not None:
                async with self._database.transaction(UNFLUSHED) as connection:
                    await subscriptions.give_back(connection, left)

    async def _postpone(self, lease: Lease, fault: Exception) -> None:
        """Try again later, longer after each failure in a row. If that can't be noted, the lease runs out."""
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**lease.attempts)
        pause *= random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._watch.failed(lease.consumer, "passing")
        log.warning("relay_postponed", consumer=lease.consumer, pause=round(pause, 3), **logs.describe(fault))
        async with self._database.transaction(self._bounded) as connection:
            await subscriptions.failed(connection, lease, told(fault), pause)

    async def _step(self, lease: Lease) -> Lease | None:
        """A batch in one transaction. The lease as it is then; None if all is done and it was given back.

        Raises Fenced, and Failed for what passes.
        """
        most = self._fewer.get(lease.consumer, self._consumers[lease.consumer].rows)
        began = time.perf_counter()
        stretch = Stretch([], lease.place, False)
        try:
            async with self._database.transaction(self._bounded) as connection:
                stretch = await self._next(connection, lease, most)
                await self._handle(connection, lease.consumer, stretch.events)
                seconds = self._lease_seconds if stretch.more else 0
                moved = await subscriptions.move(connection, lease, stretch.end, seconds)
        except Fenced:
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it was, it ends with the event that caused it
            return await self._failed(lease, stretch.events, failure(fault))
        self._tell(lease.consumer, stretch.events)
        self._grow(lease.consumer, most)
        self._watch.handled(lease.consumer, len(stretch.events), time.perf_counter() - began)
        return moved if stretch.more else None

    async def _next(self, connection: Connection, lease: Lease, most: int) -> Stretch:
        wanted = self._consumers[lease.consumer]
        stretch = await event_log.read(connection, lease.place, wanted.event_types, wanted.rows)
        if len(stretch.events) > most:
            events = stretch.events[:most]
            return Stretch(events, events[-1].place, True)
        return stretch

    async def _handle(self, connection: Connection, consumer: str, events: Sequence[LoggedEvent]) -> None:
        """Raises Failed."""
        if not events:
            return
        limit = asyncio.timeout(self._patience)
        try:
            async with limit:
                await self._consumers[consumer].handle(connection, events)
        except Exception as fault:
            raise judged(Hung() if limit.expired() else fault, connection) from fault

    async def _failed(self, lease: Lease, events: Sequence[LoggedEvent], failed: Failed) -> Lease:
        """What becomes of a batch that failed: it is made smaller, buried, or tried again later (Failed)."""
        hung = isinstance(failed.fault, Hung)
        if len(events) > 1:
            self._fewer[lease.consumer] = len(events) // 2
            if hung or not failed.passes:
                return lease
        elif events and (not failed.passes or (hung and lease.attempts + 1 >= HANGS)):
            return await self._bury(lease, events[0], failed.fault)
        raise failed

    async def _bury(self, lease: Lease, event: LoggedEvent, fault: Exception) -> Lease:
        self._watch.failed(lease.consumer, "dead")
        log.error("event_dead", consumer=lease.consumer, event_id=str(event.event_id), **logs.describe(fault))
        async with self._database.transaction(self._bounded) as connection:
            await dead_letters.bury(connection, self._new_id(), lease.consumer, event, told(fault))
            return await subscriptions.move(connection, lease, event.place, self._lease_seconds)

    async def _replay(self, lease: Lease) -> Lease:
        """Hand over the next dead letter that somebody wants replayed.

        Raises Fenced, and Failed for what passes.
        """
        dead_letter_id = None
        try:
            async with self._database.transaction(self._bounded) as connection:
                found = await dead_letters.next_replay(connection, lease.consumer)
                if found is None:
                    return lease._replace(replays=False)
                dead_letter_id, place = found
                event = await event_log.at(connection, place)
                assert event is not None, "the log forgets nothing"
                await self._handle(connection, lease.consumer, [event])
                await dead_letters.replayed(connection, dead_letter_id)
                return await subscriptions.move(connection, lease, lease.place, self._lease_seconds)
        except Fenced:
            raise
        except Exception as fault:
            failed = failure(fault)
            if dead_letter_id is None or (failed.passes and not isinstance(failed.fault, Hung)):
                raise failed from fault
            self._watch.failed(lease.consumer, "dead")
            log.error("replay_failed", consumer=lease.consumer, **logs.describe(failed.fault))
            async with self._database.transaction(self._bounded) as connection:
                await dead_letters.died_again(connection, dead_letter_id, told(failed.fault))
                return await subscriptions.move(connection, lease, lease.place, self._lease_seconds)

    def _grow(self, consumer: str, most: int) -> None:
        if consumer in self._fewer:
            self._fewer[consumer] = most * 2
            if most * 2 >= self._consumers[consumer].rows:
                del self._fewer[consumer]
