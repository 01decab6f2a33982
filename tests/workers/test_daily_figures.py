"""Daily figures follow what happens, agree with the ledger, and come to the same when counted again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money
from loyalty.v1 import households_pb2, points_pb2, reports_pb2

from server.domain.actor import CallerKind
from server.domain.errors import FailedPrecondition
from server.domain.figures import EVENT_TYPES, Figures, Measure
from server.settings import Settings
from server.store import figures, projections
from server.store.database import Connection, Database
from server.store.figures import PROJECTION
from server.store.log import LoggedEvent
from tests.support.clocks import opened
from tests.support.movements import movements, once
from tests.support.published import publish
from tests.support.refusals import refusal
from tests.support.relays import caught_up, relaying
from tests.support.servers import Laurel, started
from tests.support.waiting import eventually
from workers.projections import daily_figures
from workers.projections.rebuild import Progress, UnderWay, rebuild
from workers.subscriptions import SUBSCRIPTIONS, Subscription

CONSUMERS = {PROJECTION: SUBSCRIPTIONS[PROJECTION]}
BASE = {"rule": "base", "then": [{"earn": {"points": 1, "per": "1.00"}}]}
# What came from a program less what went back to it, and what its members have.
CAME = (Measure.EARNED, Measure.REFUNDED, Measure.ADJUSTED_IN)
WENT = (Measure.REDEEMED, Measure.EXPIRED, Measure.RETURNED, Measure.ADJUSTED_OUT)
OUTSTANDING = """SELECT program_id, point_type, sum(balance + pending + held - debt) FROM wallet
                  GROUP BY 1, 2 HAVING sum(balance + pending + held - debt) <> 0"""


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """A point a rupee."""
    await publish(laurel, BASE)
    return laurel


@pytest.fixture
async def at_work(database: Database) -> AsyncIterator[None]:
    """Somebody counts."""
    async with relaying(database, CONSUMERS):
        yield


async def counted(database: Database) -> Figures:
    """All figures that are read now."""
    async with database.transaction() as connection:
        generations = await projections.following(connection, PROJECTION)
        return await figures.everything(connection, generations.current)


async def rebuilt(database: Database) -> list[Progress]:
    return [progress async for progress in rebuild(database, daily_figures.Build())]


async def has_counted(database: Database, events: int) -> bool:
    async with database.connection() as connection:
        place = await projections.place(connection, PROJECTION)
        return await projections.events_up_to(connection, place) >= events


async def agree_with_the_ledger(database: Database) -> None:
    """To the point, for every program and wallet."""
    outstanding: dict[tuple[UUID, str], Decimal] = {}
    for key, amount in (await counted(database)).items():
        sign = (key.measure in CAME) - (key.measure in WENT)
        if sign and not key.rule:
            where = (key.program_id, key.unit)
            outstanding[where] = outstanding.get(where, Decimal(0)) + sign * amount
    async with database.connection() as connection:
        wallets = {(r[0], r[1]): r[2] for r in await connection.fetch(OUTSTANDING)}
    assert {key: amount for key, amount in outstanding.items() if amount} == wallets


def days(since: date, until: date, **more: object) -> reports_pb2.ListDailyFiguresRequest:
    return reports_pb2.ListDailyFiguresRequest(
        from_date=Date(year=since.year, month=since.month, day=since.day),
        to_date=Date(year=until.year, month=until.month, day=until.day),
        **more,  # type: ignore[arg-type]
    )


async def today(shop: Laurel, **more: object) -> reports_pb2.ListDailyFiguresResponse:
    """The figures of these days; a day more on both sides, should it be midnight."""
    now = shop.program.business_date(datetime.now(UTC))
    request = days(now - timedelta(days=1), now + timedelta(days=1), **more)
    return await shop.staff.reports.ListDailyFigures(request)


@pytest.mark.usefixtures("at_work")
async def test_every_kind_of_movement_counts_where_it_belongs(settings: Settings, database: Database) -> None:
    async with started(settings, database) as alone:
        await publish(alone, BASE)
        staff = await alone.caller(await alone.new_key(CallerKind.STAFF, scopes=["points.*"]))
        member_id = await alone.register()
        async for _ in movements(alone.terminal, alone.service, staff, member_id):
            pass
        began = datetime.now(UTC)
        await caught_up(database, CONSUMERS)
        reply = await today(alone)
    assert reply.as_of_time.ToDatetime(tzinfo=UTC) >= began
    [shown] = reply.figures
    assert (shown.joined, shown.purchases, shown.redemptions, shown.returns, shown.refunds) == (1, 1, 2, 1, 1)
    assert list(shown.amounts) == [Money(currency_code="INR", units=500)]
    assert list(shown.points) == [
        reports_pb2.PointFigures(
            point_type="points", earned=500, redeemed=45, returned=500, refunded=10, adjusted_in=20_300
        )
    ]
    [rule] = shown.rules
    assert (rule.rule, rule.activities, rule.points[0].earned) == ("base", 1, 500)
    await agree_with_the_ledger(database)


@pytest.mark.usefixtures("at_work")
async def test_days_stores_and_rules_are_filters_and_pages_go_on(shop: Laurel, database: Database) -> None:
    member_id = await shop.register()
    now = datetime.now(UTC)
    for store in ("north", "south"):
        for ago in (0, 2, 4):
            request = points_pb2.AccrueRequest(
                **once(),
                member_id=member_id,
                order_reference=uuid4().hex,
                store=store,
                amount=Money(currency_code="INR", units=7, nanos=500_000_000),
            )
            request.occur_time.FromDatetime(now - timedelta(days=ago))
            await shop.service.points.Accrue(request)
    await caught_up(database, CONSUMERS)
    until = shop.program.business_date(now)
    since = until - timedelta(days=4)
    request = days(since, until, store="north")
    north = (await shop.staff.reports.ListDailyFigures(request)).figures
    assert [(f.store, f.date.day) for f in north] == [
        ("north", (since + timedelta(days=n)).day) for n in (0, 2, 4)
    ]
    assert [(f.amounts[0].units, f.amounts[0].nanos, f.purchases) for f in north] == [(7, 500_000_000, 1)] * 3

    whole = list((await shop.staff.reports.ListDailyFigures(days(since, until))).figures)
    paged: list[reports_pb2.DailyFigures] = []
    request = days(since, until, page_size=2)
    while True:
        page = await shop.staff.reports.ListDailyFigures(request)
        assert len(page.figures) <= 2
        paged += page.figures
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert paged == whole
    by_rule = (await shop.staff.reports.ListDailyFigures(days(since, until, rule="base"))).figures
    assert {f.store for f in by_rule} >= {"north", "south"}
    assert not (await shop.staff.reports.ListDailyFigures(days(since, until, rule="none"))).figures
    assert not (await shop.staff.reports.ListDailyFigures(days(date(2020, 1, 1), date(2020, 2, 1)))).figures


@pytest.mark.usefixtures("at_work")
async def test_what_a_household_s_pool_pays_counts_as_any_redemption(
    shop: Laurel, database: Database
) -> None:
    member_id = await shop.register()
    mine = {"member_id": member_id}
    await shop.service.households.CreateHousehold(households_pb2.CreateHouseholdRequest(**once(), **mine))
    amount = Money(currency_code="INR", units=60)
    bought = points_pb2.AccrueRequest(
        **once(), **mine, order_reference=uuid4().hex, store="pool", amount=amount
    )
    await shop.service.points.Accrue(bought)
    await shop.service.households.ContributePoints(
        households_pb2.ContributePointsRequest(**once(), **mine, points=50)
    )
    spent = points_pb2.RedeemRequest(**once(), **mine, points=20, from_household=True, store="pool")
    await shop.service.points.Redeem(spent)
    await caught_up(database, CONSUMERS)
    [points] = [points for f in (await today(shop, store="pool")).figures for points in f.points]
    assert (points.earned, points.redeemed, points.adjusted_in) == (60, 20, 0)
    await agree_with_the_ledger(database)


async def test_only_staff_and_services_see_figures_and_a_range_has_an_end(shop: Laurel) -> None:
    told = await refusal(shop.terminal.reports.ListDailyFigures(days(date(2026, 1, 1), date(2026, 1, 2))))
    assert told.code == grpc.StatusCode.PERMISSION_DENIED
    told = await refusal(shop.staff.reports.ListDailyFigures(days(date(2026, 1, 2), date(2026, 1, 1))))
    assert told.violations == {"to_date": "must not be before from_date"}


@pytest.mark.usefixtures("at_work")
async def test_counted_again_while_the_shop_is_open_it_is_the_same(
    database: Database, settings: Settings, secrets_file: Path
) -> None:
    redis_url = settings.redis_url.get_secret_value()
    async with opened(database, redis_url, secrets_file, days_ago=40) as clockwork:
        members = await clockwork.customers(20)
        stop = asyncio.Event()

        async def trade(member_id: UUID) -> None:
            while not stop.is_set():
                await clockwork.submit(clockwork.purchase(member_id, 3))
                # What was earned a moment ago may have expired in it.
                with suppress(FailedPrecondition):
                    await clockwork.submit(clockwork.redemption(member_id, 2))
                    await clockwork.submit(clockwork.reservation(member_id, 1, seconds=60))

        trading = [asyncio.create_task(trade(member_id)) for member_id in members[:8]]
        for enough in (600, 1200):
            # Points activate, expire and are released meanwhile.
            clockwork.now += timedelta(days=12)
            await clockwork.catch_up()
            await eventually(partial(has_counted, database, enough), 60)
            progress = await rebuilt(database)
            assert progress[-1].done > 0
        stop.set()
        await asyncio.gather(*trading)
    await caught_up(database, CONSUMERS)
    live = await counted(database)
    await rebuilt(database)
    assert await counted(database) == live
    await agree_with_the_ledger(database)
    async with database.connection() as connection:
        # Of what was built before nothing is left.
        assert await connection.fetchval("SELECT count(DISTINCT generation) FROM daily_figure") == 1


async def test_a_build_that_was_left_lying_is_replaced_and_one_under_way_is_not(database: Database) -> None:
    left = rebuild(database, daily_figures.Build())
    await anext(left)
    with pytest.raises(UnderWay):
        await rebuilt(database)
    before = await counted(database)
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE projection SET building_seen = building_seen - interval '1 hour' WHERE name = $1",
            PROJECTION,
        )
    await rebuilt(database)
    with pytest.raises(projections.Superseded):
        await anext(left)
    assert await counted(database) == before


async def test_a_dead_letter_is_left_out_until_it_is_replayed(shop: Laurel, database: Database) -> None:
    member_id = UUID(await shop.register())

    async def poisoned(connection: Connection, events: Sequence[LoggedEvent]) -> None:
        if any(event.member_id == member_id for event in events):
            raise ValueError("poison")
        await daily_figures.handle(connection, events)

    async def joined() -> int:
        found = await counted(database)
        return sum(int(amount) for key, amount in found.items() if key.measure is Measure.JOINED)

    async with relaying(database, {PROJECTION: Subscription(poisoned, EVENT_TYPES)}):
        await caught_up(database, CONSUMERS)
    without = await joined()
    await rebuilt(database)
    assert await joined() == without

    building = rebuild(database, daily_figures.Build())
    steps = [await anext(building), await anext(building)]
    async with relaying(database, CONSUMERS):
        async with database.connection() as connection:
            await connection.execute("UPDATE dead_letter SET status = 'replaying'")

        async def replayed() -> bool:
            async with database.connection() as connection:
                return bool(
                    await connection.fetchval("SELECT bool_and(status = 'replayed') FROM dead_letter")
                )

        await eventually(replayed, 60)
        assert await joined() == without + 1
        steps += [step async for step in building]
    assert await joined() == without + 1
