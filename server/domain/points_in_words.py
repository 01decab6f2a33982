"""A row of the ledger in sentences that a support agent can read out."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from server.domain.ledger import Account, Kind, Lot, Transaction
from server.domain.rules import explain

# What happened to the points of a row; ADJUST is told by its direction.
DID: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.EARN: "were earned by",
        Kind.REDEEM: "were spent by",
        Kind.ACTIVATE: "became spendable by",
        Kind.EXPIRE: "expired by",
        Kind.HOLD: "were reserved by",
        Kind.RELEASE: "were no longer reserved after",
        Kind.CAPTURE: "that were reserved were spent by",
        Kind.SETTLE: "paid a debt, after",
        Kind.REVERSE_EARN: "were taken back by",
        Kind.REVERSE_REDEEM: "that had been spent were given back by",
        Kind.ADJUST: "were put in or taken out by",
        Kind.TRANSFER_OUT: "were handed on by",
        Kind.TRANSFER_IN: "were received by",
    }
)
# Where points that nobody had any more were taken from.
TAKEN_FROM: Mapping[Account, str] = MappingProxyType(
    {
        Account.WALLET_DEBT: "They had been spent, so the member owes them: what comes in pays them first.",
        Account.PROGRAM_SHORTFALL: "They had been spent, and the program bears that: nothing was taken.",
        Account.WALLET_PENDING: "They had not become spendable yet.",
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
        _happened(row),
        *explain.sentences(row.trace),
        *_linked(json.loads(row.trace)),
        *([TAKEN_FROM[row.debit_account]] if row.debit_account in TAKEN_FROM else []),
        *(_lot(row, lot, points) for lot, points in lots),
    ]


def _happened(row: Transaction) -> str:
    where = f" at store {row.store}" if row.store else ""
    what = f" for {row.order_reference}" if row.order_reference else ""
    why = f", because: {row.reason}" if row.reason else ""
    return (
        f"{row.points} {row.point_type} {DID[row.kind]} {row.event_type}{what}{where} on "
        f"{_moment(row.occurred_at)}, sent by {row.actor}{why}; "
        f"the balance was {row.balance_after} afterwards."
    )


def _linked(trace: Mapping[str, Any]) -> list[str]:
    """What the row had to do with: another row, a hold, another member."""
    said = []
    if "reverses" in trace:
        said.append(f"It reverses transaction {trace['reverses']}.")
    if trace.get("lines"):
        units = ", ".join(f"{n} of line {name}" if name else "all" for name, n in trace["lines"].items())
        said.append(f"What came back: {units}.")
    if "hold" in trace:
        said.append(f"It belongs to hold {trace['hold']}.")
    said += _between(trace)
    if "adjustment" in trace:
        asked = trace["adjustment"]
        said.append(f"{asked['requested_by']} asked for it, {asked['approved_by']} agreed to it.")
    return said


def _between(trace: Mapping[str, Any]) -> list[str]:
    """From whom to whom they went, or for whom the pool of a household was to pay."""
    home, between = trace.get("household", {}), trace.get("transfer")
    if "spender" in home:
        return [f"The pool of household {home['id']} pays for member {home['spender']}."]
    if between is None:
        return []
    names = {side: _named(between[side], home) for side in ("from", "to")}
    why = [WHY_SHARED[home["why"]]] if home else []
    return [f"They went from {names['from']} to {names['to']}.", *why]


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
