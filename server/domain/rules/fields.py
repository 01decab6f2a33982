"""Every field a condition may look at: its type and how to get it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from server.domain.activity import PURCHASE, Activity, MemberFacts
from server.domain.rules.definition import RuleType

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Case:
    """One activity of one member, as conditions see it."""

    __slots__ = ("_local", "activity", "facts", "zone")

    def __init__(self, activity: Activity, facts: MemberFacts, zone: ZoneInfo) -> None:
        self.activity = activity
        self.facts = facts
        self.zone = zone
        self._local: datetime | None = None

    @property
    def local(self) -> datetime:
        """When it happened, on the program's clock; worked out when first asked for."""
        if self._local is None:
            self._local = self.activity.occurred_at.astimezone(self.zone)
        return self._local


class Type(StrEnum):
    """What a field holds, and so which operators and values go with it."""

    TEXT = "text"
    MONEY = "money"
    NUMBER = "number"
    COUNT = "count"
    FLAG = "flag"
    SET = "set"
    DATE = "date"
    WEEKDAY = "weekday"
    ANY = "any"  # an attribute whose declaration isn't at hand; only while comparing definitions


class Level(StrEnum):
    """What a field is a fact about. ``item`` fields stand inside item conditions only."""

    EVENT = "event"
    ITEM = "item"
    MEMBER = "member"
    TIME = "time"


_ORDER = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "not_in", "between")
OPERATORS: Mapping[Type, tuple[str, ...]] = {
    Type.TEXT: ("eq", "ne", "in", "not_in", "starts_with"),
    Type.MONEY: _ORDER,
    Type.NUMBER: _ORDER,
    Type.COUNT: _ORDER,
    Type.FLAG: ("eq", "ne"),
    Type.SET: ("eq", "ne", "in", "not_in"),
    Type.DATE: _ORDER,
    Type.WEEKDAY: ("eq", "ne", "in", "not_in"),
    Type.ANY: (*_ORDER, "starts_with"),
}
ALL_OPERATORS = (*_ORDER, "starts_with", "exists")


@dataclass(frozen=True, slots=True)
class Field:
    """One field. ``get`` takes a Case, or a Line for item fields. ``low`` and ``high`` bound counts.

    ``optional`` fields may be absent ("" or None), so ``exists`` makes sense of them.
    """

    type: Type
    level: Level
    get: Callable[[Any], Any]
    optional: bool = False
    low: int = 0
    high: int = 10**15
    rule_type: RuleType | None = None  # None: both


def _days_since_joining(case: Case) -> int:
    return (case.local.date() - case.facts.joined_at.astimezone(case.zone).date()).days


def _first_purchase(case: Case) -> bool:
    return case.activity.event_type == PURCHASE and case.facts.purchases == 0


FIELDS: Mapping[str, Field] = {
    "amount": Field(Type.MONEY, Level.EVENT, lambda case: case.activity.amount, rule_type=RuleType.EARN),
    "points": Field(Type.COUNT, Level.EVENT, lambda case: case.activity.points, rule_type=RuleType.REDEEM),
    "store": Field(Type.TEXT, Level.EVENT, lambda case: case.activity.store, optional=True),
    "channel": Field(Type.TEXT, Level.EVENT, lambda case: case.activity.channel, optional=True),
    "item.sku": Field(Type.TEXT, Level.ITEM, lambda line: line.sku, optional=True),
    "item.category": Field(Type.TEXT, Level.ITEM, lambda line: line.category, optional=True),
    "item.quantity": Field(Type.COUNT, Level.ITEM, lambda line: line.quantity),
    "item.amount": Field(Type.MONEY, Level.ITEM, lambda line: line.amount),
    "member.tier": Field(Type.TEXT, Level.MEMBER, lambda case: case.facts.tier),
    "member.segments": Field(Type.SET, Level.MEMBER, lambda case: case.facts.segments, optional=True),
    "member.tags": Field(Type.SET, Level.MEMBER, lambda case: case.facts.tags, optional=True),
    "member.days_since_joining": Field(Type.COUNT, Level.MEMBER, _days_since_joining, high=100_000),
    "member.birthday_month": Field(
        Type.FLAG, Level.MEMBER, lambda case: case.facts.birth_month == case.local.month
    ),
    "member.lifetime": Field(Type.COUNT, Level.MEMBER, lambda case: case.facts.lifetime),
    "member.first_purchase": Field(Type.FLAG, Level.MEMBER, _first_purchase, rule_type=RuleType.EARN),
    "time.hour": Field(Type.COUNT, Level.TIME, lambda case: case.local.hour, high=23),
    "time.weekday": Field(Type.WEEKDAY, Level.TIME, lambda case: WEEKDAYS[case.local.weekday()]),
    "time.date": Field(Type.DATE, Level.TIME, lambda case: case.local.date()),
    "time.month": Field(Type.COUNT, Level.TIME, lambda case: case.local.month, low=1, high=12),
}

# Attributes: the name goes on after the prefix. Those of an event are typed by its
# declaration; all others, a purchase's included, are text.
_ATTRIBUTES: Mapping[str, tuple[Level, Callable[[str], Callable[[Any], Any]], RuleType | None]] = {
    "attributes.": (
        Level.EVENT,
        lambda name: lambda case: case.activity.attributes.get(name),
        RuleType.EARN,
    ),
    "item.attributes.": (Level.ITEM, lambda name: lambda line: line.attributes.get(name), None),
    "member.attributes.": (Level.MEMBER, lambda name: lambda case: case.facts.attributes.get(name), None),
}
ATTRIBUTE_PREFIXES = tuple(_ATTRIBUTES)
EVENT_ATTRIBUTE = "attributes."


def attribute_prefix(name: str) -> str | None:
    """The prefix under which ``name`` is an attribute, None if it is none."""
    return next((prefix for prefix in ATTRIBUTE_PREFIXES if name.startswith(prefix)), None)


def attribute(name: str, declared: Type = Type.TEXT) -> Field:
    """The field of an attribute by its full name."""
    prefix = attribute_prefix(name)
    if prefix is None:
        raise KeyError(name)
    level, getter, rule_type = _ATTRIBUTES[prefix]
    return Field(declared, level, getter(name.removeprefix(prefix)), optional=True, rule_type=rule_type)


def field_of(name: str) -> Field:
    """The field by its full name. Event attributes come as they are, whatever their type."""
    return FIELDS.get(name) or attribute(name)
