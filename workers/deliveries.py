"""Sending deliveries: take what is due, send it outside any transaction, write down what came of it.

However many workers do this at once, each delivery is taken by one at a time. A worker that is
killed loses its leases after some seconds, and others take over what it was at; one that was
frozen and comes back later finds that its results count no more. Each target has a few places of
those that a worker has, so a slow one holds up itself alone.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import structlog

from server import logs
from server.domain.deliveries import (
    SENT,
    WAITS,
    Delivery,
    DeliveryStatus,
    NotSent,
    Permanent,
    Postponed,
    Temporary,
    judge,
)
from server.domain.errors import Refused, Unavailable
from server.ending import ended
from server.store import deliveries as store
from server.store.database import Database
from server.store.deliveries import Attempt
from telemetry.metrics import Metrics
from workers.means import Send

# The database is away; what was to be done is done later.
AWAY = (Refused, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
AGAIN_SECONDS = 0.5
AWAY_SECONDS = 2.0
# Between two looks at a busy queue: so that places which become free are filled several at a time.
GATHER_SECONDS = 0.02
# A target counts as slow for so long.
SLOW_SECONDS = 60.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How deliveries are sent by one worker. A lease must outlast the sending and the writing down.

    ``at_once`` are under way at most, ``per_target`` of them to one target, and one to a target that took
    longer than ``slow_seconds`` of late. ``poll_seconds``: how often to look for what nobody gave a hint
    of. ``waits``: see ``judge``.
    """

    at_once: int = 128
    per_target: int = 4
    slow_seconds: float = 2.0
    send_seconds: float = 12.0
    lease_seconds: float = 20.0
    poll_seconds: float = 1.0
    waits: tuple[float, ...] = WAITS


class Deliveries:
    """One worker's part in the sending: ``run`` it, and ``wake`` it if there is something new."""

    def __init__(
        self,
        database: Database,
        channels: Mapping[str, Send],
        *,
        pace: Pace | None = None,
        metrics: Metrics | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._channels = channels
        self._pace = pace or Pace()
        self._chance = chance
        self._awake = asyncio.Event()
        self._under_way: dict[asyncio.Task[None], Delivery] = {}
        self._recorder = _Recorder(database)
        # Targets that asked to be left alone, and until when on the loop's clock.
        self._resting: dict[str, float] = {}
        # Those that took long, and until when they count as slow.
        self._slow: dict[str, float] = {}
        self._taking = self._stopping = False
        self._at_rest, self._over = asyncio.Event(), asyncio.Event()
        self._attempts = (metrics or Metrics()).counter(
            "laurel.deliveries.attempts",
            "{attempt}",
            "Attempts to send deliveries, by channel and how they ended.",
            ("channel", "outcome"),
        )

    def wake(self) -> None:
        """Look for something to send now, rather than when it is time to."""
        self._awake.set()

    async def run(self) -> None:
        """Send what is due, until ``stop`` or until cancelled; what is under way then is cut off."""
        self._taking = True
        try:
            while not self._stopping:
                if await self._take():
                    await asyncio.sleep(GATHER_SECONDS)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.poll_seconds):
                        await self._awake.wait()
                self._awake.clear()
            self._at_rest.set()
            await self._over.wait()
        finally:
            self._at_rest.set()
            await ended(self._under_way)

    async def stop(self, seconds: float) -> None:
        """Take no more, and let what is under way finish for so long; ``run`` returns then."""
        self._stopping = True
        self.wake()
        if self._taking:
            await self._at_rest.wait()
        if self._under_way:
            await asyncio.wait(list(self._under_way), timeout=seconds)
        self._over.set()

    async def _take(self) -> bool:
        """Begin with what is due and has a place; whether there was something."""
        pace = self._pace
        free = pace.at_once - len(self._under_way)
        if free <= 0:
            return False
        until = asyncio.get_running_loop().time() + pace.lease_seconds
        try:
            async with self._database.connection() as connection:
                taken = await store.claim(
                    connection,
                    list(self._channels),
                    self._busy(),
                    at_once=free,
                    per_target=pace.per_target,
                    lease_seconds=pace.lease_seconds,
                )
        except AWAY as error:
            log.warning("deliveries_interrupted", error=type(error).__name__)
            return False
        for delivery in taken:
            task = asyncio.create_task(self._deliver(delivery, until))
            self._under_way[task] = delivery
            task.add_done_callback(self._ended)
        return bool(taken)

    def _busy(self) -> Counter[str]:
        """The places of each target that are taken; of one that rests all, of a slow one all but one."""
        now = asyncio.get_running_loop().time()
        self._resting = {target: until for target, until in self._resting.items() if until > now}
        self._slow = {target: until for target, until in self._slow.items() if until > now}
        busy = Counter(delivery.target for delivery in self._under_way.values())
        busy.update(dict.fromkeys(self._resting, self._pace.per_target))
        busy.update(dict.fromkeys(self._slow, self._pace.per_target - 1))
        return busy

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._under_way[task]
        self._awake.set()
        if not task.cancelled() and (fault := task.exception()):
            log.error("delivery_failed", **logs.describe(fault))

    async def _deliver(self, delivery: Delivery, until: float) -> None:
        loop = asyncio.get_running_loop()
        began, at = loop.time(), datetime.now(UTC)
        # A process that was stopped since it took this may have lost it to another one.
        if began > until - self._pace.send_seconds:
            return
        answered, failure = await self._send(delivery)
        ended = loop.time()
        if isinstance(failure, Temporary) and failure.retry_after:
            self._resting[delivery.target] = ended + failure.retry_after
        if ended - began > self._pace.slow_seconds:
            self._slow[delivery.target] = ended + SLOW_SECONDS
        else:
            self._slow.pop(delivery.target, None)
        outcome = failure.outcome if failure else SENT
        self._attempts.add(delivery.channel, outcome)
        verdict = judge(delivery.attempts, failure, self._chance(), self._pace.waits, delivery.failures)
        if verdict.status is DeliveryStatus.DEAD:
            log.warning("delivery_dead", delivery_id=str(delivery.delivery_id), channel=delivery.channel)
        attempt = Attempt(
            delivery=delivery,
            attempted_at=at,
            milliseconds=round((ended - began) * 1000),
            outcome=outcome,
            response=failure.response if failure else answered,
            error=failure.error if failure else "",
            verdict=verdict,
        )
        await self._recorder.record(attempt, until)

    async def _send(self, delivery: Delivery) -> tuple[str, NotSent | None]:
        """What the receiver answered, and why it wasn't delivered, if so."""
        if delivery.attempts > len(self._pace.waits) + 1:
            return "", Permanent("its workers died while they sent it")
        try:
            async with asyncio.timeout(self._pace.send_seconds):
                return await self._channels[delivery.channel](delivery) or "", None
        except NotSent as failure:
            return "", failure
        except TimeoutError:
            return "", Temporary("took too long")
        except Unavailable:
            return "", Postponed("the database is away", AWAY_SECONDS)
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is that of one delivery
            log.error("delivery_broken", channel=delivery.channel, **logs.describe(fault))
            return "", Temporary(type(fault).__name__)


class _Recorder:
    """Writes attempts down, all that wait at once: while one statement is under way the next gather."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[Attempt, asyncio.Future[None], float]] = []
        self._writing: asyncio.Task[None] | None = None

    async def record(self, attempt: Attempt, until: float) -> None:
        """Return when it is written down, or its lease is over and it is another's to send."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((attempt, done, until))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                async with self._database.connection() as connection:
                    await store.record(connection, [attempt for attempt, _, _ in batch])
            except AWAY as error:
                log.warning("deliveries_unrecorded", attempts=len(batch), error=type(error).__name__)
                await asyncio.sleep(AGAIN_SECONDS)
                now = asyncio.get_running_loop().time()
                self._waiting += [waiting for waiting in batch if waiting[2] > now]
                batch = [waiting for waiting in batch if waiting[2] <= now]
            except Exception as fault:  # noqa: BLE001 - it is told of each; their leases run out
                for _, done, _ in batch:
                    if not done.done():
                        done.set_exception(fault)
            for _, done, _ in batch:
                if not done.done():
                    done.set_result(None)
        self._writing = None
