"""What is told of consumers and of the log is what is there."""

from collections.abc import AsyncIterator, Mapping
from uuid import uuid4

import pytest

from server.operations import lag
from server.operations.lag import Behind
from server.store import subscriptions
from server.store.database import Database
from server.store.log import Position
from telemetry.metrics import Gauge, Labels, Metrics
from tests.support.log import append, buried
from tests.support.waiting import eventually


@pytest.fixture
def consumer() -> str:
    """A name that no other test has."""
    return f"test-{uuid4().hex[:8]}"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def behind(
    database: Database, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Behind]:
    monkeypatch.setattr(lag, "FRESH_SECONDS", 0.0)
    return Behind(metrics, database)


async def told(metrics: Metrics, behind: Behind) -> dict[str, Mapping[Labels, float]]:
    await behind.look()
    return {gauge.about.name: gauge.read() for gauge in metrics if isinstance(gauge, Gauge)}


async def test_a_consumer_is_behind_by_what_it_has_not_done_with(
    database: Database, metrics: Metrics, behind: Behind, consumer: str
) -> None:
    await buried(database, consumer, 2)
    async with database.transaction() as connection:
        await subscriptions.enrol(connection, [], [consumer])
        await append(connection, 3)
    figures = await told(metrics, behind)
    assert figures["laurel.subscription.behind"][(consumer,)] == 3
    assert figures["laurel.subscription.lag"][(consumer,)] > 0
    assert figures["laurel.dead_letters"][(consumer,)] == 2
    async with database.transaction() as connection:
        lease = await subscriptions.take(connection, consumer, "somebody", 60.0)
        assert lease is not None
        await subscriptions.failed(connection, lease, "KeyError", 60.0)
    figures = await told(metrics, behind)
    assert figures["laurel.subscription.attempts"][(consumer,)] == 1
    async with database.transaction() as connection:
        last = await connection.fetchrow(
            "SELECT epoch, xid, position FROM event_log ORDER BY epoch DESC, xid DESC, position DESC LIMIT 1"
        )
        lease = await subscriptions.take(connection, consumer, "somebody", 60.0)
        assert lease is not None
        await subscriptions.move(connection, lease, Position(*last), 0.0)
    figures = await told(metrics, behind)
    assert figures["laurel.subscription.behind"][(consumer,)] == 0
    assert figures["laurel.subscription.lag"][(consumer,)] == 0
    assert figures["laurel.subscription.attempts"][(consumer,)] == 0


async def test_who_is_far_behind_is_told_about_how_far(
    database: Database, consumer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.transaction() as connection:
        await append(connection, 50)
        await subscriptions.enrol(connection, [consumer], [])
    async with database.connection() as connection:
        [exactly] = [s for s in await subscriptions.standings(connection) if s.consumer == consumer]
        monkeypatch.setattr(subscriptions, "COUNTED", 10)
        [about] = [s for s in await subscriptions.standings(connection) if s.consumer == consumer]
    assert exactly.behind >= 50
    # Positions have gaps, where a transaction was rolled back.
    assert about.behind >= exactly.behind


async def test_an_old_transaction_that_holds_the_log_back_shows(
    database: Database, metrics: Metrics, behind: Behind
) -> None:
    async with database.connection() as old:
        await old.execute("BEGIN")
        await old.fetchval("SELECT pg_current_xact_id()")
        async with database.transaction() as connection:
            await append(connection)
        assert (await told(metrics, behind))["laurel.log.held_back"][()] > 0
        await old.execute("ROLLBACK")

    async def readable() -> bool:
        return (await told(metrics, behind))["laurel.log.held_back"][()] == 0

    await eventually(readable, 30.0)


async def test_an_index_leads_to_what_is_held_back(database: Database) -> None:
    async with database.connection() as connection, connection.transaction():
        # The log of a test is so small that reading it whole would be cheaper.
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        plan = await connection.fetch(f"EXPLAIN {subscriptions.HELD_BACK}", 10_000)
    text = "\n".join(row[0] for row in plan)
    assert "Index Scan using event_log_pkey" in text, text
    assert "Index Cond: (ROW(epoch, xid) >= ROW(" in text, text


async def test_without_a_database_nothing_is_told_rather_than_that_all_is_well(
    database_url: str, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "FRESH_SECONDS", 0.0)
    gone = await Database.open(database_url, connections=1)
    figures = await told(metrics, behind := Behind(metrics, gone))
    assert figures["laurel.log.held_back"]
    await gone.close()
    figures = await told(metrics, behind)
    assert not any(figures.values())
