"""The ledger as one would explain it at a blackboard: lists of lots and plain loops.

Written from the design alone. Nothing here is fast, remembers a sum or knows of transactions: a wallet's
figures are counted from its lots whenever somebody asks.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from server.domain.lots import LotTerms
from server.domain.program import Clawback
from tests.server.model.histories import MEMBERS, SUE
from tests.server.model.naive.wallets import (
    Asked,
    Hold,
    Invitation,
    Lot,
    Owner,
    Purchase,
    Seat,
    Spent,
    Wallet,
)

IN_KOLKATA = timedelta(hours=5, minutes=30)

Told = dict[str, Any]


class Refusal(Exception):  # noqa: N818 - the word of the field
    """Refused, for this reason."""


class Books:
    """All members and pools of a program with the terms of its two wallets."""

    def __init__(self, points: LotTerms, stars: LotTerms, clawback: Clawback) -> None:
        self.terms = {"points": points, "stars": stars}
        self.clawback = clawback
        self.status: dict[Owner, str] = {who: "suspended" if who == SUE else "active" for who in MEMBERS}
        self.wallets: dict[Owner, dict[str, Wallet]] = {who: _empty() for who in MEMBERS}
        self.inherited: dict[Owner, int] = {}
        self.leads: dict[UUID, UUID] = {}  # from members who were merged to those who live on
        self.holds: dict[int, Hold] = {}
        self.spent: dict[int, Spent] = {}
        self.purchases: dict[int, Purchase] = {}
        self.used: dict[tuple[UUID, str, str], int] = {}  # what capped rules gave
        self.asked: dict[int, Asked] = {}
        self.seats: dict[UUID, Seat] = {}
        self.invitations: dict[int, Invitation] = {}
        self.orders: set[tuple[str, date, str]] = set()
        self.now = self.said = datetime.min
        self.met: list[Owner] = []  # whose wallets the step under way has looked at
        self.lots_made = 0

    def tier(self, owner: Owner) -> str:
        lifetime = self.wallets[owner]["points"].lifetime + self.inherited.get(owner, 0)
        return "gold" if lifetime >= 60 else "silver" if lifetime >= 20 else "bronze"

    def lead(self, who: UUID) -> UUID:
        """Whoever lives on."""
        return self.leads.get(who, who)

    def open(self, owner: Owner) -> None:
        """There is a pool from now on."""
        self.status[owner] = "active"
        self.wallets[owner] = _empty()

    def due(self, owner: Owner, name: str, now: datetime) -> list[tuple[datetime, int]]:
        """What falls due when: 1 points activate, 2 a hold ends, 3 points expire."""
        wallet, due = self.wallets[owner][name], []
        for lot in wallet.lots:
            if not lot.active and lot.remaining and lot.activates_at:
                due.append((lot.activates_at, 1))
            expires_at = wallet.expiry(lot)
            if lot.free and expires_at:
                due.append((expires_at, 3))
        due += [(hold.until, 2) for hold in self.holds_of(owner, name)]
        return [entry for entry in due if entry[0] <= now]

    def anything_due(self, now: datetime) -> bool:
        return any(self.due(owner, name, now) for owner, own in self.wallets.items() for name in own)

    def holds_of(self, owner: Owner, name: str) -> list[Hold]:
        return [h for h in self.holds.values() if h.owner == owner and h.wallet == name and not h.over]

    def meet(self, owner: Owner) -> dict[str, Wallet]:
        """Their wallets; what has fallen due in them is done, whoever looked before."""
        if owner not in self.met:
            self.met.append(owner)
            self.clock(owner)
        return self.wallets[owner]

    def clock(self, owner: Owner) -> None:
        """What has fallen due, in the order of its moments; all that falls due at one moment together."""
        for name, wallet in self.wallets[owner].items():
            while due := self.due(owner, name, self.now):
                moment, what = min(due)
                holds = self.holds_of(owner, name)
                for lot in wallet.lots:
                    if what == 1 and lot.activates_at == moment:
                        lot.active = True
                    if what == 3 and wallet.expiry(lot) == moment:
                        lot.remaining = lot.held
                for hold in holds:
                    if (hold.until, 2) == (moment, what):
                        self.release(hold, "expired")
                wallet.settle()

    def release(self, hold: Hold, over: str) -> None:
        for lot, part in hold.shares:
            lot.held -= part
        hold.shares, hold.over = [], over
        self.wallets[hold.owner][hold.wallet].settle()

    def add(self, wallet: Wallet, points: int, **terms: Any) -> Lot:
        self.lots_made += 1
        lot = Lot(self.lots_made, points, points, **terms)
        wallet.lots.append(lot)
        return lot

    def add_earned(self, wallet: Wallet, points: int, terms: LotTerms, moment: datetime, place: int) -> Lot:
        today = (moment + IN_KOLKATA).date()
        days, last = terms.pending_days, None
        match terms.expiry.until.value:
            case "days":
                last = today + timedelta(days=terms.expiry.number)
            case "months":
                last = today
                while (last + timedelta(days=1)).month == today.month:
                    last += timedelta(days=1)
            case "years":
                last = date(today.year, 12, 31)
        return self.add(
            wallet,
            points,
            purchase=place,
            active=not days and not terms.activates_on,
            activates_at=_start_of(today + timedelta(days=days), moment) if days else None,
            activates_on=terms.activates_on,
            expires_at=_start_of(last + timedelta(days=1), moment) if last else None,
            rolling_days=terms.expiry.number if terms.expiry.until.value == "rolling_days" else None,
        )

    def hand_on(
        self, parts: Sequence[tuple[Lot, int]], into: Wallet, giver: UUID | None = None
    ) -> tuple[list[int], list[Lot]]:
        """Lots go over as they are, what can be spent first: the points of each row, and the new lots."""
        rows, new = [], []
        for active in (True, False):
            those = sorted((e for e in parts if e[0].active is active and e[1]), key=lambda e: e[0].number)
            for lot, part in those:
                lot.remaining -= part
                new.append(
                    self.add(
                        into,
                        part,
                        purchase=lot.purchase,
                        active=active,
                        activates_at=None if active else lot.activates_at,
                        activates_on="" if active else lot.activates_on,
                        expires_at=lot.expires_at,
                        rolling_days=lot.rolling_days,
                        giver=giver,
                    )
                )
            if those:
                rows.append(sum(part for _, part in those))
        return rows, new


def enough(wallet: Wallet, points: int) -> None:
    if wallet.balance < points:
        raise Refusal("INSUFFICIENT_POINTS")


def _empty() -> dict[str, Wallet]:
    return {"points": Wallet(), "stars": Wallet()}


def _start_of(day: date, like: datetime) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=like.tzinfo) - IN_KOLKATA
