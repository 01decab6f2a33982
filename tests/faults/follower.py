"""`python -m tests.faults.follower`: a worker as it is run, with consumers that note what they are told."""

import asyncio
import sys
from collections.abc import Sequence

from server.store.database import Connection
from server.store.log import LoggedEvent
from tests.support.log import noting
from workers.__main__ import main
from workers.deliveries import Pace
from workers.subscriptions import SUBSCRIPTIONS, Subscription

SLOW_SECONDS = 0.2
# As ever, but for the waits: on a busy machine also a peer that is well may take too long, more than once.
PACE = Pace(waits=(1.0,) * 60)


async def dawdle(connection: Connection, events: Sequence[LoggedEvent]) -> None:
    """Within the transaction, so that whoever is stopped is most likely stopped there."""
    await note_slowly(connection, events)
    await asyncio.sleep(SLOW_SECONDS)


note_slowly = noting("slow")
# Beside those of the product: each effect of these shows, also one that comes twice or in the wrong order.
CONSUMERS = {
    "all": Subscription(noting("all")),
    "few": Subscription(noting("few"), rows=7),
    "slow": Subscription(dawdle, rows=50),
}

if __name__ == "__main__":
    sys.exit(main({**SUBSCRIPTIONS, **CONSUMERS}, PACE))
