"""The relay brings every event to every consumer, each in effect once, whatever goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from server.store.database import Connection, Database
from server.store.log import LoggedEvent
from telemetry.metrics import Metrics
from tests.support.waiting import eventually
from workers.relay import Relay
from workers.subscriptions import Handler, Subscription
from workers.watch import Watch

NIL = UUID(int=0)


@pytest.fixture
def consumer() -> str:
    """A name that no other test has."""
    return f"test-{uuid4().hex[:8]}"


@pytest.fixture(scope="module", autouse=True)
async def noted(database: Database) -> None:
    """What handlers of these tests write: once, or the test sees it."""
    async with database.connection() as connection:
        await connection.execute(
            "CREATE TABLE noted (consumer text, event_id uuid, run bigint DEFAULT txid_current())"
        )


def noting(consumer: str) -> Handler:
    async def handle(connection: Connection, events: Sequence[LoggedEvent]) -> None:
        await connection.executemany(
            "INSERT INTO noted VALUES ($1, $2)", [(consumer, event.event_id) for event in events]
        )

    return handle


async def append(connection: Connection, count: int = 1, event_type: str = "test.happened") -> list[UUID]:
    """Events in the transaction of the connection."""
    ids = [uuid7() for _ in range(count)]
    await connection.executemany(
        """INSERT INTO event_log (epoch, event_id, event_type, program_id, member_id,
                                  occurred_at, recorded_at, payload)
           VALUES ((SELECT max(epoch) FROM log_epoch), $1, $2, $3, $3, $4, $4, '{}')""",
        [(event_id, event_type, NIL, datetime.now(UTC)) for event_id in ids],
    )
    return ids


async def seen(database: Database, consumer: str) -> list[UUID]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT event_id FROM noted WHERE consumer = $1", consumer)
    return [row["event_id"] for row in rows]


@asynccontextmanager
async def relaying(
    database: Database, subscriptions: Mapping[str, Subscription], **wishes: float
) -> AsyncIterator[Relay]:
    relay = Relay(database, subscriptions, uuid4().hex, uuid7, Watch(Metrics()), **wishes)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        await relay.stop(5.0)
        await task


async def test_each_event_is_handed_over_once(database: Database, consumer: str) -> None:
    async with database.transaction() as connection:
        ids = await append(connection, 1200)
    async with relaying(database, {consumer: Subscription(noting(consumer))}):
        await eventually(lambda: has(database, consumer, ids))
        async with database.transaction() as connection:
            ids += await append(connection, 3)
        await eventually(lambda: has(database, consumer, ids))
    async with relaying(database, {consumer: Subscription(noting(consumer))}):
        async with database.transaction() as connection:
            ids += await append(connection)
        await eventually(lambda: has(database, consumer, ids))


async def has(database: Database, consumer: str, ids: Sequence[UUID]) -> bool:
    """Whether all these were noted; never one twice, nor before one that comes earlier."""
    found = [event_id for event_id in await seen(database, consumer) if event_id in set(ids)]
    assert found == list(ids[: len(found)])
    return len(found) == len(ids)
