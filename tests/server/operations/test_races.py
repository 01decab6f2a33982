"""Commands about one wallet through two committers at once, each with connections of its own."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.domain.commands import CaptureHold, PlaceHold, Redeem, Refund, Return, Transfer, VoidHold
from server.store.database import Database
from tests.support.counters import LIMIT, Counters, two_committers

ROUNDS = 3


@pytest.fixture
async def counters(
    database: Database, database_url: str, redis_url: str, secrets_file: Path
) -> AsyncIterator[Counters]:
    async with two_committers(database, database_url, redis_url, secrets_file) as opened:
        yield opened


async def test_a_hundred_first_touches_of_a_wallet_accept_no_more_than_the_limit(counters: Counters) -> None:
    for _ in range(ROUNDS):
        newcomer = await counters.newcomer()
        told = await counters.race([counters.purchase(newcomer) for _ in range(100)])
        assert len(told) == 100
        assert sum(outcome.points for outcome in told) == LIMIT
        assert max(outcome.balance for outcome in told) == LIMIT
        assert sorted(outcome.version for outcome in told) == list(range(2, 102))
        assert await counters.figures(newcomer) == [(LIMIT, 0, 0, LIMIT, 0)]


async def test_no_race_of_holds_spends_a_point_twice_or_loses_one(counters: Counters) -> None:
    source = random.Random(7)
    for _ in range(ROUNDS):
        member = await counters.newcomer()
        await counters.race([counters.purchase(member, 50)])
        first = [counters.command(PlaceHold, member, points=source.randint(1, 12)) for _ in range(20)]
        first += [counters.command(Redeem, member, points=source.randint(1, 12)) for _ in range(10)]
        source.shuffle(first)
        told = await counters.race(first)
        holds = [outcome.hold.hold_id for outcome in told if outcome.hold]
        spent = sum(outcome.points for outcome in told if not outcome.hold)
        assert sum(outcome.points for outcome in told) <= LIMIT
        # Each hold is captured in part, captured whole and voided, all at the same moment.
        then = [
            counters.command(kind, member, hold_id=hold, **said)
            for hold in holds
            for kind, said in (
                (CaptureHold, {"points": 1, "keep_rest": True}),
                (CaptureHold, {}),
                (CaptureHold, {"points": 2}),
                (VoidHold, {}),
            )
        ]
        then += [counters.command(Redeem, member, points=5) for _ in range(5)]
        source.shuffle(then)
        spent += sum(outcome.points for outcome in await counters.race(then) if outcome.awards)
        left = LIMIT - spent
        assert await counters.figures(member) == [(left, 0, 0, left, 0)]


async def test_what_was_bought_or_spent_once_comes_back_once(counters: Counters) -> None:
    for _ in range(ROUNDS):
        member = await counters.newcomer()
        [bought] = await counters.race([counters.purchase(member, 50)])
        [spent] = await counters.race([counters.command(Redeem, member, points=60)])
        refund = {"transaction_id": spent.awards[0].transaction_id}
        told = await counters.race([counters.command(Refund, member, points=7, **refund) for _ in range(20)])
        assert sum(outcome.points for outcome in told) == 7 * (60 // 7)
        give_back = {"event_id": bought.event_id, "purchase_given": str(bought.event_id)}
        told = await counters.race([counters.command(Return, member, **give_back) for _ in range(20)])
        assert [outcome.points for outcome in told] == [LIMIT]
        owed = 60 - 7 * (60 // 7)
        assert await counters.figures(member) == [(0, 0, owed, 0, 0)]


async def test_points_that_go_round_are_neither_lost_nor_made(counters: Counters) -> None:
    source = random.Random(8)
    members = [await counters.newcomer() for _ in range(4)]
    await counters.race([counters.purchase(member, 50) for member in members])
    transfers = []
    for _ in range(150):
        giver, getter = source.sample(members, 2)
        to = {"to_member_id": getter, "to_given": str(getter)}
        transfers.append(counters.command(Transfer, giver, points=source.randint(1, 90), **to))
    told = await counters.race(transfers)
    assert told
    figures = await counters.figures(*members)
    assert sum(balance for balance, *_ in figures) == LIMIT * len(members)
    assert all(balance == remaining >= 0 for balance, _, _, remaining, _ in figures)
