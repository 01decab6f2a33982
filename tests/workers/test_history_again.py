"""Timelines are noted once, whatever comes twice, dies or is noted again, and the log alone says the same."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from loyalty.v1 import member_pb2 as pb
from loyalty.v1 import points_pb2

from server.domain.errors import FailedPrecondition
from server.domain.timeline import EVENT_TYPES
from server.settings import Settings
from server.store import log as event_log
from server.store import projections
from server.store.database import Connection, Database
from server.store.log import BEGINNING, LoggedEvent
from server.store.timeline import PROJECTION
from tests.support.clocks import opened
from tests.support.homes import Home
from tests.support.movements import once
from tests.support.published import publish
from tests.support.relays import caught_up, relaying
from tests.support.servers import Laurel, started
from tests.support.timelines import BASE, CONSUMERS, followed, noted, read, rebuilt
from tests.support.waiting import eventually
from tests.support.watching import buy
from workers.projections import history
from workers.projections.rebuild import rebuild
from workers.subscriptions import Subscription


@pytest.fixture(scope="module")
async def shop(settings: Settings, database: Database) -> AsyncIterator[Laurel]:
    """A point a rupee."""
    async with started(settings, database) as laurel:
        await publish(laurel, BASE)
        yield laurel


async def test_the_log_alone_says_what_the_read_model_does(shop: Laurel, database: Database) -> None:
    home, others = Home(shop), [await shop.register() for _ in range(3)]
    await home.found(200)
    for member_id in others:
        await home.spends(home.ann, 1)
        await home.joins(member_id)
        await home.spends(member_id, 2)
        await home.holds(home.ben, 3)
        await home.leaves(member_id)
        await buy(shop.terminal, member_id, 4)
    await home.joins(others[0])
    await home.spends(home.ben, 5)
    await shop.staff.members.MergeMembers(
        pb.MergeMembersRequest(**once(), member_id=home.ben, merged_member_id=others[1])
    )
    await followed(database)
    expected = await noted(database)
    members = [home.ann, home.ben, *others]
    tokens: dict[str, str] = {}
    for member_id in members:
        shown = points_pb2.GetBalanceRequest(member_id=member_id)
        tokens[member_id] = (await shop.staff.points.GetBalance(shown)).consistency_token
    told = {member_id: await read(shop, member_id) for member_id in members}
    async with database.connection() as connection:
        # As if nothing had been followed yet.
        await connection.execute("DELETE FROM timeline_entry")
        await connection.execute(
            "UPDATE subscription SET epoch = 0, xid = '0', position = 0 WHERE consumer = $1", PROJECTION
        )
    for member_id in members:
        assert await read(shop, member_id) == []
        for size in (500, 2):
            exact = await read(shop, member_id, page_size=size, consistency_token=tokens[member_id])
            assert exact == told[member_id]
    await followed(database)
    assert await noted(database) == expected


async def test_an_event_that_comes_twice_is_noted_once(shop: Laurel, database: Database) -> None:
    home = Home(shop)
    await home.found(10)
    await followed(database)
    before = await noted(database)
    async with database.transaction() as connection:
        stretch = await event_log.read(connection, BEGINNING, EVENT_TYPES, 10_000)
        assert stretch.events
        await history.handle(connection, stretch.events)
    assert await noted(database) == before


async def test_noted_again_while_the_shop_is_open_it_is_the_same(
    shop: Laurel, database: Database, settings: Settings, secrets_file: Path
) -> None:
    redis_url = settings.redis_url.get_secret_value()
    home = Home(shop)
    await home.found(10_000)
    async with (
        relaying(database, CONSUMERS),
        opened(database, redis_url, secrets_file, days_ago=40) as clockwork,
    ):
        members = await clockwork.customers(20)
        stop = asyncio.Event()

        async def trade(member_id: UUID) -> None:
            while not stop.is_set():
                await clockwork.submit(clockwork.purchase(member_id, 3))
                # What was earned a moment ago may have expired in it.
                with suppress(FailedPrecondition):
                    await clockwork.submit(clockwork.redemption(member_id, 2))

        async def live_together() -> None:
            while not stop.is_set():
                await home.spends(home.ann, 1)
                await home.leaves(home.ben)
                await home.spends(home.ann, 1)
                await home.joins(home.ben)

        trading = [asyncio.create_task(trade(member_id)) for member_id in members[:6]]
        trading.append(asyncio.create_task(live_together()))
        for enough in (600, 1200):
            # Points activate and expire meanwhile.
            clockwork.now += timedelta(days=12)
            await clockwork.catch_up()
            await eventually(partial(has_noted, database, enough), 60)
            assert await rebuilt(database) > 0
        stop.set()
        await asyncio.gather(*trading)
        await caught_up(database, CONSUMERS)
    live = await noted(database)
    assert {entry.kind for entry in live} >= {"earned", "redeemed", "activated", "household_redeemed"}
    await rebuilt(database)
    assert await noted(database) == live
    async with database.connection() as connection:
        # Of what was built before nothing is left.
        assert await connection.fetchval("SELECT count(DISTINCT generation) FROM timeline_entry") == 1


async def has_noted(database: Database, events: int) -> bool:
    async with database.connection() as connection:
        place = await projections.place(connection, PROJECTION)
        return await projections.events_up_to(connection, place) >= events


async def test_a_dead_letter_is_left_out_until_it_is_replayed(shop: Laurel, database: Database) -> None:
    home = Home(shop)
    await home.found(50)
    await followed(database)
    await home.spends(home.ann, 7)
    before = await noted(database)

    async def poisoned(connection: Connection, events: Sequence[LoggedEvent]) -> None:
        if any(event.member_id == UUID(home.id) for event in events):
            raise ValueError("poison")
        await history.handle(connection, events)

    async with relaying(database, {PROJECTION: Subscription(poisoned, EVENT_TYPES)}):
        await caught_up(database, CONSUMERS)
    own = {entry for entry in await noted(database) if entry not in before}
    assert {(str(entry.member_id), entry.kind) for entry in own} == {(home.ann, "spent_from_household")}
    await rebuilt(database)
    assert await noted(database) == sorted([*before, *own])

    building = rebuild(database, history.Build())
    await anext(building)
    await anext(building)
    # By the time at which it is replayed Ben sits there no more.
    await home.leaves(home.ben)
    async with relaying(database, CONSUMERS):
        async with database.connection() as connection:
            await connection.execute("UPDATE dead_letter SET status = 'replaying'")

        async def replayed() -> bool:
            async with database.connection() as connection:
                return bool(
                    await connection.fetchval("SELECT bool_and(status = 'replayed') FROM dead_letter")
                )

        await eventually(replayed, 60)
        await caught_up(database, CONSUMERS)
        live = await noted(database)
        async for _ in building:
            pass
    assert await noted(database) == live
    [told] = [e for e in live if str(e.member_id) == home.ben and e.kind == "household_redeemed"]
    assert told not in before
