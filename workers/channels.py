"""Channels: how a delivery leaves the house, by a literal map from names to what opens each."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType

from workers.means import Channel, Means, Send
from workers.notifications import providers
from workers.notifications.mail import email
from workers.webhooks.sending import webhook

# By the names that deliveries have. A worker leaves alone what goes through a channel that it doesn't know.
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
    """Every channel, open until ``opened`` closes."""
    return {name: await opened.enter_async_context(channel(means)) for name, channel in channels.items()}
