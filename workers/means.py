"""What a channel is, and what it is made with."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime

from server.domain.deliveries import Delivery
from server.store.database import Database
from server.store.sealing import Sealer
from workers.settings import WorkerSettings

# Sends one delivery, and says in a word what the receiver answered if that is worth keeping. It reads what
# to send at that moment. Raises Temporary, Permanent, Unwanted or Postponed, with no personal data in them;
# anything else counts as temporary. It is cut off after the deliveries' ``send_seconds``.
Send = Callable[[Delivery], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Means:
    """What channels are given. ``clock`` tells the time, aware, in UTC."""

    database: Database
    sealer: Sealer
    settings: WorkerSettings
    clock: Callable[[], datetime]


# Opens a channel for as long as its worker runs.
Channel = Callable[[Means], AbstractAsyncContextManager[Send]]
