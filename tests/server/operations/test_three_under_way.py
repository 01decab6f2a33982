"""One batch is written, one decided and one takes its locks; they commit in order whatever fails."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.commands import Command, Merge, Outcome
from server.domain.errors import DeadlineExceeded, Unavailable
from server.operations.committer import Committer
from server.operations.lines import Line
from server.operations.posting import MANY
from server.operations.programs import Programs
from server.store import locks
from server.store.database import Database
from tests.server.operations.test_aside import done, kept, waiting_for
from tests.server.operations.test_committer import Shop, opened
from tests.server.operations.test_underway import (
    FULL,
    braked,
    entered,
    locked,
    members,
    nobody_waits_for,
    submitted,
    with_a_brake,
    written,
)
from tests.support.waiting import eventually

GROUPS = 5


@pytest.fixture
async def shop(
    database: Database, database_url: str, redis_url: str, secrets_file: Path
) -> AsyncIterator[Shop]:
    async with with_a_brake(database, database_url, redis_url, secrets_file) as shop:
        yield shop


@pytest.fixture
async def groups(shop: Shop) -> list[list[UUID]]:
    """Members, a batch each."""
    return [await members(shop, FULL) for _ in range(GROUPS)]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a lock gets it, or never ends."""
    monkeypatch.setattr(locks, "SHORTLY", "SET LOCAL lock_timeout = 0")


def purchases(shop: Shop, groups: Sequence[Sequence[UUID]], slow: int = 0) -> list[Command]:
    """One of each member; those of a group wait for the brake."""
    return [
        shop.purchase(m, 5, reference=f"slow {m}" if place == slow else str(m))
        for place, group in enumerate(groups)
        for m in group
    ]


async def three_under_way(shop: Shop, groups: Sequence[Sequence[UUID]]) -> None:
    """The first is written, and the others have all their locks."""
    await eventually(lambda: written(shop))
    await eventually(lambda: locked(shop, groups[1][-1]))
    await eventually(lambda: locked(shop, groups[2][-1]))


async def places(shop: Shop, groups: Sequence[Sequence[UUID]]) -> list[int]:
    """Whose group the events are about, in the order in which they were written."""
    group_of = {m: place for place, group in enumerate(groups) for m in group}
    async with shop.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT member_id FROM event_log WHERE member_id = ANY($1) ORDER BY xid, position",
            list(group_of),
        )
    return [group_of[row[0]] for row in rows]


async def written_in_order(shop: Shop, groups: Sequence[Sequence[UUID]]) -> None:
    """No group's events stand before those of a group that came earlier."""
    found = await places(shop, groups)
    assert found == sorted(found)


async def kill(shop: Shop, member_id: UUID) -> None:
    """End the connection that has that member's lock."""
    async with shop.database.connection() as connection:
        killed = await connection.fetchval(
            """SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted
                  AND (classid::bigint << 32) | objid::bigint = $1""",
            locks.member_lock(member_id),
        )
    assert killed == 1


async def test_at_most_three_are_under_way_and_each_is_written_after_the_one_before(
    shop: Shop, groups: list[list[UUID]]
) -> None:
    async with braked(shop):
        replies = submitted(shop, purchases(shop, groups))
        await three_under_way(shop, groups)
        assert not await locked(shop, groups[3][0])
        assert not any(reply.done() for reply in replies)
    assert [outcome.points for outcome in await done(replies)] == [5] * FULL * GROUPS
    await written_in_order(shop, groups)


async def test_what_comes_while_one_is_written_begins_as_soon_as_it_is_a_full_batch(
    shop: Shop, groups: list[list[UUID]]
) -> None:
    async with braked(shop):
        replies = submitted(shop, purchases(shop, groups[:1]))
        await eventually(lambda: written(shop))
        *some, last = purchases(shop, groups[1:2], slow=-1)
        replies += submitted(shop, some)
        assert not await locked(shop, groups[1][0])
        replies += submitted(shop, [last])
        await eventually(lambda: locked(shop, groups[1][-1]))
    await done(replies)


async def test_whoever_is_under_way_as_the_committer_breaks_is_told_at_once(
    shop: Shop, groups: list[list[UUID]]
) -> None:
    [lane] = [task for task in asyncio.all_tasks() if task.get_name() == "committer"]
    async with braked(shop):
        replies = submitted(shop, purchases(shop, groups))
        await three_under_way(shop, groups)
        under_way = [task for task in asyncio.all_tasks() if task.get_name() == "batch"]
        lane.cancel()
        told = await asyncio.wait_for(asyncio.gather(*replies, return_exceptions=True), 5)
        assert {type(refusal) for refusal in told} == {Unavailable}
    await asyncio.wait(under_way)


async def test_nothing_begins_behind_a_batch_that_waits_for_a_lock(
    shop: Shop, groups: list[list[UUID]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SHORTLY", "SET LOCAL lock_timeout = '750ms'")  # long enough to be seen
    lock = locks.member_lock(groups[1][-1])
    async with kept(shop, lock):
        async with braked(shop):
            replies = submitted(shop, purchases(shop, groups))
            await eventually(lambda: written(shop))
            await eventually(lambda: waiting_for(shop, lock, 1))
            assert not await locked(shop, groups[2][0])
            # Nor when it has waited for long enough, and will be mended.
            await eventually(lambda: nobody_waits_for(shop, lock))
            assert not await locked(shop, groups[2][0])
        behind = replies.pop(2 * FULL - 1)
        await done(replies)
        assert not behind.done()
    await done([behind])
    found = await places(shop, groups)
    assert found[-1] == 1
    assert found[:-1] == sorted(found[:-1])


async def test_a_batch_that_begins_anew_with_other_locks_has_nobody_behind_it(
    shop: Shop, groups: list[list[UUID]], patient: None
) -> None:
    """A member of the second batch was merged into one of the third, who would wait for the second."""
    into, merged = groups[2][0], groups[1][1]
    await shop.submit(Merge(**shop.common(into), merged_member_id=merged))
    async with braked(shop):
        replies = submitted(shop, purchases(shop, groups))
        await eventually(lambda: written(shop))
        await eventually(lambda: locked(shop, into))
    outcomes = await done(replies)
    followed, own = outcomes[FULL + 1], outcomes[2 * FULL]
    assert (followed.member_id, followed.balance, own.balance) == (into, 5, 10)


@pytest.mark.parametrize("failing", [0, 1, 2])
async def test_what_fails_is_mended_before_those_behind_it_begin_anew_in_order(
    shop: Shop, groups: list[list[UUID]], failing: int
) -> None:
    commands = purchases(shop, groups)
    unlucky = failing * FULL + 1
    commands[unlucky] = shop.purchase(groups[failing][1], 5, reference="slow", reason="never")
    async with braked(shop):
        replies = submitted(shop, commands)
        # What waits still must not be there before them.
        replies += submitted(shop, [shop.redemption(m, 5) for m in groups[2][2:]])
        await three_under_way(shop, groups)
    with pytest.raises(Unavailable):
        await replies.pop(unlucky)
    await done(replies)
    found = (await places(shop, groups))[: FULL * GROUPS - 1]
    assert found == sorted(found)


@pytest.mark.parametrize("place", [0, 1, 2], ids=["written", "decided", "loaded"])
async def test_whoever_loses_its_connection_is_not_overtaken(
    shop: Shop, groups: list[list[UUID]], place: int
) -> None:
    async with braked(shop):
        replies = submitted(shop, purchases(shop, groups))
        await three_under_way(shop, groups)
        await kill(shop, groups[place][0])
    assert [outcome.balance for outcome in await done(replies)] == [5] * FULL * GROUPS
    await written_in_order(shop, groups)


async def test_whoever_loses_its_connection_while_it_waits_for_a_lock_is_not_overtaken(
    shop: Shop, groups: list[list[UUID]], patient: None
) -> None:
    ordered = sorted(groups[2], key=locks.member_lock)
    async with braked(shop):
        async with kept(shop, locks.member_lock(ordered[-1])):
            replies = submitted(shop, purchases(shop, groups))
            await eventually(lambda: waiting_for(shop, locks.member_lock(ordered[-1]), 1))
            await kill(shop, ordered[0])
        await eventually(lambda: written(shop))
    await done(replies)
    await written_in_order(shop, groups)


async def test_a_line_that_ends_meanwhile_ends_for_all_that_are_under_way(
    shop: Shop, groups: list[list[UUID]]
) -> None:
    ended = Line()
    turns = [ended.join() for _ in groups]
    async with braked(shop):
        replies: list[asyncio.Future[Outcome]] = []
        entries: list[asyncio.Future[Outcome]] = []
        for group, turn in zip(groups, turns, strict=True):
            first, *rest = purchases(shop, [group], slow=0 if turn is turns[0] else -1)
            entries.append(entered(shop, first, turn))
            replies += submitted(shop, rest)
        await three_under_way(shop, groups)
        turns[0].failed(DeadlineExceeded("DEADLINE_EXCEEDED", "the call's time is over"))
    results = await asyncio.gather(*entries, return_exceptions=True)
    assert [type(result) for result in results] == [Outcome] + [DeadlineExceeded] * (GROUPS - 1)
    await done(replies)
    await written_in_order(shop, groups)


async def test_a_merge_is_overtaken_by_nobody_and_joined_by_nobody(
    shop: Shop, groups: list[list[UUID]]
) -> None:
    before, after = groups[:2], groups[2:4]
    into, merged = groups[4][:2]
    merge = Merge(**shop.common(into), merged_member_id=merged)
    async with braked(shop):
        replies = submitted(shop, purchases(shop, before))
        replies += submitted(shop, [merge, shop.purchase(merged, 7)])
        replies += submitted(shop, purchases(shop, after, slow=-1))
        await eventually(lambda: written(shop))
        await eventually(lambda: locked(shop, before[1][-1]))
        assert not await locked(shop, into)
        assert not await locked(shop, after[0][0])
    outcomes = await done(replies)
    assert (outcomes[2 * FULL + 1].member_id, outcomes[2 * FULL + 1].balance) == (into, 7)
    await written_in_order(shop, [*before, groups[4], *after])


async def test_closing_finishes_all_that_are_under_way_and_what_waits(
    shop: Shop, groups: list[list[UUID]]
) -> None:
    async with braked(shop):
        replies = submitted(shop, purchases(shop, groups))
        await three_under_way(shop, groups)
        closing = asyncio.create_task(shop.committer.close())
        await kill(shop, groups[0][0])
        assert not closing.done()
    await done(replies)
    await closing


async def test_while_a_long_batch_is_decided_the_next_takes_its_locks(
    database: Database, redis_url: str, secrets_file: Path
) -> None:
    """The clock is read when a batch has its locks; ids are made when a command is decided."""
    size = 2 * MANY
    told: list[str] = []
    async with opened(database, redis_url, secrets_file) as shop:

        def clock() -> datetime:
            told.append("locked")
            return datetime.now(UTC)

        def new_id() -> UUID:
            told.append("decided")
            if told.count("locked") == 1:
                time.sleep(0.002)  # so that the database has time to answer
            return uuid7()

        keys = secrets.load(secrets_file).ledger
        committer = Committer(database, Programs(), keys, clock, new_id, batch_size=size)
        people = [await shop.member() for _ in range(2 * size)]
        async with database.connection(), database.connection():
            """Two are at hand."""
        deadline = asyncio.get_running_loop().time() + 60
        await asyncio.gather(*(committer.submit(shop.purchase(m, 1), deadline) for m in people))
        await committer.close()
    first, second = (place for place, what in enumerate(told) if what == "locked")
    assert first == 0
    # Of the first batch, as many ids were to be made as of the second.
    assert second < (len(told) - 2) // 2
