"""Who sits in a household sees live what becomes of its pool, whoever does it, and nothing twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from loyalty.v1 import holds_pb2, movements_pb2
from redis.asyncio import Redis

from server import secrets
from server.domain.actor import CallerKind
from server.ids import new_id
from server.operations.hints import Hints
from server.operations.live import Live
from server.operations.programs import Programs
from server.operations.runs import Runs
from server.settings import Settings
from server.store.database import Database
from tests.support.homes import Home
from tests.support.published import publish
from tests.support.servers import Laurel, started
from tests.support.watching import Watching, buy

BASE = {"rule": "base", "then": [{"earn": {"points": 1, "per": "1.00"}}]}


def now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def closing(part: Any) -> AsyncIterator[Any]:
    """Closed with the block."""
    try:
        yield part
    finally:
        await part.close()


@pytest.fixture(scope="module")
async def laurel(settings: Settings, database: Database) -> AsyncIterator[Laurel]:
    """A point a rupee."""
    async with started(settings, database) as laurel:
        await publish(laurel, BASE)
        yield laurel


@pytest.fixture
async def home(laurel: Laurel) -> Home:
    """With 900 points in the pool."""
    home = Home(laurel)
    await home.found(900)
    return home


async def told(stream: Watching, home: Home, *expected: tuple[str, int, int]) -> None:
    """The next updates are of the pool: how, how many, and what is left."""
    for one in expected:
        update = await stream.next("points")
        assert update.household_id == home.id
        [moved] = update.moved
        assert (update.kind, moved.points, moved.wallet.balance) == one


async def test_whatever_anybody_does_to_the_pool_is_told_to_all_who_sit_there(home: Home) -> None:
    till = home.laurel.terminal
    async with home.watched_by(home.ann) as ann, home.watched_by(home.ben) as ben:
        for stream in (ann, ben):
            standing = (await stream.next("standing")).household
            assert standing.household_id == home.id
            assert [(w.point_type, w.balance) for w in standing.wallets] == [("points", 900)]
        paid = await home.spends(home.ben, 100)
        first, second = await home.holds(home.ben, 200), await home.holds(home.ben, 50)
        capture = holds_pb2.CaptureHoldRequest(request_id=uuid4().hex, hold_id=first, points=150)
        await till.holds.CaptureHold(capture)
        await till.holds.VoidHold(holds_pb2.VoidHoldRequest(request_id=uuid4().hex, hold_id=second))
        await till.points.RefundRedemption(
            movements_pb2.RefundRedemptionRequest(request_id=uuid4().hex, transaction_id=paid.transaction_id)
        )
        key = await home.laurel.new_key(CallerKind.STAFF, scopes=["points.adjust"])
        await (await home.laurel.caller(key)).points.AdjustPoints(
            movements_pb2.AdjustPointsRequest(
                request_id=uuid4().hex, member_id=home.id, points=-50, reason="counted twice"
            )
        )
        await told(
            ann,
            home,
            ("household_redeemed", 100, 800),
            ("household_held", 200, 600),
            ("household_held", 50, 550),
            # What the capture left over is free again in the same moment.
            ("household_captured", 150, 600),
            ("household_released", 50, 600),
            ("household_released", 50, 650),
            ("household_refunded", 100, 750),
            ("household_taken_out", 50, 700),
        )
        await told(ben, home, ("spent_from_household", 100, 800), ("household_held", 200, 600))
        await told(ben, home, ("household_held", 50, 550), ("spent_from_household", 150, 550))
        await told(ben, home, ("household_released", 50, 600), ("household_released", 50, 650))
        await told(ben, home, ("household_refunded", 100, 750), ("household_taken_out", 50, 700))


async def test_where_and_for_what_others_spend_is_not_told(home: Home) -> None:
    async with home.watched_by(home.ann) as ann, home.watched_by(home.ben) as ben:
        await ann.next("standing")
        await ben.next("standing")
        await home.spends(home.ben, 100, "R-1")
        await home.holds(home.ben, 200, "R-2")
        for _ in range(2):
            update = await ann.next("points")
            assert (update.order_reference, update.store, update.activity_type) == ("", "", "")
        spent, held = await ben.next("points"), await ben.next("points")
        assert (spent.order_reference, spent.store) == ("R-1", "pune-3")
        assert held.order_reference == "R-2"


async def test_what_comes_in_is_told_beside_what_went_out_of_a_members_own_wallet(home: Home) -> None:
    await buy(home.laurel.terminal, home.ben, 30)
    async with home.watched_by(home.ann) as ann, home.watched_by(home.ben) as ben:
        await ann.next("standing")
        await ben.next("standing")
        await home.gives(home.ben, 20)
        await told(ann, home, ("household_received", 20, 920))
        own = await ben.next("points")
        assert (own.kind, own.household_id, own.moved[0].wallet.balance) == ("handed_on", "", 10)
        await told(ben, home, ("household_received", 20, 920))


async def test_a_pool_is_told_of_from_joining_to_leaving_also_to_who_was_away(home: Home) -> None:
    carl = await home.laurel.register()
    async with home.watched_by(carl) as stream:
        assert not (await stream.next("standing")).HasField("household")
        await home.spends(home.ann, 1)
        await home.joins(carl)
        await home.spends(home.ann, 2)
        await told(stream, home, ("household_redeemed", 2, 897))
        place = stream.event_id
    await home.spends(home.ann, 3)
    await home.leaves(carl)
    await home.spends(home.ann, 4)
    await home.joins(carl)
    await home.spends(home.ann, 5)
    async with home.watched_by(carl, place) as stream:
        await told(stream, home, ("household_redeemed", 3, 894), ("household_redeemed", 5, 885))
        await home.leaves(carl)
        await home.spends(home.ann, 6)
        await buy(home.laurel.terminal, carl, 7)
        assert (await stream.next("points")).message == "You've earned 7 points"


async def test_whoever_was_away_is_told_of_all_that_fills_more_than_a_page_once(home: Home) -> None:
    async with home.watched_by(home.ben) as stream:
        await stream.next("standing")
        place = stream.event_id
    spent = list(range(1, 61))
    for points in spent:
        await home.spends(home.ann if points % 2 else home.ben, 1)
    heard: list[tuple[str, int]] = []
    while len(heard) < len(spent):
        # Cut off again and again.
        async with home.watched_by(home.ben, place) as stream:
            for _ in range(min(17, len(spent) - len(heard))):
                update = await stream.next("points")
                heard.append((update.kind, update.moved[0].wallet.balance))
            place = stream.event_id
    expected = [("household_redeemed" if n % 2 else "spent_from_household", 900 - n) for n in spent]
    assert heard == expected


async def test_hints_of_the_pool_wake_those_who_sit_there_also_when_the_clock_moves_it(home: Home) -> None:
    laurel = home.laurel
    program_id, database = laurel.program.program_id, laurel.database
    async with (
        Redis.from_url(laurel.settings.redis_url.get_secret_value()) as redis,
        closing(Live(database, Programs(), redis, now, look_seconds=3600.0)) as live,
        closing(Hints(redis)) as hints,
        aclosing(live.watch(program_id, UUID(home.ben), None)) as stream,
        asyncio.timeout(60),
    ):
        assert (await anext(stream)).standing is not None
        # The first may be found as it begins to listen, and that is looked for once.
        for points in (1, 2, 3):
            await home.spends(home.ann, points)
            assert (await anext(stream)).update.kind == "household_redeemed"
        await home.holds(home.ann, 4)
        assert (await anext(stream)).update.kind == "household_held"
        keys = secrets.load(laurel.settings.secrets_file).ledger
        later = now() + timedelta(days=1)
        runs = Runs(database, Programs(), keys, lambda: later, new_id, hints=hints)
        assert sum([done.members["points", "released"] async for done in runs.catch_up(program_id)]) >= 1
        assert (await anext(stream)).update.kind == "household_released"


async def test_an_open_transaction_of_somebody_else_delays_nothing(home: Home, database_url: str) -> None:
    early = await asyncpg.connect(database_url)
    try:
        async with early.transaction(), home.watched_by(home.ben) as stream:
            await early.execute("SELECT pg_current_xact_id()")
            await stream.next("standing")
            await home.spends(home.ann, 5)
            await told(stream, home, ("household_redeemed", 5, 895))
    finally:
        await early.close()
