"""Who reads the event log: a literal map from names to what each wants and does."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from server.domain import figures, timeline
from server.domain.notifications.occasions import EVENTS
from server.store.database import Connection
from server.store.log import LoggedEvent
from workers.notifications import telling as notifications
from workers.projections import daily_figures, history
from workers.projections.member_summary import MemberSummaries
from workers.webhooks import wanting as webhooks

# Called with events in the order of the log, those of one member in the order in which they happened, in a
# READ COMMITTED transaction that also moves the consumer on: what is written through the connection is
# written once. It may be called again with the same events, when that transaction did not commit, and with
# fewer of them. An error stays with the one event that causes it, which becomes a dead letter.
Handler = Callable[[Connection, Sequence[LoggedEvent]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer wants to know and what it does with it.

    ``event_types``: None for all. ``from_beginning``: whether a new consumer is told what
    happened before it came. ``rows``: so many rows of the log at most go into one transaction.
    """

    handle: Handler
    event_types: frozenset[str] | None = None
    from_beginning: bool = True
    rows: int = 500


NOTIFICATIONS = "notifications"

# The name is what is remembered of a consumer: another name begins anew.
SUBSCRIPTIONS: Mapping[str, Subscription] = MappingProxyType(
    {
        "webhooks": Subscription(webhooks.want),
        # Not from the beginning: nobody wants to hear now what was before messages came.
        NOTIFICATIONS: Subscription(notifications.handle, frozenset(EVENTS), from_beginning=False),
        "daily_figures": Subscription(daily_figures.handle, figures.EVENT_TYPES),
        "history": Subscription(history.handle, timeline.EVENT_TYPES),
    }
)


def in_redis(summaries: MemberSummaries) -> Mapping[str, Subscription]:
    """The same for read models in Redis. They are built from what is there, and follow from then on."""
    return MappingProxyType({"member_summary": Subscription(summaries.handle, from_beginning=False)})
