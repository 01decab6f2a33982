"""The purchases among which goods are looked for that come back without a receipt.

The member's events are read from the latest back, a page at a time, until enough units are found
that nothing older could be a later purchase: most returns look at one page. A member
may have bought for years, so there is an end to it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from server.domain.books import Prepared
from server.domain.commands import Return
from server.domain.past import Purchase
from server.store import past
from server.store.database import Connection
from server.store.ledger import MemberOf
from server.store.together import ask

PAGE = 200
# Events of a member, of whatever type; what lies further back is matched with nothing.
MOST_LOOKED_AT = 5000
LAST_ID = UUID(int=2**128 - 1)
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True)
class Sought:
    """Units by SKU that one member's returns of a batch bring back, none of a purchase before another moment.

    ``named``: purchases that other returns of the batch may take units from meanwhile.
    """

    units: Counter[str] = field(default_factory=Counter)
    moment: datetime = NEVER
    named: set[UUID] = field(default_factory=set)

    def found_in(self, purchases: Iterable[Purchase], since: datetime) -> bool:
        """Whether the purchases since then have them all."""
        left = Counter(self.units)
        for purchase in purchases:
            if since < purchase.occurred_at <= self.moment and purchase.event_id not in self.named:
                for line in purchase.lines:
                    left[line.sku] -= line.quantity - line.returned
        return all(left[sku] <= 0 for sku in self.units)


def sought(batch: Iterable[Prepared]) -> dict[MemberOf, Sought]:
    """What the returns of a batch bring back that name no purchase, by member."""
    wanted: dict[MemberOf, Sought] = {}
    named: dict[MemberOf, set[UUID]] = {}
    for entry in batch:
        command, refusal = entry.command.doing, entry.refusal
        if not isinstance(command, Return) or refusal is not None:
            continue
        owner = (command.actor.program_id, command.member_id)
        if command.event_id is not None:
            named.setdefault(owner, set()).add(command.event_id)
            continue
        own = wanted.setdefault(owner, Sought())
        own.units.update({item.sku: item.quantity for item in command.items})
        own.moment = min(own.moment, command.occurred_at or command.received_at)
    for owner, own in wanted.items():
        own.named = named.get(owner, set())
    return wanted


async def latest_purchases(
    connection: Connection, owner: MemberOf, wanted: Sought, clock_skew: timedelta
) -> dict[UUID, Purchase]:
    """The purchases that the goods may belong to. ``clock_skew``: how far ahead tills' clocks may be."""
    found: dict[UUID, Purchase] = {}
    before = LAST_ID
    for _ in range(MOST_LOOKED_AT // PAGE):
        page = past.Page(*owner, before, PAGE)
        purchases, (count, oldest) = await ask(
            connection, past.purchases_on(page, wanted.units), past.extent(page)
        )
        found.update(purchases)
        if count < PAGE or wanted.found_in(found.values(), _made_at(oldest) + clock_skew):
            break
        before = oldest
    return found


def _made_at(event_id: UUID) -> datetime:
    """The end of the millisecond in which a UUIDv7 was made: whatever has a smaller one is no younger."""
    return datetime.fromtimestamp(((event_id.int >> 80) + 1) / 1000, UTC)
