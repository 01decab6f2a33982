"""A rule as its author wrote it, read and checked: plain frozen data."""

from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import StrEnum

from server.domain.lots import Expiry


class RuleType(StrEnum):
    """What a rule decides about: points that come in, or points that go out."""

    EARN = "earn"
    REDEEM = "redeem"


Scalar = str | int | Decimal | bool | date
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class EventIs:
    """The activity is of this type."""

    event_type: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field held against a value. ``field`` is its full name: ``item.sku`` also inside ``any_item``."""

    field: str
    op: str
    value: Value


@dataclass(frozen=True, slots=True)
class Group:
    """Every one of ``all``, at least one of ``any`` (if there are any), not one of ``none``."""

    all: "tuple[Condition, ...]" = ()
    any: "tuple[Condition, ...]" = ()
    none: "tuple[Condition, ...]" = ()


@dataclass(frozen=True, slots=True)
class Items:
    """At least one line, or a basket of nothing but lines, that satisfy ``where``."""

    quantifier: str  # any | all
    where: "Condition"


@dataclass(frozen=True, slots=True)
class Total:
    """The amount, the units (``quantity``) or the number of ``lines`` that satisfy ``where``."""

    of: str
    where: "Condition | None"
    op: str
    value: Value


Condition = EventIs | Comparison | Group | Items | Total


@dataclass(frozen=True, slots=True)
class Earn:
    """Points in proportion to money: ``points`` per ``per``, rounded line by line."""

    points: int
    per: Decimal
    rounding: str
    to: str | None
    items: Condition | None


@dataclass(frozen=True, slots=True)
class Multiply:
    """The base times ``by``: (by - 1) times the base comes on top, rounded line by line."""

    by: Decimal
    of: str  # base | lines
    rounding: str
    to: str | None
    items: Condition | None


@dataclass(frozen=True, slots=True)
class Fixed:
    """So many points, whatever the amount."""

    points: int
    to: str | None


@dataclass(frozen=True, slots=True)
class Bonus:
    """So many points for each unit sold."""

    points: int
    to: str | None
    items: Condition | None


@dataclass(frozen=True, slots=True)
class AddTag:
    """Put a tag on the member."""

    tag: str


@dataclass(frozen=True, slots=True)
class Worth:
    """What redeemed points are worth: ``points`` are ``money`` in the program's currency."""

    points: int
    money: Decimal


@dataclass(frozen=True, slots=True)
class Limit:
    """What one redemption may ask for. Zero means no such limit."""

    min: int
    max: int
    multiple_of: int


Action = Earn | Multiply | Fixed | Bonus | AddTag | Worth | Limit
Paying = Earn | Multiply | Fixed | Bonus


@dataclass(frozen=True, slots=True)
class Stacking:
    """How a rule lives with others: in a group ("" for none), exclusive or not."""

    group: str
    mode: str  # best | first | all
    exclusive: bool


@dataclass(frozen=True, slots=True)
class Cap:
    """The most a rule gives one member in one period."""

    points: int
    per: str  # event | day | week | month | year | ever


@dataclass(frozen=True, slots=True)
class Active:
    """When a rule counts, on the program's clock: from (inclusive) until (exclusive), days, hours."""

    start: datetime | None
    until: datetime | None
    days: tuple[str, ...]
    hours: tuple[time, time] | None  # an end of 00:00 is midnight


@dataclass(frozen=True, slots=True)
class Pending:
    """How long points can't be spent: so many days, until an event of a type, or not at all."""

    days: int
    until: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. The order of consideration is priority descending, then name.

    ``pending`` and ``expire`` are None where the program's terms for the wallet hold.
    """

    name: str
    type: RuleType
    priority: int
    when: Condition | None
    then: tuple[Action, ...]
    stacking: Stacking
    caps: tuple[Cap, ...]
    active: Active | None
    pending: Pending | None = None
    expire: Expiry | None = None
