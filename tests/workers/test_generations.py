"""Generations of read models that nobody reads are removed, whoever dies or gives up while making them."""

import asyncio
import signal
import sys
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import pytest
from redis.asyncio import Redis

from server.store import figures, projections
from server.store.database import Connection, Database
from server.store.figures import PROJECTION
from server.store.summaries import PREFIX
from tests.support.mailbox import buy, open_shop
from tests.support.processes import ROOT, environment
from tests.support.programs import worker_settings_for
from tests.support.relays import caught_up
from tests.support.servers import Laurel
from tests.support.waiting import eventually
from workers.main import running
from workers.projections import daily_figures, member_summary
from workers.projections.member_summary import Lost, MemberSummaries
from workers.projections.rebuild import Build, rebuild, sweep

PATIENCE = 60.0
# Rebuilds daily figures, and is killed as soon as it gets to a step.
DOOMED = """
import asyncio, os, signal, sys
from server.store.database import Database
from workers.projections.daily_figures import Build
from workers.projections.rebuild import rebuild

async def main():
    database = await Database.open(os.environ["LAUREL_DATABASE_URL"], connections=1)
    setattr(Build, sys.argv[1], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    async for _ in rebuild(database, Build()):
        pass

asyncio.run(main())
"""


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """A shop in which something was counted."""
    await open_shop(laurel)
    await buy(laurel, await laurel.register(), 5)
    async with running(worker_settings_for(laurel.settings)):
        await caught_up(laurel.database, [PROJECTION])
    return laurel


async def generations(database: Database) -> set[UUID]:
    """Those of which there are figures."""
    async with database.connection() as connection:
        return {row[0] for row in await connection.fetch("SELECT DISTINCT generation FROM daily_figure")}


async def standing(database: Database, name: str = PROJECTION) -> projections.Standing:
    async with database.connection() as connection:
        return await projections.standing(connection, name)


@pytest.mark.parametrize(("step", "taken_over"), [("finish", False), ("drop", True)])
@pytest.mark.faults
async def test_what_a_killed_rebuild_leaves_is_removed_by_a_worker(
    shop: Laurel, step: str, taken_over: bool
) -> None:
    before = (await standing(shop.database)).generations.current
    url = shop.settings.database_url.get_secret_value()
    doomed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DOOMED, step, env=environment(LAUREL_DATABASE_URL=url), cwd=ROOT
    )
    assert await doomed.wait() == -signal.SIGKILL
    left = await standing(shop.database)
    assert (left.generations.current != before, left.generations.building is None) == (taken_over, taken_over)
    assert len(await generations(shop.database)) == 2
    async with shop.database.connection() as connection:
        await connection.execute(
            """UPDATE projection SET building_seen = building_seen - interval '1 hour' WHERE name = $1""",
            PROJECTION,
        )
        # Its minute has come, also if it was done in this one.
        await connection.execute(
            "UPDATE schedule SET next_at = now(), period = NULL WHERE name = 'generations'"
        )

    async def removed() -> bool:
        return await generations(shop.database) == {left.generations.current}

    async with running(worker_settings_for(shop.settings)):
        await eventually(removed, PATIENCE)
    assert (await standing(shop.database)).generations == (left.generations.current, None)


class Slow(member_summary.Build):
    """Comes to its first step, and not on."""

    def __init__(self, summaries: MemberSummaries) -> None:
        super().__init__(summaries)
        self.begun = asyncio.Event()

    async def step(self, connection: Connection, building: UUID) -> int:
        """Hang."""
        self.begun.set()
        await asyncio.Event().wait()
        return 0


async def followed(database: Database, build: Build) -> None:
    async with aclosing(rebuild(database, build)) as steps:
        async for _ in steps:
            pass


async def test_a_rebuild_that_somebody_breaks_off_is_given_up_at_once(shop: Laurel) -> None:
    async with Redis.from_url(shop.settings.redis_url.get_secret_value()) as redis:
        summaries = MemberSummaries(redis, lambda: datetime.now(UTC))
        build = Slow(summaries)
        # The worker that was there may have begun one as it was stopped.
        await sweep(shop.database, build)
        # What Ctrl-C is to a command.
        rebuilding = asyncio.create_task(followed(shop.database, build))
        await build.begun.wait()
        building = (await standing(shop.database, build.name)).generations.building
        assert building is not None
        assert await summaries.store.place(building)
        rebuilding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rebuilding
        assert (await standing(shop.database, build.name)).generations.building is None
        assert await sweep(shop.database, build) == 1
        # Somebody who slept through that comes on no more.
        async with shop.database.transaction() as connection:
            with pytest.raises(Lost):
                await member_summary.Build(summaries).step(connection, building)
        assert [key async for key in redis.scan_iter(f"{PREFIX}{building.hex}*")] == []
        assert await sweep(shop.database, build) == 0


async def dropped(database: Database, generation: UUID, most: int) -> bool:
    async with database.transaction() as connection:
        return await figures.drop(connection, generation, most)


async def in_the_way(connection: Connection) -> bool:
    """Whether somebody waits for what this one's transaction did."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
    )
    return found


async def test_a_large_generation_is_removed_a_part_at_a_time_by_whoever_comes(shop: Laurel) -> None:
    current = (await standing(shop.database)).generations.current
    async with shop.database.transaction() as connection:
        rows = len(await figures.everything(connection, current))
        assert await figures.drop(connection, current, rows - 1)
        other = asyncio.create_task(dropped(shop.database, current, rows - 1))
        await eventually(partial(in_the_way, connection))
    # It waited for what was gone then, and must not take that for the end.
    assert await other
    assert not await dropped(shop.database, current, rows)
    await followed(shop.database, daily_figures.Build())
    assert len(await generations(shop.database)) == 1
