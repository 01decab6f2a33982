"""`python -m tests.faults.dying CONSUMER STEP`: a worker as it is run, that kills itself at a step.

Of consumers: `taken` the lease, `read` the log, `handled` what it read, `moved` on but not committed,
`committed`. Of channels: `claimed` a delivery, `sent` it, `recorded` that. Nothing in the product knows of
this.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from server.domain.deliveries import Delivery
from server.store import deliveries, subscriptions
from server.store.database import Connection, Database
from server.store.log import LoggedEvent
from workers.channels import CHANNELS
from workers.deliveries import Pace
from workers.main import work
from workers.means import Channel, Means, Send
from workers.settings import WorkerSettings
from workers.subscriptions import SUBSCRIPTIONS, Subscription

OF_CONSUMERS = ("taken", "read", "handled", "moved", "committed")
OF_CHANNELS = ("claimed", "sent", "recorded")
PACE = Pace(poll_seconds=0.1, lease_seconds=2.0, send_seconds=1.5)

Doing = Callable[..., Awaitable[Any]]
# In the transaction of this task is what kills once it is committed.
doomed: ContextVar[bool] = ContextVar("doomed", default=False)


def die(*_: object) -> None:
    """As a kill from outside would have it: nothing is done any more."""
    os.kill(os.getpid(), signal.SIGKILL)


def then(doing: Doing, follows: Callable[..., object]) -> Doing:
    """The same, and afterwards what follows; that is told of the outcome and of what it was given."""

    async def do(*given: Any, **named: Any) -> Any:
        outcome = await doing(*given, **named)
        follows(outcome, *given)
        return outcome

    return do


def mortal(subscription: Subscription, step: str) -> Subscription:
    """Dies with the first events that it is handed, or when it has handled them."""

    async def handle(connection: Connection, events: Sequence[LoggedEvent]) -> None:
        if step == "read":
            die()
        await subscription.handle(connection, events)
        if step == "handled":
            die()

    return replace(subscription, handle=handle)


def mortal_channel(channel: Channel, step: str) -> Channel:
    """Dies before the first delivery is sent, or when it is."""

    @asynccontextmanager
    async def opened(means: Means) -> AsyncIterator[Send]:
        async with channel(means) as send:

            async def deliver(delivery: Delivery) -> str | None:
                if step == "claimed":
                    die()
                answer = await send(delivery)
                if step == "sent":
                    die()
                return answer

            yield deliver

    return opened


def arm(consumer: str, step: str) -> None:
    """Have the statements that take leases, move on and record kill too."""

    def dooms(_: object, __: object, whose: Any, *___: object) -> None:
        name = whose if isinstance(whose, str) else whose.consumer
        if name == consumer:
            if step == "moved":
                die()
            doomed.set(True)

    transaction = Database.transaction

    @asynccontextmanager
    async def committed(self: Database, first: str = "") -> AsyncIterator[Connection]:
        async with transaction(self, first) as connection:
            yield connection
        if doomed.get():
            die()

    Database.transaction = committed  # type: ignore[method-assign]
    if step == "taken":
        subscriptions.take = then(subscriptions.take, dooms)  # type: ignore[assignment]
    elif step in ("moved", "committed"):
        subscriptions.move = then(subscriptions.move, dooms)  # type: ignore[assignment]
    elif step == "recorded":
        deliveries.record = then(deliveries.record, die)  # type: ignore[assignment]


def main(consumer: str, step: str) -> None:
    arm(consumer, step)
    consumers = {name: mortal(one, step) if name == consumer else one for name, one in SUBSCRIPTIONS.items()}
    channels: Mapping[str, Channel] = {}
    if step in OF_CHANNELS:
        channels = {name: mortal_channel(channel, step) for name, channel in CHANNELS.items()}
    asyncio.run(work(WorkerSettings(), consumers, channels, PACE))


if __name__ == "__main__":
    main(*sys.argv[1:])
