"""Events to put into the log, and handlers that note in the database what they were told."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

from server.ids import new_id
from server.store import dead_letters, log
from server.store.database import Connection, Database
from server.store.log import LoggedEvent, Position
from telemetry.metrics import Metrics
from workers.relay import Relay
from workers.subscriptions import Handler, Subscription
from workers.watch import Watch

NIL = UUID(int=0)
# In the order in which they are noted; an event that takes effect twice is there twice.
NOTED = """CREATE TABLE IF NOT EXISTS noted (number bigint GENERATED ALWAYS AS IDENTITY, consumer text,
                                             event_id uuid, member_id uuid)"""


async def append(
    connection: Connection,
    count: int = 1,
    event_type: str = "test.happened",
    program_id: UUID = NIL,
    member_id: UUID = NIL,
) -> list[UUID]:
    """Events, in the transaction of the connection if it is in one."""
    ids = [new_id() for _ in range(count)]
    await connection.execute(
        """INSERT INTO event_log (epoch, event_id, event_type, program_id, member_id,
                                  occurred_at, recorded_at, payload)
           SELECT (SELECT max(epoch) FROM log_epoch), unnest($1::uuid[]), $2, $3, $4, $5, $5, '{}'""",
        ids,
        event_type,
        program_id,
        member_id,
        datetime.now(UTC),
    )
    return ids


async def buried(database: Database, consumer: str, count: int = 1, **facts: UUID) -> list[UUID]:
    """Dead letters of events of their own, the newest last."""
    ids = []
    async with database.transaction() as connection:
        for event_id in await append(connection, count, **facts):
            place = await connection.fetchrow(
                "SELECT epoch, xid, position FROM event_log WHERE event_id = $1", event_id
            )
            event = await log.at(connection, Position(*place))
            assert event is not None
            ids.append(new_id())
            await dead_letters.bury(connection, ids[-1], consumer, event, "KeyError")
    return ids


def noting(consumer: str) -> Handler:
    """A handler that writes down each event it is handed."""

    async def handle(connection: Connection, events: Sequence[LoggedEvent]) -> None:
        await connection.execute(
            """INSERT INTO noted (consumer, event_id, member_id)
               SELECT $1, * FROM unnest($2::uuid[], $3::uuid[])""",
            consumer,
            [event.event_id for event in events],
            [event.member_id for event in events],
        )

    return handle


async def noted(database: Database, consumer: str) -> list[UUID]:
    """What a consumer wrote down, in order."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT event_id FROM noted WHERE consumer = $1 ORDER BY number", consumer
        )
    return [row["event_id"] for row in rows]


@asynccontextmanager
async def relaying(
    database: Database, subscriptions: Mapping[str, Subscription], lease_seconds: float = 10.0
) -> AsyncIterator[Relay]:
    """A relay at work for as long as the block lasts."""
    relay = Relay(database, subscriptions, uuid4().hex, new_id, Watch(Metrics()), lease_seconds)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        await relay.stop(10.0)
        await task
