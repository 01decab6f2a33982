"""What PostgreSQL does to transactions that meet, and what is made of it."""

import asyncio
from datetime import datetime
from uuid import uuid4

import pytest

from server.domain.errors import Unavailable
from server.operations import collisions
from server.operations.collisions import repeated
from server.store import database as store
from server.store import locks
from server.store.database import Collided, Connection, Database
from server.store.together import BY_KEY
from tests.support.waiting import eventually


def two_locks() -> tuple[int, int]:
    source = uuid4()
    return locks.member_lock(source), locks.identifier_lock(source.bytes)


async def test_one_of_two_that_wait_for_each_other_may_try_again(database: Database) -> None:
    one, other = two_locks()
    both = asyncio.Barrier(2)

    async def take(first: int, second: int) -> str:
        async with database.transaction() as connection:
            await locks.take(connection, [first])
            await both.wait()
            await locks.take(connection, [second])
        return "done"

    results = await asyncio.gather(take(one, other), take(other, one), return_exceptions=True)
    assert "done" in results
    (refused,) = [result for result in results if result != "done"]
    assert isinstance(refused, Collided)
    assert (refused.reason, refused.retry_after_seconds) == ("CONTENTION", 1.0)


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
async def test_who_waits_too_long_for_a_lock_is_told_to_come_back(database: Database, setting: str) -> None:
    held, _ = two_locks()

    async def wait() -> None:
        async with database.transaction(f"SET LOCAL {setting} = '50ms'") as impatient:
            await locks.take(impatient, [held])

    async with database.transaction() as connection:
        await locks.take(connection, [held])
        with pytest.raises(Unavailable) as caught:
            await wait()
    assert caught.value.reason == "CONTENTION"
    assert not isinstance(caught.value, Collided)


async def test_a_full_disk_of_the_database_is_an_outage_not_a_fault(database: Database) -> None:
    with pytest.raises(Unavailable, match="disk is full") as caught:
        async with database.transaction() as connection:
            await connection.execute("DO $$ BEGIN RAISE 'no space left' USING ERRCODE = 'disk_full'; END $$")
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("STORAGE_UNAVAILABLE", 1.0)


async def test_work_is_done_again_after_a_collision_and_what_it_had_done_is_undone(
    database: Database,
) -> None:
    tries = 0

    async def count(connection: Connection) -> int:
        return int(await connection.fetchval("SELECT count(*) FROM attempt"))

    @repeated
    async def work(label: str) -> str:
        nonlocal tries
        tries += 1
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO attempt VALUES ($1)", tries)
            if tries < 3:
                await connection.execute("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$")
        return label

    async with database.connection() as connection:
        await connection.execute("CREATE TABLE attempt (number integer)")
        assert await work("done") == "done"
        assert await count(connection) == 1


async def test_work_that_always_collides_gives_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collisions, "ATTEMPTS", 3)
    tries = 0

    @repeated
    async def work() -> None:
        nonlocal tries
        tries += 1
        async with database.transaction() as connection:
            await connection.execute("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$")

    with pytest.raises(Collided):
        await work()
    assert tries == 3


async def test_no_plan_outlives_the_table_for_which_it_was_made(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL plans again when it has analyzed a table; one that has grown until then is read whole."""
    monkeypatch.setattr(store, "PLANS_LAST_SECONDS", 0.1)
    one = await Database.open(database_url, connections=1)
    query = "SELECT prepare_time FROM pg_prepared_statements WHERE statement LIKE '%no plan outlives%'"

    async def planned() -> datetime:
        async with one.transaction(BY_KEY) as connection:
            moment: datetime = await connection.fetchval(query)
            return moment

    first = await planned()

    async def planned_anew() -> bool:
        return await planned() > first

    await eventually(planned_anew)
    await one.close()
