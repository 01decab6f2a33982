"""Runs beside each other and beside the shop: everything that is due is done, once."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.domain.errors import FailedPrecondition
from server.domain.program import LedgerTerms
from server.operations.watch import Commits
from server.store import due, locks, programs
from server.store.database import Database
from telemetry.metrics import Metrics
from tests.support.clocks import DISAGREEMENTS, TERMS, Clockwork, followed, opened
from tests.support.waiting import eventually


@pytest.fixture
async def shop(database: Database, redis_url: str, secrets_file: Path) -> AsyncIterator[Clockwork]:
    async with opened(database, redis_url, secrets_file) as shop:
        yield shop


async def kinds(shop: Clockwork) -> dict[tuple[str, str], tuple[int, int]]:
    """Rows and points by wallet and kind."""
    rows = await shop.rows(
        """SELECT point_type, kind, count(*) AS rows, sum(points)::bigint AS points
             FROM ledger_transaction WHERE program_id = $1 GROUP BY 1, 2"""
    )
    return {(r["point_type"], r["kind"]): (r["rows"], r["points"]) for r in rows}


async def agrees(shop: Clockwork) -> None:
    assert await shop.rows(DISAGREEMENTS) == []


async def left(shop: Clockwork) -> int:
    async with shop.database.connection() as connection:
        return await due.count(connection, shop.program.program_id, shop.now)


async def test_a_run_does_what_is_due_and_never_decides_what_a_member_may_spend(shop: Clockwork) -> None:
    members = await shop.customers(7)
    for days, expected in (
        (6, {("later", "activated"): 700}),
        (5, {("points", "expired"): 700}),
        (10, {("rolling", "expired"): 700}),
        (30, {("later", "expired"): 700}),
    ):
        shop.now += timedelta(days=days)
        before = await shop.shown(members)
        done = await shop.catch_up(batch_size=3)
        assert done.points == expected
        assert done.members == dict.fromkeys(expected, 7)
        assert done.failed == []
        assert await shop.shown(members) == before
        assert await left(shop) == 0
        await agrees(shop)
    assert {row["point_type"] for row in await shop.events("points.expired")} == set(TERMS.lots)
    states = await shop.states(members)
    assert {wallet.next_due for state in states.values() for wallet in state.wallets.values()} == {None}


async def test_a_second_run_finds_nothing_and_writes_nothing(shop: Clockwork) -> None:
    members = await shop.customers(5)
    shop.now += timedelta(days=11)
    await shop.catch_up()
    before = await shop.states(members)
    again = await shop.catch_up()
    assert (again.seen, again.points) == (0, {})
    assert await shop.states(members) == before


async def test_a_bound_that_was_too_low_is_raised_once_and_not_found_again(shop: Clockwork) -> None:
    [member_id] = await shop.customers(1)
    shop.now += timedelta(days=9)
    await shop.submit(shop.purchase(member_id, 1))  # the rolling points live on
    shop.now += timedelta(days=12)
    done = await shop.catch_up()
    assert done.seen == 1
    assert ("rolling", "expired") not in done.points
    [wallet] = [
        w for w in (await shop.states([member_id]))[member_id].wallets.values() if w.point_type == "rolling"
    ]
    assert wallet.balance == 101
    assert wallet.next_due == wallet.active_at + timedelta(days=20)
    assert (await shop.catch_up()).seen == 0


async def test_holds_past_their_limit_are_released(shop: Clockwork) -> None:
    members = await shop.customers(3)
    await shop.together(shop.reservation(m, 40, 600) for m in members)
    shop.now += timedelta(seconds=601)
    done = await shop.catch_up()
    assert done.points == {("points", "released"): 120}
    assert await shop.rows("SELECT status FROM hold WHERE program_id = $1") == [("expired",)] * 3
    await agrees(shop)


async def test_runners_at_once_and_a_busy_shop_do_everything_once(shop: Clockwork) -> None:
    members = await shop.customers(120)
    shop.now += timedelta(days=10)
    await shop.together(shop.purchase(m, 7) for m in members)  # these 7 do not expire yet
    shop.now += timedelta(days=1)
    source = random.Random(4)
    buyers = source.sample(members, 60)
    runners = [followed(shop.runs(batch_size=size).catch_up(shop.program.program_id)) for size in (7, 10, 16)]
    results = await asyncio.gather(
        *runners,
        shop.together(shop.redemption(m, 5) for m in buyers),
        shop.together(shop.purchase(m, 1) for m in members[:20]),
    )
    assert [done.failed for done in results[:3]] == [[]] * 3
    assert await left(shop) == 0
    moved = await kinds(shop)
    assert moved["points", "EXPIRE"] == (120, 12_000)
    assert moved["later", "ACTIVATE"] == (120, 12_000)
    assert moved["points", "REDEEM"] == (60, 300)
    told = Counter(row["member_id"] for row in await shop.events("points.expired"))
    assert told == Counter(members)
    await agrees(shop)


async def test_a_redemption_at_midnight_wins_or_loses_by_the_clock_and_not_by_the_run(
    shop: Clockwork,
) -> None:
    early, late = await shop.customers(2)
    [wallet] = [w for w in (await shop.states([early]))[early].wallets.values() if w.point_type == "points"]
    midnight = wallet.next_due
    assert midnight is not None
    shop.now = midnight - timedelta(microseconds=1)
    assert (await shop.catch_up()).points["points", "expired"] == 0
    await shop.submit(shop.redemption(early, 60))
    shop.now = midnight
    with pytest.raises(FailedPrecondition) as refused:
        await shop.submit(shop.redemption(late, 1))
    assert refused.value.metadata["balance"] == "0"
    assert (await shop.catch_up()).points["points", "expired"] == 140
    await agrees(shop)


async def test_a_run_that_is_cut_off_goes_on_where_it_was(shop: Clockwork) -> None:
    await shop.customers(40)
    shop.now += timedelta(days=11)
    steps = shop.runs(batch_size=6).catch_up(shop.program.program_id)
    first = await anext(steps)
    assert first.seen == 6
    await steps.aclose()
    rest = await shop.catch_up(batch_size=6)
    assert first.seen + rest.seen == 40
    assert (await kinds(shop))["points", "EXPIRE"] == (40, 4000)
    await agrees(shop)


async def test_who_can_not_be_done_keeps_nobody_else_waiting(shop: Clockwork) -> None:
    members = await shop.customers(9)
    broken = members[4]
    async with shop.database.connection() as connection:
        # A lot that says more than its wallet has: nothing may be paid from it.
        await connection.execute(
            "UPDATE wallet SET balance = 1 WHERE member_id = $1 AND point_type = 'points'", broken
        )
    shop.now += timedelta(days=11)
    done = await shop.catch_up(batch_size=50)
    assert set(done.failed) == {broken}
    assert done.points["points", "expired"] == 800
    assert await left(shop) == 1


async def test_a_member_whose_lock_is_kept_holds_up_nobody_else(shop: Clockwork) -> None:
    members = await shop.customers(9)
    shop.now += timedelta(days=11)
    async with shop.database.transaction() as connection:
        await locks.take(connection, [locks.member_lock(members[4])])
        done = await shop.catch_up(batch_size=50)
    assert (set(done.failed), done.points["points", "expired"]) == ({members[4]}, 800)
    assert (await shop.catch_up()).points["points", "expired"] == 100


async def test_a_dry_run_tells_the_same_and_changes_nothing(shop: Clockwork) -> None:
    members = await shop.customers(5)
    shop.now += timedelta(days=11)
    before = await shop.states(members)
    dry = await shop.catch_up(batch_size=3, dry_run=True)
    assert await shop.states(members) == before
    assert await shop.events("points.expired") == []
    real = await shop.catch_up(batch_size=3)
    assert (dry.points, dry.members, dry.seen) == (real.points, real.members, real.seen)


async def test_only_one_batch_of_a_program_is_under_way(shop: Clockwork) -> None:
    await shop.customers(3)
    shop.now += timedelta(days=11)
    async with shop.database.transaction() as connection:
        await locks.take(connection, [locks.run_lock(shop.program.program_id)])
        run = asyncio.create_task(shop.catch_up())
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

        async def waits() -> bool:
            return bool(await connection.fetchval(waiting))

        await eventually(waits)
    assert (await run).points["points", "expired"] == 300


async def test_what_was_moved_is_counted(shop: Clockwork) -> None:
    await shop.customers(4)
    shop.now += timedelta(days=11)
    metrics = Metrics()
    await shop.catch_up(watch=Commits(metrics))
    read = {instrument.about.name: instrument for instrument in metrics}
    points: Any = read["laurel.points"].read()
    assert points[shop.program.name, "expired"] == 400
    assert points[shop.program.name, "activated"] == 400


async def test_after_a_change_of_terms_members_come_into_the_tier_that_they_have_reached(
    shop: Clockwork,
) -> None:
    ann, ben, cem = await shop.customers(3)
    await shop.submit(shop.purchase(ann, 900))  # 1,000 in all: silver
    gone = (await shop.members(1))[0]
    async with shop.database.connection() as connection:
        await connection.execute("UPDATE member SET status = 'closed' WHERE member_id = $1", cem)
        await connection.execute("UPDATE member SET inherited = 5000 WHERE member_id = $1", gone)
    done = await shop.review()
    assert done.members == {("gold", "tier"): 1}
    tiers = [{"name": "bronze", "from_points": 0}, {"name": "copper", "from_points": 50}]
    async with shop.database.connection() as connection:
        await connection.execute(
            "UPDATE program SET tiers = $2, rules_revision = rules_revision + 1 WHERE program_id = $1",
            shop.program.program_id,
            json.dumps(tiers),
        )
    before = await shop.states([ann, ben, cem])
    assert (await shop.review(batch_size=1, dry_run=True)).members == {("copper", "tier"): 3}
    assert await shop.states([ann, ben, cem]) == before
    results = await asyncio.gather(*(shop.review(batch_size=size) for size in (1, 2, 3)))
    assert sum(done.members["copper", "tier"] for done in results) == 3
    assert (await shop.review()).members == {}
    after = await shop.states([ann, ben, cem, gone])
    assert [after[m].facts.tier for m in (ann, ben, cem, gone)] == ["copper", "copper", "bronze", "copper"]
    assert [after[m].version - before[m].version for m in (ann, ben, cem)] == [1, 1, 0]
    changes = [json.loads(row["payload"]) for row in await shop.events("member.tier_changed")]
    assert sorted((change["before"], change["after"]) for change in changes) == [
        ("bronze", "copper"),
        ("bronze", "gold"),
        ("bronze", "silver"),
        ("gold", "copper"),
        ("silver", "copper"),
    ]
    await agrees(shop)


async def told(shop: Clockwork) -> Counter[tuple[UUID, str, int, int]]:
    """Warnings: the member, the wallet, the points and how long ahead."""
    rows = await shop.events("points.expiring")
    found = [(row, row["payload"]) for row in rows]
    return Counter(
        (row["member_id"], row["point_type"], int(row["points"]), _number(payload, "days_ahead"))
        for row, payload in found
    )


def _number(payload: str, name: str) -> int:
    return int(json.loads(payload)[name])


async def test_members_are_warned_once_for_each_lead_time(shop: Clockwork) -> None:
    ann, ben = await shop.customers(2)
    await shop.submit(shop.redemption(ann, 30))
    await shop.submit(shop.reservation(ben, 20, 30 * 24 * 3600))
    expected: Counter[Any] = Counter()
    assert await told(shop) == expected
    start = shop.now
    for day in range(1, 18):
        shop.now = start + timedelta(days=day)
        await asyncio.gather(shop.warn(batch_size=1), shop.warn(), shop.warn())
        await shop.warn()
        if day in (4, 8):  # the first day on which the tenth after the earning is 7, or 3, days ahead
            expected += Counter({(ann, "points", 70, 11 - day): 1, (ben, "points", 80, 11 - day): 1})
        if day in (13, 17):
            expected += Counter({(m, "rolling", 100, 20 - day): 1 for m in (ann, ben)})
        assert await told(shop) == expected, day


async def test_after_a_pause_the_shortest_lead_time_is_told_and_nothing_that_is_gone(
    shop: Clockwork,
) -> None:
    [ann] = await shop.customers(1)
    await shop.warn()
    shop.now += timedelta(days=9)  # both 7 and 3 days ahead have passed
    await shop.warn()
    assert await told(shop) == {(ann, "points", 100, 3): 1}
    shop.now += timedelta(days=40)
    await shop.warn()
    assert len(await told(shop)) == 1


async def test_rolling_points_are_warned_of_again_when_their_day_has_moved(shop: Clockwork) -> None:
    [ann] = await shop.customers(1)
    shop.now += timedelta(days=13)
    await shop.warn()
    shop.now += timedelta(days=1)
    await shop.submit(shop.purchase(ann, 5))
    shop.now += timedelta(days=13)
    await shop.warn()
    rolling = {key: times for key, times in (await told(shop)).items() if key[1] == "rolling"}
    assert rolling == {(ann, "rolling", 100, 7): 1, (ann, "rolling", 105, 7): 1}


async def test_a_pass_that_is_cut_off_is_made_whole_by_the_next(shop: Clockwork) -> None:
    members = await shop.customers(6)
    await shop.warn()
    shop.now += timedelta(days=4)
    steps = shop.runs(batch_size=2).warn(shop.program.program_id)
    assert (await anext(steps)).members["points", "warned"] == 2
    await steps.aclose()
    assert len(await told(shop)) == 2
    shop.now += timedelta(days=1)
    await shop.warn()
    assert await told(shop) == Counter({(m, "points", 100, 7): 1 for m in members})


async def test_who_wants_no_warnings_gets_none(
    database: Database, redis_url: str, secrets_file: Path
) -> None:
    silent = LedgerTerms(lots=TERMS.lots, warn_days=())
    async with opened(database, redis_url, secrets_file, terms=silent) as shop:
        await shop.customers(1)
        shop.now += timedelta(days=8)
        assert (await shop.warn()).points == {}
        async with database.connection() as connection:
            program = await programs.get(connection, shop.program.program_id)
            assert await due.warned_on(connection, shop.program.program_id) is None
    assert program is not None
    assert program.ledger == silent


async def test_a_dry_pass_tells_whom_it_would_warn(shop: Clockwork) -> None:
    await shop.customers(3)
    shop.now += timedelta(days=8)
    assert (await shop.warn(dry_run=True)).points == {("points", "warned"): 300}
    assert await told(shop) == {}
    assert (await shop.warn()).points == {("points", "warned"): 300}


async def test_the_index_finds_what_is_due_also_where_much_falls_due_at_once(shop: Clockwork) -> None:
    async with shop.database.connection() as connection:
        await connection.execute("SET enable_seqscan = off")
        try:
            plan: list[asyncpg.Record] = await connection.fetch(
                f"EXPLAIN {due.DUE_MEMBERS}",
                shop.program.program_id,
                shop.now,
                *due.BEGINNING,
                500,
            )
        finally:
            await connection.execute("RESET enable_seqscan")
    text = "\n".join(row[0] for row in plan)
    assert "Index Scan using wallet_due" in text or "Index Only Scan using wallet_due" in text, text
    assert "Sort" not in text, text
