"""What has been bought and spent, as far as returns and refunds need it."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.activity import PURCHASE
from server.domain.events import PointsEarned
from server.domain.ledger import Allocation, Kind, Lot, Transaction
from server.domain.lots import expiry_of
from server.domain.rules import trace
from server.domain.rules.evaluation import CapKey


class Sold(NamedTuple):
    """A line of a purchase of the past. ``returned`` units of ``quantity`` are back already."""

    line_id: str
    sku: str
    quantity: int
    returned: int = 0


class Earned(NamedTuple):
    """What a purchase brought one wallet: points by line, and by counter of a rule's cap and line.

    ``transaction_ids``: one row, or two if a part of the points was pending.
    """

    point_type: str
    transaction_ids: tuple[UUID, ...]
    lines: Mapping[str, int]
    counted: Mapping[CapKey, Mapping[str, int]]


class Purchase(NamedTuple):
    """A purchase of the past, or an event, which has one line without a name.

    ``buyer_id``: of whom it is recorded, if that is a member who was merged into ``member_id``.
    """

    event_id: UUID
    member_id: UUID
    occurred_at: datetime
    lines: tuple[Sold, ...]
    earned: tuple[Earned, ...]
    buyer_id: UUID | None = None

    def with_returned(self, line_id: str, units: int) -> "Purchase":
        """The purchase when so many more units of a line are back."""
        lines = tuple(
            line._replace(returned=line.returned + units) if line.line_id == line_id else line
            for line in self.lines
        )
        return self._replace(lines=lines)


class Spent(NamedTuple):
    """A redemption or capture of the past: from which lots, and how much is refunded.

    ``shares``: by the lots' own expiry, those without one last, ties by age.
    ``spender_id``: of whom it is recorded, if that is a member who was merged into ``member_id``.
    ``idle``: the longest that the wallet was without activity since, up to now; known of rolling lots alone.
    """

    transaction_id: UUID
    member_id: UUID
    point_type: str
    points: int
    refunded: int
    shares: tuple[Allocation, ...]
    spender_id: UUID | None = None
    idle: timedelta = timedelta(0)

    def lapsed(self, lot: Lot, active_at: datetime | None, now: datetime) -> bool:
        """Whether points that had stayed in the lot would have expired by now.

        ``active_at``: when the wallet was active last. What came too late for a rolling lot revives none.
        """
        expires_at = expiry_of(lot, active_at)
        if expires_at is not None and expires_at <= now:
            return True
        return lot.rolling_days is not None and self.idle >= timedelta(days=lot.rolling_days)


def purchase_of(event: PointsEarned, rows: Iterable[Transaction]) -> Purchase:
    """The purchase of which the event tells; ``rows`` are those of its decision."""
    earned = [
        (row.point_type, row.transaction_id, row.trace)
        for row in rows
        if row.kind is Kind.EARN and row.event_id == event.event_id
    ]
    activity = event.activity
    return Purchase(
        event.event_id,
        event.member_id,
        event.occurred_at,
        sold(activity["type"], activity["lines"], {}),
        earned_by_wallet(earned),
    )


def sold(event_type: str, lines: Sequence[Sequence[Any]], returned: Mapping[str, int]) -> tuple[Sold, ...]:
    """The lines of a recorded activity; ``returned``: how many units of each are back."""
    if lines:
        return tuple(Sold(line[0], line[1], line[3], returned.get(line[0], 0)) for line in lines)
    name = "1" if event_type == PURCHASE else ""
    return (Sold(name, "", 1, returned.get(name, 0)),)


def earned_by_wallet(rows: Iterable[tuple[str, UUID, str]]) -> tuple[Earned, ...]:
    """What an activity earned, by wallet, of its rows' point types, ids and traces.

    The rows of one wallet share one trace.
    """
    traces: dict[str, str] = {}
    ids: dict[str, list[UUID]] = {}
    for point_type, transaction_id, why in rows:
        traces[point_type] = why
        ids.setdefault(point_type, []).append(transaction_id)
    return tuple(
        Earned(point_type, tuple(ids[point_type]), *trace.spread(why)) for point_type, why in traces.items()
    )
