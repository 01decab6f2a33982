"""Channels: how a delivery leaves the house, by a literal map from names to what opens each."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType

import asyncpg
import structlog

from server import logs
from server.domain.errors import Refused
from server.store.channels import say_open
from server.store.database import Database
from workers.means import Channel, Means, Send
from workers.notifications import providers
from workers.notifications.mail import email
from workers.webhooks.sending import webhook

SAY_SECONDS = 3600.0
AGAIN_SECONDS = 60.0

log = structlog.get_logger()

# By the names that deliveries have. A worker leaves alone what goes through a channel that it hasn't open.
CHANNELS: Mapping[str, Channel] = MappingProxyType(
    {
        "webhook": webhook,
        "email": email,
        "sms": providers.channel("sms"),
        "push": providers.channel("push"),
    }
)


async def open_channels(
    means: Means, opened: AsyncExitStack, channels: Mapping[str, Channel] = CHANNELS
) -> dict[str, Send]:
    """Every channel that is set up, open until ``opened`` closes."""
    closed = means.settings.closed_channels
    return {
        name: await opened.enter_async_context(channel(means))
        for name, channel in channels.items()
        if name not in closed
    }


async def keep_saying(database: Database, names: Collection[str]) -> None:
    """Say every hour that these are open, until cancelled."""
    pause = SAY_SECONDS
    while True:
        await asyncio.sleep(pause)
        try:
            async with database.connection() as connection:
                await say_open(connection, names)
            pause = SAY_SECONDS
        except (Refused, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("channels_unsaid", **logs.describe(error))
            pause = AGAIN_SECONDS
