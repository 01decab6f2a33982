"""A row of the ledger in sentences that a support agent can read out."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from server.domain.activity import PURCHASE
from server.domain.due import CLOCK
from server.domain.ledger import Account, Kind, Lot, Transaction
from server.domain.rules import explain
from server.domain.rules.explain import counted

# What happened to the points of a row, where its event or its account says no more.
DID: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.EARN: "{points} {were} earned by {event}",
        Kind.REDEEM: "{points} {were} spent",
        Kind.ACTIVATE: "{points} became spendable by {event}",
        Kind.EXPIRE: "{points} expired",
        Kind.HOLD: "{points} {were} reserved for a payment",
        Kind.RELEASE: "{points} {were} no longer reserved",
        Kind.CAPTURE: "{points} that had been reserved {were} spent",
        Kind.SETTLE: "{points} went towards what the member owed",
        Kind.REVERSE_EARN: "{points} {were} taken back, because goods came back that had earned them",
        Kind.REVERSE_REDEEM: "{points} that had been spent {were} given back",
        Kind.ADJUST: "{points} {were} put in by hand",
        Kind.TRANSFER_OUT: "{points} {were} handed on",
        Kind.TRANSFER_IN: "{points} {were} received",
    }
)
DID_BY: Mapping[tuple[Kind, str], str] = MappingProxyType(
    {
        (Kind.ACTIVATE, "ACTIVATION"): "{points} became spendable, because their time had come",
        (Kind.RELEASE, "VOID"): "{points} {were} no longer reserved, because the payment was given up",
        (Kind.RELEASE, "HOLD_EXPIRY"): "{points} {were} no longer reserved, because the time for it was over",
        (Kind.RELEASE, "CAPTURE"): "{points} {were} no longer reserved, because the payment took less",
    }
)
# Of a row that takes them there.
DID_FROM: Mapping[tuple[Kind, Account], str] = MappingProxyType(
    {
        (Kind.REVERSE_EARN, Account.WALLET_DEBT): (
            "{points} should be given back, because goods came back that had earned them"
        ),
        (Kind.REVERSE_EARN, Account.PROGRAM_SHORTFALL): (
            "{points} could not be taken back, when goods came back that had earned them"
        ),
        (Kind.ADJUST, Account.WALLET_BALANCE): "{points} {were} taken out by hand",
        (Kind.TRANSFER_OUT, Account.WALLET_DEBT): "a debt of {points} was taken over",
    }
)
DEBT_GIVEN = "a debt of {points} was handed on"
# What is to be known of where they were taken.
TAKEN_FROM: Mapping[tuple[Kind, Account], str] = MappingProxyType(
    {
        (Kind.REVERSE_EARN, Account.WALLET_DEBT): (
            "They had been spent, so the member owes them: what comes in pays them first."
        ),
        (Kind.REVERSE_EARN, Account.PROGRAM_SHORTFALL): (
            "They had been spent, and the program bears that: the member lost nothing by it."
        ),
        **{
            (kind, Account.WALLET_PENDING): "They had not become spendable yet."
            for kind in (Kind.REVERSE_EARN, Kind.EXPIRE, Kind.TRANSFER_OUT)
        },
    }
)
# Why points went into the pool of a household or out of it, by what a row's trace says.
WHY_SHARED: Mapping[str, str] = MappingProxyType(
    {
        "earned": "The member gives the pool what they earn.",
        "given": "The member put them in.",
        "left": "The member had given them and left the household.",
        "dissolved": "The household was dissolved.",
        "returned": "Goods came back that had earned them.",
    }
)


def told(row: Transaction, lots: Sequence[tuple[Lot, int]]) -> list[str]:
    """What happened, why, and which lots it filled or drew from."""
    return [
        *_happened(row),
        *explain.sentences(row.trace),
        *_linked(row, json.loads(row.trace)),
        *([TAKEN_FROM[whence]] if (whence := (row.kind, row.debit_account)) in TAKEN_FROM else []),
        *(_lot(row, lot, points) for lot, points in lots),
    ]


def _happened(row: Transaction) -> list[str]:
    where = f" at store {row.store}" if row.store else ""
    what = f" for {row.order_reference}" if row.order_reference else ""
    who = "The clock did it" if row.actor == CLOCK else f"It was sent by {row.actor}"
    why = f", because: {row.reason}" if row.reason else ""
    return [
        f"On {_moment(row.occurred_at)}, {_did(row)}{what}{where}.",
        f"{who}{why}; the balance was {row.balance_after} afterwards.",
    ]


def _did(row: Transaction) -> str:
    words = DID_FROM.get((row.kind, row.debit_account)) or DID_BY.get((row.kind, row.event_type))
    if row.kind is Kind.TRANSFER_IN and row.credit_account is Account.WALLET_DEBT:
        words = DEBT_GIVEN
    return (words or DID[row.kind]).format(
        points=counted(row.points, row.point_type),
        were="was" if row.points == 1 else "were",
        event="a purchase" if row.event_type == PURCHASE else f"the event {row.event_type}",
    )


def _linked(row: Transaction, trace: Mapping[str, Any]) -> list[str]:
    """What the row had to do with: another row, a hold, another member."""
    said = []
    if "reverses" in trace:
        rows = [trace["reverses"], *trace.get("beside", ())]
        said.append(f"It reverses transaction{'s' * (len(rows) > 1)} {' and '.join(rows)}.")
    for name, units in trace.get("lines", {}).items():
        said.append(_came_back(row, name, units, trace.get("earned", {}).get(name)))
    if "hold" in trace:
        said.append(f"It belongs to hold {trace['hold']}.")
    said += _between(row, trace)
    if "adjustment" in trace:
        asked = trace["adjustment"]
        said.append(f"{asked['requested_by']} asked for it, {asked['approved_by']} agreed to it.")
    return said


def _came_back(row: Transaction, name: str, units: int, earned: Sequence[int] | None) -> str:
    """Units of a line, and what that comes to. ``earned``: its points, its units and those back before."""
    line = f"line {name}" if name else "it"
    if earned is None:
        return f"What came back: {units} of {line}." if name else "All of it came back."
    points, sold, before = earned
    after, had = before + units, counted(points, row.point_type)
    if after == sold and not before:
        return f"All of {line} came back, and that had earned {had}."
    due, gone = points * after // sold, points * before // sold
    down = " (rounded down)" if points * after % sold else ""
    less = f", {gone} of them from before" if before else ""
    return (
        f"{units} of the {sold} units of {line} came back, which had earned {had}: with {after} back in all, "
        f"{points} x {after} / {sold} = {due}{down} {'is' if due == 1 else 'are'} due back{less}."
    )


def _between(row: Transaction, trace: Mapping[str, Any]) -> list[str]:
    """From whom to whom they went, or for whom the pool of a household was to pay."""
    home, between = trace.get("household", {}), trace.get("transfer")
    if "spender" in home:
        return [f"The pool of household {home['id']} pays for member {home['spender']}."]
    if between is None:
        return []
    names = {side: _named(between[side], home) for side in ("from", "to")}
    why = [WHY_SHARED[home["why"]]] if home else []
    debt = Account.WALLET_DEBT in (row.debit_account, row.credit_account)
    return [f"{'It' if debt else 'They'} went from {names['from']} to {names['to']}.", *why]


def _named(member_id: str, home: Mapping[str, str]) -> str:
    return f"{'the pool of household' if member_id == home.get('id') else 'member'} {member_id}"


def _lot(row: Transaction, lot: Lot, points: int) -> str:
    if lot.transaction_id == row.transaction_id:
        when = [*_spendable(lot), _until(lot), f"{lot.remaining} are left"]
        return f"{points} of them make up one lot; {'; '.join(when)}."
    where = "went back into" if row.kind is Kind.REVERSE_REDEEM else "are of"
    return f"{points} {where} the lot of transaction {lot.transaction_id}, where {lot.remaining} are left."


def _spendable(lot: Lot) -> list[str]:
    """What its points wait for, if they can't be spent yet."""
    ways = [
        *([f"from {_moment(lot.activates_at)}"] if lot.activates_at is not None else []),
        *([f"with the next {lot.activates_on}"] if lot.activates_on else []),
    ]
    return [] if lot.active else [f"they can be spent {' or '.join(ways)}"]


def _until(lot: Lot) -> str:
    if lot.rolling_days is not None:
        return f"they expire {lot.rolling_days} days after the member was last active"
    if lot.expires_at is None:
        return "they never expire"
    return f"they expire on {_moment(lot.expires_at)}"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d at %H:%M} UTC"
