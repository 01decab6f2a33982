"""Commands in line: what goes wrong with one decides what becomes of those behind it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from server.domain.commands import Command, Outcome
from server.domain.errors import DeadlineExceeded, Refused, ResourceExhausted
from server.operations.lines import Line
from server.store import locks
from server.store.database import Collided, Database
from tests.server.operations.test_aside import kept
from tests.server.operations.test_committer import Shop, opened


@pytest.fixture
async def shop(database: Database, redis_url: str, secrets_file: Path) -> AsyncIterator[Shop]:
    async with opened(database, redis_url, secrets_file) as shop:
        yield shop


async def in_line(
    shop: Shop, commands: Sequence[Command], *, patient: bool = False, seconds: float = 20.0
) -> list[Outcome | BaseException]:
    """What becomes of them, submitted at once and from the last to the first."""
    line = Line(patient=patient)
    turns = [line.join() for _ in commands]
    until = asyncio.get_running_loop().time() + seconds

    async def one(place: int) -> Outcome:
        try:
            return await shop.committer.submit(commands[place], until, turns[place])
        except Refused as refusal:
            turns[place].failed(refusal)
            raise
        finally:
            turns[place].leave()

    tasks = [asyncio.create_task(one(place)) for place in reversed(range(len(commands)))]
    return list(reversed(await asyncio.gather(*tasks, return_exceptions=True)))


@asynccontextmanager
async def unlucky(shop: Shop, condition: str) -> AsyncIterator[None]:
    """While the database refuses the order of that name."""
    async with shop.database.connection() as connection:
        await connection.execute(
            f"""CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN RAISE EXCEPTION 'no luck' USING ERRCODE = '{condition}'; END $$;
               CREATE TRIGGER sabotage BEFORE INSERT ON ledger_transaction FOR EACH ROW
               WHEN (NEW.order_reference = 'unlucky') EXECUTE FUNCTION sabotage()"""
        )
    try:
        yield
    finally:
        async with shop.database.connection() as connection:
            await connection.execute("DROP FUNCTION sabotage CASCADE")


async def test_they_take_effect_in_their_order_whichever_comes_first(shop: Shop) -> None:
    member_id = await shop.member()
    commands: list[Command] = []
    for _ in range(100):
        commands += [shop.purchase(member_id, 5), shop.redemption(member_id, 5)]
    results = await in_line(shop, commands)
    versions = [result.version for result in results if isinstance(result, Outcome)]
    assert versions == list(range(versions[0], versions[0] + 200))


async def test_after_contention_no_later_one_is_begun(shop: Shop) -> None:
    members = [await shop.member() for _ in range(20)]
    commands = [shop.purchase(m, 7) for m in members]
    commands[13] = shop.purchase(members[13], 7, reference="unlucky")
    async with unlucky(shop, "deadlock_detected"):
        results = await in_line(shop, commands)
    assert all(isinstance(result, Outcome) for result in results[:13])
    assert all(isinstance(result, Collided) for result in results[13:])
    assert [await shop.balance(m) for m in members] == [7] * 13 + [0] * 7
    again = await in_line(shop, commands)
    assert [r.balance for r in again if isinstance(r, Outcome)] == [7] * 20


async def test_nor_is_one_that_was_set_aside(database: Database, redis_url: str, secrets_file: Path) -> None:
    async with opened(database, redis_url, secrets_file, batch_size=2) as shop:
        stranger, *members = [await shop.member() for _ in range(9)]
        commands = [shop.purchase(m, 7) for m in members]
        commands[3] = shop.purchase(members[3], 7, reference="unlucky")
        async with unlucky(shop, "deadlock_detected"):
            async with kept(shop, locks.member_lock(members[0])):
                waiting = asyncio.create_task(in_line(shop, commands))
                for _ in range(2):
                    await shop.submit(shop.purchase(stranger, 1))
            results = await waiting
        assert all(isinstance(result, Outcome) for result in results[:3])
        assert all(isinstance(result, Collided) for result in results[3:])
        assert [await shop.balance(m) for m in members] == [7] * 3 + [0] * 5


async def test_what_fails_for_good_holds_up_nobody(shop: Shop) -> None:
    members = [await shop.member() for _ in range(20)]
    commands = [shop.purchase(m, 7) for m in members]
    commands[3] = shop.purchase(members[3], 7, reference="unlucky")
    commands[9] = shop.redemption(members[9], 1)
    async with unlucky(shop, "check_violation"):
        results = await in_line(shop, commands)
    assert isinstance(results[3], asyncpg.CheckViolationError)
    assert isinstance(results[9], Refused)
    assert sum(isinstance(result, Outcome) for result in results) == 18


async def test_when_time_is_over_none_is_begun(shop: Shop) -> None:
    member_id = await shop.member()
    results = await in_line(shop, [shop.purchase(member_id, 1) for _ in range(5)], seconds=-1)
    assert all(isinstance(result, DeadlineExceeded) for result in results)
    assert await shop.balance(member_id) == 0


@pytest.mark.parametrize("patient", [True, False])
async def test_without_room_the_patient_wait_and_the_others_end(
    database: Database, redis_url: str, secrets_file: Path, patient: bool
) -> None:
    async with opened(database, redis_url, secrets_file, queue_size=5, batch_size=4) as shop:
        member_id = await shop.member()
        commands = [shop.purchase(member_id, 1) for _ in range(30)]
        results = await in_line(shop, commands, patient=patient)
        done = sum(isinstance(result, Outcome) for result in results)
        assert all(isinstance(result, Outcome) for result in results[:done])
        assert all(isinstance(result, ResourceExhausted) for result in results[done:])
        assert (done == 30) if patient else (5 <= done < 30)
        assert await shop.balance(member_id) == done


async def test_whoever_leaves_lets_the_next_go_on(shop: Shop) -> None:
    member_id = await shop.member()
    line = Line()
    first, second, third = line.join(), line.join(), line.join()
    until = asyncio.get_running_loop().time() + 20
    waiting = asyncio.create_task(shop.committer.submit(shop.purchase(member_id, 1), until, third))
    second.leave()
    second.leave()
    await asyncio.sleep(0)
    assert not waiting.done()
    first.leave()
    assert (await waiting).balance == 1
