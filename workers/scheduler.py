"""What does schedules: looks whose time has come, takes turns with the other workers, keeps the lease.

A turn is taken in the database, and so each period is done once however many look. Who has one says
every few seconds that it is alive; of a holder that doesn't any more, another takes the period over. What a
job does it does in transactions that find for themselves what is left to do: taken over, it goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import structlog

from server import logs
from server.domain.checkpoints import CheckpointError
from server.domain.errors import Refused
from server.domain.schedules import NOBODYS, again_at, following, period_at
from server.ending import ended
from server.store import programs as program_store
from server.store import schedules as store
from server.store.database import Database
from server.store.schedules import Turn, Wanted
from telemetry.metrics import Metrics
from workers.faults import told

SWEEP_SECONDS = 1.0
# How often new programs are looked for.
ENROL_SECONDS = 15.0
LEASE_SECONDS = 15.0
AT_ONCE = 2
NOWHERE = ZoneInfo("UTC")
OFF = timedelta(0)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Schedule:
    """``do`` it ``every`` so often for each program, or once for all of them; it says what it did.

    ``every``: OFF for never; a day for from midnight on by the program's clock. What ``do`` is told to do
    for a period it may be told again, if whoever was at it died or failed.
    """

    every: timedelta
    do: Callable[[Turn], Awaitable[str]]
    of_program: bool = True


class Scheduler:
    """Does those of ``schedules`` that nobody else is at. ``holder`` names this process and no other."""

    def __init__(
        self,
        database: Database,
        schedules: Mapping[str, Schedule],
        clock: Callable[[], datetime],
        holder: str,
        metrics: Metrics,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._database = database
        self._schedules = schedules
        self._clock = clock
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._runs = metrics.counter(
            "laurel.schedule.runs", "{run}", "Runs of schedules, by how they ended.", ("schedule", "outcome")
        )
        self._zones: Mapping[UUID, ZoneInfo] = {NOBODYS: NOWHERE}
        self._enrolled_at: float | None = None
        self._places = asyncio.Semaphore(AT_ONCE)
        self._at_work: dict[tuple[str, UUID], asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Look every second, until ``stop``."""
        while not self._stopping.is_set():
            try:
                await self.look()
            except (Refused, OSError, asyncpg.PostgresError) as error:
                log.warning("schedules_interrupted", **logs.describe(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._stopping.wait()

    async def stop(self, seconds: float) -> None:
        """Begin nothing more, and let what is under way finish for so long; others go on with the rest."""
        self._stopping.set()
        at_work = list(self._at_work.values())
        if at_work:
            _, late = await asyncio.wait(at_work, timeout=seconds)
            await ended(late)

    async def look(self) -> None:
        """Begin what is to be done now. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        if self._enrolled_at is None or loop.time() - self._enrolled_at >= ENROL_SECONDS:
            await self._enrol()
            self._enrolled_at = loop.time()
        async with self._database.connection() as connection:
            found = await store.ready(connection, self._schedules.keys(), self._clock())
        for key in found:
            if key not in self._at_work and key[1] in self._zones:
                task = asyncio.create_task(self._begin(*key), name=f"schedule-{key[0]}")
                self._at_work[key] = task
                task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: tuple[str, UUID], _: asyncio.Task[None]) -> None:
        del self._at_work[key]

    async def idle(self) -> None:
        """Wait until nothing is under way here."""
        while self._at_work:
            await asyncio.wait(list(self._at_work.values()))

    async def _enrol(self) -> None:
        async with self._database.connection() as connection:
            programs = await program_store.every(connection)
            self._zones = {NOBODYS: NOWHERE, **{p.program_id: p.zone for p in programs}}
            wanted = [
                Wanted(
                    name, program_id, schedule.every, self._period(schedule, program_id), not schedule.every
                )
                for name, schedule in self._schedules.items()
                for program_id in self._zones
                if schedule.of_program == (program_id != NOBODYS)
            ]
            await store.enrol(connection, wanted)

    def _period(self, schedule: Schedule, program_id: UUID) -> datetime:
        now = self._clock()
        return period_at(now, schedule.every, self._zones[program_id]) if schedule.every else now

    async def _begin(self, name: str, program_id: UUID) -> None:
        """Do it, unless somebody else came first."""
        schedule = self._schedules[name]
        async with self._places:
            try:
                turn = await self._take(name, program_id, schedule)
                if turn is not None and not self._stopping.is_set():
                    await self._do(turn, schedule)
                elif turn is not None:
                    await self._give_back(turn)
            except (Refused, OSError, asyncpg.PostgresError) as error:
                # What can't be noted is taken over when the lease is over.
                log.warning("schedule_interrupted", schedule=name, **logs.describe(error))

    async def _take(self, name: str, program_id: UUID, schedule: Schedule) -> Turn | None:
        period = self._period(schedule, program_id)
        next_at = following(period, schedule.every, self._zones[program_id])
        async with self._database.connection() as connection:
            return await store.take(
                connection, name, program_id, period, next_at, self._holder, self._lease_seconds
            )

    async def _do(self, turn: Turn, schedule: Schedule) -> None:
        doing = asyncio.ensure_future(schedule.do(turn))
        keeping = asyncio.create_task(self._keep(turn, doing))
        try:
            did = await doing
        except asyncio.CancelledError:
            if keeping.done():
                self._tell(turn, "lost")
                return
            doing.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await doing
            await self._give_back(turn)
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, the others go on, and the view tells
            await self._failed(turn, fault)
        else:
            await self._done(turn, did)
        finally:
            keeping.cancel()

    async def _keep(self, turn: Turn, doing: asyncio.Future[str]) -> None:
        """Say that we are alive; end the work if somebody else has taken it over."""
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            try:
                async with self._database.connection() as connection:
                    kept = await store.extend(connection, turn, self._lease_seconds)
            except (Refused, OSError, asyncpg.PostgresError):
                continue  # the work itself will notice, or there is a next time
            if not kept:
                doing.cancel()
                return

    async def _done(self, turn: Turn, did: str) -> None:
        async with self._database.connection() as connection:
            ours = await store.done(connection, turn, did)
        self._tell(turn, "done" if ours else "lost", did=did)

    async def _failed(self, turn: Turn, fault: Exception) -> None:
        self._tell(turn, "failed", **logs.describe(fault))
        async with self._database.connection() as connection:
            await store.failed(connection, turn, why(fault), again_at(self._clock(), turn.attempts))

    async def _give_back(self, turn: Turn) -> None:
        self._tell(turn, "given_back")
        with suppress(Refused, OSError, asyncpg.PostgresError):
            async with self._database.connection() as connection:
                await store.give_back(connection, turn)

    def _tell(self, turn: Turn, outcome: str, **more: object) -> None:
        self._runs.add(turn.name, outcome)
        tell = log.error if outcome == "failed" else log.debug
        tell(f"schedule_{outcome}", schedule=turn.name, program_id=str(turn.program_id), **more)


def why(fault: Exception) -> str:
    """Why a run failed, without anything personal; what is wrong with the file of checkpoints in words."""
    return str(fault) if isinstance(fault, CheckpointError) else told(fault)
