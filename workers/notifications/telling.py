"""What members are to be told: an event becomes messages, and deliveries through what is set up."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache

from server.operations.telling import tell
from server.store.database import Connection
from server.store.log import LoggedEvent
from workers.settings import ChannelSettings


async def handle(connection: Connection, events: Sequence[LoggedEvent]) -> None:
    """Write messages for these events."""
    await tell(connection, events, _outside(), datetime.now(UTC))


@cache
def _outside() -> frozenset[str]:
    # A handler is given no settings; these have defaults and stand in the environment alone.
    return ChannelSettings().outside
