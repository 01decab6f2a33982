"""How long wallets were without activity: what PostgreSQL is asked of a refund, from rows in a list."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from server.domain.ledger import Account, Kind, Transaction


class Merged(NamedTuple):
    """Two members became one."""

    merged_id: UUID
    survivor_id: UUID
    at: datetime


def idle(spent_id: UUID, history: Iterable[Transaction | Merged], now: datetime) -> timedelta:
    """The longest time without activity since a row of the history, where its points would be."""
    history = list(history)
    point_type = next(
        x.point_type for x in history if isinstance(x, Transaction) and x.transaction_id == spent_id
    )
    active: dict[UUID, datetime] = {}
    whose, longest = None, timedelta(0)

    def look(at: datetime) -> timedelta:
        return max(longest, at - active[whose]) if whose in active else longest

    for entry in history:
        if isinstance(entry, Merged):
            if whose in entry[:2]:
                longest = look(entry.at)
            both = [active[who] for who in entry[:2] if who in active]
            active |= {entry.survivor_id: max(both)} if both else {}
            whose = entry.survivor_id if whose == entry.merged_id else whose
        elif entry.point_type == point_type and _active(entry):
            if whose == entry.member_id:
                longest = look(entry.recorded_at)
            moment = _moment(entry)
            if moment is not None:
                active[entry.member_id] = max(moment, active.get(entry.member_id, moment))
            if entry.transaction_id == spent_id:
                whose, longest = entry.member_id, timedelta(0)
    return look(now)


def _active(row: Transaction) -> bool:
    match row.kind:
        case Kind.EARN | Kind.REDEEM | Kind.CAPTURE:
            return True
        case Kind.ADJUST:
            return row.credit_account is Account.WALLET_BALANCE
        case _:
            return row.kind is Kind.TRANSFER_IN and "household" in json.loads(row.trace)


def _moment(row: Transaction) -> datetime | None:
    """Up to when it says that the wallet was active."""
    brought = json.loads(row.trace).get("active_at", "")
    return row.occurred_at if brought == "" else brought and datetime.fromisoformat(brought)
