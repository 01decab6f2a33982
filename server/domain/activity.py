"""What rules look at: something that happened, and who it happened to."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

PURCHASE = "PURCHASE"
REDEMPTION = "REDEMPTION"
BUILT_IN_TYPES = (PURCHASE, REDEMPTION)

AttributeValue = str | Decimal | bool


_NONE: Mapping[str, Any] = MappingProxyType({})


class Line(NamedTuple):
    """One line of a basket. ``amount`` is the whole line's, in the activity's currency."""

    line_id: str
    sku: str
    category: str
    quantity: int
    amount: Decimal
    attributes: Mapping[str, str] = _NONE


class Activity(NamedTuple):
    """A purchase, a redemption or an event of a registered type.

    ``amount`` and the lines' amounts are in the program's currency (converted at
    ``rate`` before rules see them). A purchase without a basket has one line,
    ``line_id`` "1", that carries the whole amount; an event has no lines.
    ``points`` is what a redemption asks for, 0 otherwise.
    """

    event_type: str
    occurred_at: datetime
    store: str = ""
    channel: str = ""
    currency: str = ""
    amount: Decimal = Decimal(0)
    lines: tuple[Line, ...] = ()
    attributes: Mapping[str, AttributeValue] = _NONE
    points: int = 0


class MemberFacts(NamedTuple):
    """What rules may know about a member. Nothing of it is personal data.

    ``lifetime`` is of the main wallet. ``purchases`` counts those recorded before.
    ``birth_month`` is 1 to 12, or 0 if unknown.
    """

    tier: str
    joined_at: datetime
    lifetime: int = 0
    purchases: int = 0
    birth_month: int = 0
    tags: frozenset[str] = frozenset()
    segments: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = _NONE
