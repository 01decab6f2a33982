"""What members are to be told: an event becomes messages, and deliveries through what is set up."""

from collections.abc import Sequence
from datetime import UTC, datetime

from server.domain.notifications.decide import NEWS_FOR
from server.operations.telling import tell
from server.store.channels import open_of_late
from server.store.database import Connection
from server.store.log import LoggedEvent


async def handle(connection: Connection, events: Sequence[LoggedEvent]) -> None:
    """Write messages for these events.

    Which deliveries that makes is the same whichever worker does it: a channel counts that any worker had
    open while what happened is news.
    """
    await tell(connection, events, await open_of_late(connection, NEWS_FOR), datetime.now(UTC))
