"""Schedulers beside each other against a real database: each period is done, once."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from server.domain.errors import Unavailable
from server.domain.program import Program
from server.domain.schedules import DAY, NOBODYS, Outcome, Standing
from server.store import schedules as store
from server.store.database import Database
from server.store.schedules import Turn
from telemetry.metrics import Metrics
from tests.support.programs import new_program
from workers.scheduler import OFF, Schedule, Scheduler

MINUTE = timedelta(minutes=1)
NOON = datetime(2026, 11, 24, 12, 0, 20, tzinfo=UTC)


class House:
    """Schedulers that share a database, a clock and a job, which keeps a list of what it did."""

    def __init__(self, database: Database, program: Program) -> None:
        self.database = database
        self.program = program
        self.name = f"job-{uuid4().hex[:8]}"
        self.now = NOON
        self.every = MINUTE
        self.of_program = True
        self.done: list[Turn] = []
        self.metrics = Metrics()

    async def job(self, turn: Turn) -> str:
        """Done at once."""
        if turn.program_id in (self.program.program_id, NOBODYS):
            self.done.append(turn)
        return "one"

    def scheduler(
        self, job: Callable[[Turn], Awaitable[str]] | None = None, holder: str = "ann", lease: float = 30.0
    ) -> Scheduler:
        """One of another process, with metrics of its own."""
        self.metrics = Metrics()
        schedule = Schedule(self.every, job or self.job, self.of_program)
        return Scheduler(self.database, {self.name: schedule}, lambda: self.now, holder, self.metrics, lease)

    async def look(self, *schedulers: Scheduler) -> None:
        """All look at once; until they are through."""
        await asyncio.gather(*(scheduler.look() for scheduler in schedulers))
        await asyncio.gather(*(scheduler.idle() for scheduler in schedulers))

    async def standing(self) -> Standing:
        async with self.database.connection() as connection:
            found = await store.standings(connection, self.program.program_id)
        [own] = [standing for standing in found if standing.name == self.name]
        return own


@pytest.fixture
async def house(database: Database) -> House:
    return House(database, await new_program(database))


async def test_each_period_is_done_once_however_many_look(house: House) -> None:
    schedulers = [house.scheduler(holder=name) for name in ("ann", "ben", "cem")]
    for _ in range(4):
        for _ in range(3):
            await house.look(*schedulers)
        house.now += MINUTE
    start = NOON.replace(second=0)
    assert [turn.period for turn in house.done] == [start + n * MINUTE for n in range(4)]
    assert [turn.since for turn in house.done] == [None, *(start + n * MINUTE for n in range(3))]
    standing = await house.standing()
    assert (standing.outcome, standing.did, standing.error) == (Outcome.DONE, "one", "")
    assert standing.next_at == start + 4 * MINUTE
    assert standing.holder in ("ann", "ben", "cem")
    assert not standing.alive
    assert standing.late(house.now) == timedelta(0)
    assert standing.late(house.now + timedelta(hours=1)) > timedelta(minutes=50)


async def test_every_program_has_its_own_and_its_own_midnight(house: House) -> None:
    other = await new_program(house.database, time_zone="America/New_York")
    begun: Counter[tuple[UUID, datetime]] = Counter()

    async def job(turn: Turn) -> str:
        begun[turn.program_id, turn.period] += 1
        return ""

    house.every = DAY
    scheduler = house.scheduler(job)
    for _ in range(25):
        await house.look(scheduler)
        house.now += timedelta(hours=1)
    own = house.program.program_id
    assert {key: n for key, n in begun.items() if key[0] in (own, other.program_id)} == {
        (own, datetime(2026, 11, 23, 18, 30, tzinfo=UTC)): 1,
        (own, datetime(2026, 11, 24, 18, 30, tzinfo=UTC)): 1,
        (other.program_id, datetime(2026, 11, 24, 5, 0, tzinfo=UTC)): 1,
        (other.program_id, datetime(2026, 11, 25, 5, 0, tzinfo=UTC)): 1,
    }


async def test_what_is_of_the_installation_is_done_once_for_all(house: House) -> None:
    await new_program(house.database)
    house.of_program = False
    await house.look(house.scheduler(), house.scheduler(holder="ben"))
    assert [turn.program_id for turn in house.done] == [NOBODYS]
    assert (await house.standing()).program == ""


async def test_what_whoever_died_had_begun_is_done_by_another(house: House) -> None:
    scheduler = house.scheduler()
    await house.look(scheduler)
    house.now += MINUTE
    async with house.database.connection() as connection:
        period = house.now.replace(second=0)
        place = (house.name, house.program.program_id, period, period + MINUTE)
        # A holder that is dead as soon as it began: its lease is over.
        dead = await store.take(connection, *place, "dead", 0.0)
        assert dead is not None
        assert (await house.standing()).outcome is Outcome.RUNNING
        await house.look(scheduler)
        assert not await store.done(connection, dead, "too late")
        assert not await store.extend(connection, dead, 30.0)
        assert not await store.failed(connection, dead, "too late", house.now)
    assert [turn.attempts for turn in house.done] == [1, 2]
    assert house.done[1].period == dead.period
    assert (await house.standing()).did == "one"


async def test_while_a_holder_lives_nobody_else_begins_not_even_the_next_period(house: House) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(turn: Turn) -> str:
        if turn.program_id == house.program.program_id:
            begun.set()
            await go.wait()
        return "slowly"

    slowly, other = house.scheduler(slow, "slow"), house.scheduler()
    await slowly.look()
    async with asyncio.timeout(30):
        await begun.wait()
    for _ in range(3):
        house.now += MINUTE
        await house.look(other)
    assert house.done == []
    assert (await house.standing()).alive
    go.set()
    await slowly.idle()
    await house.look(other)
    assert [turn.period for turn in house.done] == [house.now.replace(second=0)]
    assert house.done[0].since == NOON.replace(second=0)


async def test_a_holder_that_slept_past_its_lease_stops_when_it_hears_of_it(house: House) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def endless(turn: Turn) -> str:
        if turn.program_id != house.program.program_id:
            return ""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return ""

    scheduler = house.scheduler(endless, "sleeper", lease=0.3)
    await scheduler.look()
    async with asyncio.timeout(30):
        await begun.wait()
        async with house.database.connection() as connection:
            await connection.execute(
                "UPDATE schedule SET token = token + 1, holder = 'ben' WHERE name = $1", house.name
            )
        await stopped.wait()
        await scheduler.idle()
    standing = await house.standing()
    assert (standing.outcome, standing.holder) == (Outcome.RUNNING, "ben")


async def test_what_failed_is_tried_again_after_a_pause_and_tells_why(house: House) -> None:
    house.every = DAY
    faults: list[Exception] = [
        Unavailable("STORAGE_UNAVAILABLE", "asha@example.com is in here", retry_after_seconds=1),
        ValueError("asha@example.com"),
    ]

    async def failing(turn: Turn) -> str:
        if turn.program_id == house.program.program_id and faults:
            raise faults.pop(0)
        return await house.job(turn)

    scheduler = house.scheduler(failing)
    for error in ("Unavailable STORAGE_UNAVAILABLE", "ValueError"):
        await house.look(scheduler)
        await house.look(scheduler)
        standing = await house.standing()
        assert (standing.outcome, standing.error) == (Outcome.FAILED, error)
        assert house.now < standing.next_at <= house.now + timedelta(hours=1)
        house.now = standing.next_at
    await house.look(scheduler)
    assert [turn.attempts for turn in house.done] == [3]
    standing = await house.standing()
    assert (standing.outcome, standing.error, standing.did) == (Outcome.DONE, "", "one")
    [runs] = [found for found in house.metrics if found.about.name == "laurel.schedule.runs"]
    counted = runs.read()
    assert counted[house.name, "failed"] == 2


async def test_who_stops_hands_over_at_once(house: House) -> None:
    begun = asyncio.Event()

    async def endless(turn: Turn) -> str:
        if turn.program_id == house.program.program_id:
            begun.set()
            await asyncio.Event().wait()
        return ""

    stopping = house.scheduler(endless, "stopping", lease=3600.0)
    running = asyncio.create_task(stopping.run())
    async with asyncio.timeout(30):
        await begun.wait()
        await stopping.stop(0.0)
        await running
    await house.look(house.scheduler())
    assert [turn.attempts for turn in house.done] == [2]


async def test_what_is_switched_off_is_neither_done_nor_shown(house: House) -> None:
    await house.look(house.scheduler())
    house.every = OFF
    house.now += DAY
    await house.look(house.scheduler())
    assert len(house.done) == 1
    with pytest.raises(ValueError, match="not enough values"):
        await house.standing()
    house.every = MINUTE
    await house.look(house.scheduler())
    assert len(house.done) == 2


async def test_it_outlives_an_outage(house: House, database_url: str) -> None:
    closed = await Database.open(database_url, 1)
    await closed.close()
    opened, house.database = house.database, closed
    scheduler = house.scheduler()
    with pytest.raises(Unavailable):
        await scheduler.look()
    scheduler._database = house.database = opened
    await house.look(scheduler)
    assert len(house.done) == 1
