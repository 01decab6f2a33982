"""Commands whose locks somebody else keeps, and those that have nothing to do with them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from server.domain.commands import Command, Merge, Outcome, Transfer
from server.domain.errors import DeadlineExceeded, Unavailable
from server.domain.household_commands import FormHousehold
from server.operations.batch import prepared, request_key
from server.operations.lines import Line
from server.operations.programs import Programs
from server.store import locks
from server.store.database import Database
from tests.server.operations.test_committer import Shop, opened
from tests.support.waiting import eventually

SOON = 10.0


@pytest.fixture
async def shop(
    database: Database, database_url: str, redis_url: str, secrets_file: Path
) -> AsyncIterator[Shop]:
    """A shop; those who keep locks have connections of their own."""
    others = await Database.open(database_url, connections=8)
    async with opened(database, redis_url, secrets_file) as shop:
        shop.database = others
        yield shop
    await others.close()


@asynccontextmanager
async def kept(shop: Shop, *numbers: int) -> AsyncIterator[None]:
    """While a session that does nothing more keeps these locks."""
    async with shop.database.transaction() as connection:
        await locks.take(connection, sorted(numbers))
        yield


@asynccontextmanager
async def recorded(shop: Shop, command: Command) -> AsyncIterator[None]:
    """While a session is about to record the same request; no look at locks finds out. It never does."""
    async with shop.database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "INSERT INTO request_key VALUES ($1, $2, $3, '', '{}', now())", *request_key(command)
        )
        try:
            yield
        finally:
            await transaction.rollback()


async def somebody_waits_for_a_row(shop: Shop) -> bool:
    """Whether a transaction waits for what another is about to record."""
    async with shop.database.connection() as connection:
        return bool(
            await connection.fetchval(
                """SELECT EXISTS (SELECT FROM pg_stat_activity
                                   WHERE datname = current_database() AND wait_event = 'transactionid')"""
            )
        )


def begun(shop: Shop, commands: Sequence[Command], seconds: float = 60.0) -> list[asyncio.Future[Outcome]]:
    """The commands, submitted at the same moment."""
    return [asyncio.ensure_future(shop.submit(command, seconds)) for command in commands]


async def done(replies: Sequence[asyncio.Future[Outcome]]) -> list[Outcome]:
    """What became of them, soon."""
    async with asyncio.timeout(SOON):
        return list(await asyncio.gather(*replies))


async def test_who_waits_for_a_lock_holds_up_nobody_else(shop: Shop) -> None:
    members = [await shop.member() for _ in range(20)]
    blocked = members[7]
    async with kept(shop, locks.member_lock(blocked)):
        held, *others = begun(shop, [shop.purchase(m, 7) for m in [blocked, *members]])
        twice = others.pop(7)
        assert [outcome.points for outcome in await done(others)] == [7] * 19
        # Neither what comes later is held up, nor does it wait any more for what is known to be kept.
        later = begun(shop, [shop.purchase(m, 1) for m in members])
        behind = later.pop(7)
        assert [outcome.points for outcome in await done(later)] == [1] * 19
        assert not any(reply.done() for reply in (held, twice, behind))
    versions = [outcome.version for outcome in await done([held, twice, behind])]
    assert versions == list(range(versions[0], versions[0] + 3))
    assert [await shop.balance(m) for m in members] == [8] * 7 + [15] + [8] * 12


async def test_each_goes_on_when_its_own_lock_is_free(shop: Shop) -> None:
    first, second, third = [await shop.member() for _ in range(3)]
    async with kept(shop, locks.member_lock(first)):
        async with kept(shop, locks.member_lock(second)):
            waiting = begun(shop, [shop.purchase(m, 5) for m in (first, second)])
            await done(begun(shop, [shop.purchase(third, 5)]))
            assert not any(reply.done() for reply in waiting)
        await done(waiting[1:])
        assert not waiting[0].done()
    await done(waiting)


@pytest.mark.parametrize("kind", ["program", "request", "order", "pool"])
async def test_it_is_the_same_with_every_kind_of_lock(
    shop: Shop, database: Database, redis_url: str, secrets_file: Path, kind: str
) -> None:
    member_id, neighbour = await shop.member(), await shop.member()
    formed = await shop.submit(FormHousehold(**shop.common(member_id), contributes=True))
    assert formed.household_id is not None
    purchase = shop.purchase(member_id, 20)
    [entry] = prepared([purchase], await Programs().at_hand(database, {shop.program.program_id}))
    assert entry.key is not None
    number = {
        "program": locks.program_lock(shop.program.program_id),
        "request": locks.request_lock(request_key(purchase)),
        "order": locks.order_lock(shop.program.program_id, entry.key),
        "pool": locks.member_lock(formed.household_id),
    }[kind]
    async with opened(database, redis_url, secrets_file) as elsewhere:
        stranger = await elsewhere.member()
        async with kept(shop, number):
            held, *free = begun(shop, [purchase, elsewhere.purchase(stranger, 3)])
            if kind != "program":
                free += begun(shop, [shop.purchase(neighbour, 3)])
            assert {outcome.points for outcome in await done(free)} == {3}
            assert not held.done()
    assert [outcome.points for outcome in await done([held])] == [20]


async def test_what_stands_in_a_line_stays_behind_what_is_set_aside(shop: Shop) -> None:
    first, blocked, last, stranger = [await shop.member() for _ in range(4)]
    line = Line()
    turns = [line.join() for _ in range(3)]
    until = asyncio.get_running_loop().time() + 60
    async with kept(shop, locks.member_lock(blocked)):
        entries = [
            asyncio.ensure_future(shop.committer.submit(shop.purchase(m, 1), until, turn))
            for m, turn in zip((first, blocked, last), turns, strict=True)
        ]
        await done([entries[0], *begun(shop, [shop.purchase(stranger, 1)])])
        assert not any(entry.done() for entry in entries[1:])
        # What comes to the member of an entry that waits must not overtake it either.
        [behind] = begun(shop, [shop.purchase(last, 1)])
        await done(begun(shop, [shop.purchase(stranger, 1)]))
        assert not behind.done()
    entered, after = await done([entries[2], behind])
    assert after.version == entered.version + 1


async def test_a_merge_that_is_set_aside_keeps_its_place(shop: Shop) -> None:
    member_id, merged, stranger = await shop.member(), await shop.member(), await shop.member()
    merge = Merge(**shop.common(member_id), merged_member_id=merged)
    commands = [shop.purchase(merged, 5), merge, shop.purchase(merged, 7), shop.redemption(member_id, 12)]
    async with kept(shop, locks.member_lock(merged)):
        replies = begun(shop, commands)
        await done(begun(shop, [shop.purchase(stranger, 1)]))
        assert not any(reply.done() for reply in replies)
    earned, _, followed, spent = await done(replies)
    assert (earned.member_id, followed.member_id, spent.balance) == (merged, member_id, 0)


async def test_what_stands_behind_a_batch_is_not_tried_before_it_has_committed(shop: Shop) -> None:
    """Nor while it is split, when for a moment nobody keeps the locks of what it has still to commit."""
    giver, getter, other, stranger = [await shop.member() for _ in range(4)]
    slow, earned = shop.purchase(other, 1), shop.purchase(giver, 10)
    given = Transfer(**shop.common(giver), to_member_id=getter, to_given="", points=10)
    async with recorded(shop, slow):
        async with kept(shop, locks.member_lock(getter)):
            [aside] = begun(shop, [shop.purchase(getter, 1)])
            await done(begun(shop, [shop.purchase(stranger, 1)]))
            late, *replies = begun(shop, [slow, earned, given])
            await eventually(lambda: somebody_waits_for_a_row(shop))
        await done([aside, *replies])
        assert not late.done()
    await done([late])
    assert (await shop.balance(giver), await shop.balance(getter)) == (0, 11)


@pytest.mark.parametrize("before", [0, 1])
async def test_what_is_set_aside_bit_by_bit_keeps_its_order(shop: Shop, before: int) -> None:
    """First whose lock was found kept, then one ahead of it that met something else."""
    giver, getter, stranger = [await shop.member() for _ in range(3)]
    earned = shop.purchase(giver, 10)
    given = Transfer(**shop.common(giver), to_member_id=getter, to_given="", points=10)
    async with recorded(shop, earned):
        async with kept(shop, locks.member_lock(getter)):
            aside = begun(shop, [shop.purchase(getter, 1)] * before)
            await done(begun(shop, [shop.purchase(stranger, 1)]))
            replies = begun(shop, [earned, given])
            await done(begun(shop, [shop.purchase(stranger, 1)]))
        await done(aside)
        await eventually(lambda: somebody_waits_for_a_row(shop))
        assert not any(reply.done() for reply in replies)
    await done(replies)
    assert (await shop.balance(giver), await shop.balance(getter)) == (0, 10 + before)


async def test_time_passes_for_what_is_set_aside(shop: Shop) -> None:
    member_id = await shop.member()
    async with kept(shop, locks.member_lock(member_id)):
        [late] = begun(shop, [shop.purchase(member_id, 3)], seconds=0.5)
        [patient] = begun(shop, [shop.purchase(member_id, 4)])
        with pytest.raises(DeadlineExceeded):
            await late
        assert not patient.done()
    assert [outcome.balance for outcome in await done([patient])] == [4]


@asynccontextmanager
async def contended(shop: Shop, number: int) -> AsyncIterator[None]:
    """While somebody waits for that lock all the time."""
    stop = False

    async def again_and_again() -> None:
        while not stop:
            async with kept(shop, number):
                await asyncio.sleep(0.03)

    others = [asyncio.create_task(again_and_again()) for _ in range(3)]
    try:
        await eventually(lambda: waiting_for(shop, number, 2))
        yield
    finally:
        stop = True
        await asyncio.gather(*others)


async def test_a_lock_for_which_others_wait_all_the_time_is_had_in_its_turn(shop: Shop) -> None:
    """Such a lock is never free, so nobody gets it who doesn't wait for it."""
    member_id = await shop.member()
    async with contended(shop, locks.member_lock(member_id)):
        await done(begun(shop, [shop.purchase(member_id, 3)]))


async def test_who_waits_is_now_one_and_then_the_other(shop: Shop) -> None:
    """Neither one who waits in vain nor those whose locks are soon free keep another from waiting."""
    blocked, sought, stranger, *busy = [await shop.member() for _ in range(11)]
    async with kept(shop, locks.member_lock(blocked)), contended(shop, locks.member_lock(sought)):
        held = begun(shop, [shop.purchase(blocked, 1)])
        await done(begun(shop, [shop.purchase(stranger, 1)]))
        [reply] = begun(shop, [shop.purchase(sought, 3)])
        passing = []
        async with asyncio.timeout(SOON):
            while not reply.done():
                busy.append(member_id := busy.pop(0))
                async with kept(shop, locks.member_lock(member_id)):
                    passing += begun(shop, [shop.purchase(member_id, 1)])
                    await done(begun(shop, [shop.purchase(stranger, 1)]))
        await done([reply, *passing])
        assert not held[0].done()
    await done(held)


async def waiting_for(shop: Shop, number: int, count: int) -> bool:
    """Whether so many transactions, or more, wait for that lock."""
    async with shop.database.connection() as connection:
        found = await connection.fetchval(
            """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                  AND (classid::bigint << 32) | objid::bigint = $1""",
            number,
        )
    return int(found) >= count


async def test_more_than_may_wait_are_told_to_come_back(
    database: Database, redis_url: str, secrets_file: Path
) -> None:
    async with opened(database, redis_url, secrets_file, queue_size=5) as shop:
        blocked, free = await shop.member(), await shop.member()
        async with kept(shop, locks.member_lock(blocked)):
            waiting = []
            for _ in range(7):
                waiting += begun(shop, [shop.purchase(blocked, 1)])
                await done(begun(shop, [shop.purchase(free, 1)]))
            refused = [reply for reply in waiting if reply.done()]
            assert len(refused) == 2
            for reply in refused:
                fault = reply.exception()
                assert isinstance(fault, Unavailable)
                assert (fault.reason, fault.retry_after_seconds) == ("CONTENTION", 1.0)
        await done([reply for reply in waiting if reply not in refused])
        assert (await shop.balance(blocked), await shop.balance(free)) == (5, 7)


async def test_closing_finishes_what_is_set_aside(
    database: Database, redis_url: str, secrets_file: Path
) -> None:
    async with opened(database, redis_url, secrets_file) as shop:
        member_id = await shop.member()
        async with kept(shop, locks.member_lock(member_id)):
            [held] = begun(shop, [shop.purchase(member_id, 3)])
            await done(begun(shop, [shop.purchase(await shop.member(), 1)]))
            closing = asyncio.create_task(shop.committer.close())
            await asyncio.sleep(0)
            assert not held.done()
        await done([held])
        await closing
