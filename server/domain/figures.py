"""Daily figures: what happened on a business day in a store, and what each rule brought about.

Every figure is a sum, so whatever happened may be counted in parts of any size, as long as each part is
counted once.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.activity import PURCHASE
from server.domain.events import (
    Event,
    MemberRegistered,
    PointsAdjusted,
    PointsCaptured,
    PointsEarned,
    PointsExpired,
    PointsRedeemed,
    PointsRefunded,
    PointsReturned,
)
from server.domain.ledger import Account
from server.domain.rules import trace


class Measure(StrEnum):
    """What is counted: times, amounts by currency, points by wallet."""

    JOINED = "joined"
    PURCHASES = "purchases"
    EVENTS = "events"
    REDEMPTIONS = "redemptions"
    RETURNS = "returns"
    REFUNDS = "refunds"
    AMOUNT = "amount"
    EARNED = "earned"
    REDEEMED = "redeemed"
    EXPIRED = "expired"
    RETURNED = "returned"
    SHORTFALL = "shortfall"
    REFUNDED = "refunded"
    ADJUSTED_IN = "adjusted_in"
    ADJUSTED_OUT = "adjusted_out"
    # Of a rule: the activities for which it gave points.
    ACTIVITIES = "activities"


class Key(NamedTuple):
    """Which figure. ``rule`` is "" for all that happened, ``unit`` for what is counted by times."""

    program_id: UUID
    day: date
    store: str
    rule: str
    measure: Measure
    unit: str = ""


class Row(NamedTuple):
    """As much of a row of the ledger as figures need. ``why``: the trace of one that was earned, else ""."""

    transaction_id: UUID
    point_type: str
    points: int
    debit_account: Account
    credit_account: Account
    why: str = ""


class Happened(NamedTuple):
    """An event of the log with its business day and the rows that it names."""

    event_type: str
    program_id: UUID
    day: date
    payload: Mapping[str, Any]
    rows: tuple[Row, ...] = ()


Figures = dict[Key, Decimal]

COUNTED: Mapping[str, Measure] = MappingProxyType(
    {
        MemberRegistered.event_type: Measure.JOINED,
        PointsRedeemed.event_type: Measure.REDEMPTIONS,
        PointsCaptured.event_type: Measure.REDEMPTIONS,
        PointsReturned.event_type: Measure.RETURNS,
        PointsRefunded.event_type: Measure.REFUNDS,
    }
)
_TOLD: tuple[type[Event], ...] = (PointsEarned, PointsExpired, PointsAdjusted)
# The events that change a figure.
EVENT_TYPES = frozenset({*COUNTED, *(event.event_type for event in _TOLD)})

# Points that came from the program, or went back to it, by its account.
CAME: Mapping[Account, Measure] = MappingProxyType(
    {
        Account.PROGRAM_ISSUANCE: Measure.EARNED,
        Account.PROGRAM_REDEMPTION: Measure.REFUNDED,
        Account.PROGRAM_ADJUSTMENT: Measure.ADJUSTED_IN,
    }
)
WENT: Mapping[Account, Measure] = MappingProxyType(
    {
        Account.PROGRAM_ISSUANCE: Measure.RETURNED,
        Account.PROGRAM_REDEMPTION: Measure.REDEEMED,
        Account.PROGRAM_BREAKAGE: Measure.EXPIRED,
        Account.PROGRAM_ADJUSTMENT: Measure.ADJUSTED_OUT,
    }
)


def transaction_ids(payload: Mapping[str, Any]) -> Iterator[UUID]:
    """The rows of the ledger that an event names."""
    if "transaction_id" in payload:
        yield UUID(payload["transaction_id"])
    for transaction_id in payload.get("transaction_ids", ()):
        yield UUID(transaction_id)


def figures(happened: Iterable[Happened]) -> Figures:
    """What all that happened adds up to; no figure that is 0."""
    total: Figures = {}
    for one in happened:
        for key, amount in _counted(one):
            total[key] = total.get(key, Decimal(0)) + amount
    return {key: amount for key, amount in total.items() if amount}


def _counted(one: Happened) -> Iterator[tuple[Key, Decimal]]:
    payload = one.payload
    activity = payload.get("activity")
    store = payload.get("store", "") if activity is None else activity["store"]
    everything = (one.program_id, one.day, store, "")
    if activity is not None:
        bought = activity["type"] == PURCHASE
        yield Key(*everything, Measure.PURCHASES if bought else Measure.EVENTS), Decimal(1)
        if bought:
            yield Key(*everything, Measure.AMOUNT, activity["currency"]), Decimal(activity["amount"])
        yield from _by_rule(one, store)
    elif one.event_type in COUNTED:
        yield Key(*everything, COUNTED[one.event_type]), Decimal(1)
    for row in one.rows:
        measure = _measure(row)
        if measure is not None:
            yield Key(*everything, measure, row.point_type), Decimal(row.points)


def _measure(row: Row) -> Measure | None:
    """What a row counts as; None if its points stay with members."""
    if row.debit_account is Account.PROGRAM_SHORTFALL:
        return Measure.SHORTFALL
    return CAME.get(row.debit_account) or WENT.get(row.credit_account)


def _by_rule(one: Happened, store: str) -> Iterator[tuple[Key, Decimal]]:
    """The points of each rule, and that it gave some. The rows of one wallet share one trace."""
    paid: set[str] = set()
    for point_type, why in {row.point_type: row.why for row in one.rows if row.why}.items():
        for result in trace.load(why):
            if result.points:
                paid.add(result.rule)
                key = Key(one.program_id, one.day, store, result.rule, Measure.EARNED, point_type)
                yield key, Decimal(result.points)
    for rule in paid:
        yield Key(one.program_id, one.day, store, rule, Measure.ACTIVITIES), Decimal(1)
