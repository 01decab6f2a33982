"""What has been bought and spent, as far as returns and refunds need it."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from server.domain.ledger import Allocation
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
    """A purchase of the past, or an event, which has one line without a name."""

    event_id: UUID
    member_id: UUID
    occurred_at: datetime
    lines: tuple[Sold, ...]
    earned: tuple[Earned, ...]

    def with_returned(self, line_id: str, units: int) -> "Purchase":
        """The purchase when so many more units of a line are back."""
        lines = tuple(
            line._replace(returned=line.returned + units) if line.line_id == line_id else line
            for line in self.lines
        )
        return self._replace(lines=lines)


class Spent(NamedTuple):
    """A redemption or capture of the past: from which lots, in the order taken, and how much is refunded."""

    transaction_id: UUID
    member_id: UUID
    point_type: str
    points: int
    refunded: int
    shares: tuple[Allocation, ...]
