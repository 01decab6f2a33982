"""Channels: how a delivery leaves the house, one function each."""

from collections.abc import Awaitable, Callable, Mapping

from server.domain.deliveries import Delivery

# Sends one delivery, and says in a word what the receiver answered if that is worth keeping. It reads what
# to send at that moment. Raises Temporary, Permanent, Unwanted or Postponed, with no personal data in them;
# anything else counts as temporary. It is cut off after the deliveries' ``send_seconds``.
Send = Callable[[Delivery], Awaitable[str | None]]


def channels() -> Mapping[str, Send]:
    """Every channel by its name, as deliveries have it."""
    return {}
