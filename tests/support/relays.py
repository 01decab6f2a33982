"""Workers' relays within a test, and waiting until consumers have come to the end of the log."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from uuid import uuid4

from uuid_utils.compat import uuid7

from server.store import subscriptions
from server.store.database import Database
from telemetry.metrics import Metrics
from tests.support.waiting import eventually
from workers.relay import Relay
from workers.subscriptions import Subscription
from workers.watch import Watch


@asynccontextmanager
async def relaying(
    database: Database, consumers: Mapping[str, Subscription], **wishes: float
) -> AsyncIterator[Relay]:
    """A relay that works for these consumers for as long as the block lasts."""
    relay = Relay(database, consumers, uuid4().hex, uuid7, Watch(Metrics()), **wishes)
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        await relay.stop(5.0)
        await task


async def caught_up(database: Database, consumers: Collection[str]) -> None:
    """Wait until these have read all that is in the log by now."""

    async def done() -> bool:
        async with database.connection() as connection:
            found = {s.consumer: s.behind for s in await subscriptions.standings(connection)}
        return all(found.get(name) == 0 for name in consumers)

    await eventually(done, 60)
