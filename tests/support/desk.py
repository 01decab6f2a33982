"""A desk at which anything is done to points, without a database: for stories that one can check by hand."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import pytest

from server.domain.activity import PURCHASE, Line, MemberFacts
from server.domain.actor import Actor, CallerKind
from server.domain.books import Books, Decision, MemberState, Terms
from server.domain.commands import (
    Adjust,
    ApproveAdjustment,
    CaptureHold,
    Command,
    Earn,
    Item,
    Outcome,
    PlaceHold,
    Redeem,
    Refund,
    Return,
    Transfer,
    VoidHold,
)
from server.domain.due import as_due
from server.domain.errors import Refused
from server.domain.ledger import Kind, Lot, Movement, Transaction, Wallet
from server.domain.lots import Expiry, LotTerms, Until
from server.domain.past import Spent
from server.domain.points import decide, prepare
from server.domain.program import LedgerTerms, Program, Tier
from server.domain.rules.compile import RuleSet
from tests.support.idleness import idle

THREE_DAYS = LotTerms(expiry=Expiry(Until.DAYS, 3))
ANN, BEN = UUID(int=11), UUID(int=12)
START = datetime(2026, 11, 23, 12, tzinfo=UTC)
RULES: list[tuple[int, dict[str, Any]]] = [
    (1, {"rule": "base", "then": [{"earn": {"points": 1, "per": "1.00"}}]}),
]


def spent_by(movement: Movement, lots: Mapping[UUID, Lot]) -> Spent:
    """A redemption or capture as PostgreSQL would be asked for it."""
    row = movement.transaction
    far = datetime.max.replace(tzinfo=UTC)
    shares = sorted(movement.allocations, key=lambda s: (lots[s.lot_id].expires_at or far, s.lot_id))
    return Spent(row.transaction_id, row.member_id, row.point_type, row.points, 0, tuple(shares))


class Desk:
    """A program that gives a point for each rupee, its members Ann and Ben, and a clock."""

    def __init__(self, rules: list[tuple[int, dict[str, Any]]] | None = None, **ledger: Any) -> None:
        self.program = Program(
            program_id=UUID(int=1),
            name="desk",
            currency="INR",
            time_zone="Asia/Kolkata",
            tiers=(Tier("bronze", 0), Tier("silver", 50)),
            event_types={"VISIT": {}},
            ledger=LedgerTerms(**ledger),
        )
        self.now = START
        self.rows: list[Transaction] = []
        facts = MemberFacts("bronze", START - timedelta(days=400))
        self._books = Books(
            members={ANN: MemberState("active", facts, 1), BEN: MemberState("active", facts, 1)},
            returning={ANN, BEN},
        )
        self._rules = RuleSet.compile(self.program, RULES if rules is None else rules)
        self._ids, self._requests = count(1000), count(1)

    def later(self, **time: float) -> None:
        """Let time go by."""
        self.now += timedelta(**time)

    def member(self, member_id: UUID = ANN) -> MemberState:
        """The member as anybody who reads finds it now."""
        return as_due(member_id, self._books.members[member_id], self.program, self.now)

    def wallet(self, member_id: UUID = ANN) -> Wallet:
        """The member's points."""
        return self.member(member_id).wallet("points")

    def lots(self, member_id: UUID = ANN) -> list[int]:
        """What remains of each lot that has anything left, by age."""
        lots = sorted(self.member(member_id).lots.values(), key=lambda lot: lot.lot_id)
        return [lot.remaining for lot in lots if lot.remaining]

    def used(self) -> int:
        """What the counters of caps say has been given."""
        return sum(points for usage in self._books.cap_usage.values() for points in usage.values())

    def kinds(self) -> list[Kind]:
        """The rows so far."""
        return [row.kind for row in self.rows]

    def buys(self, *basket: tuple[str, int, int], who: UUID = ANN, days_ago: float = 0) -> Outcome:
        """A purchase of lines of SKU, quantity and rupees."""
        lines = tuple(
            Line(f"{n}", sku, "", quantity, Decimal(rupees))
            for n, (sku, quantity, rupees) in enumerate(basket, 1)
        )
        amount = sum((line.amount for line in lines), Decimal(0))
        moment = self.now - timedelta(days=days_ago) if days_ago else None
        said = {"event_type": PURCHASE, "currency": "INR", "amount": amount, "lines": lines}
        return self.does(Earn, who, occurred_at=moment, **said)

    def visits(self, who: UUID = ANN) -> Outcome:
        """An event."""
        return self.does(Earn, who, event_type="VISIT")

    def spends(self, points: int, who: UUID = ANN) -> Outcome:
        """A redemption."""
        return self.does(Redeem, who, points=points)

    def holds(self, points: int, seconds: int = 0) -> UUID:
        """A reservation; its id."""
        hold = self.does(PlaceHold, points=points, seconds=seconds).hold
        assert hold is not None
        return hold.hold_id

    def captures(self, hold_id: UUID, points: int = 0, **said: Any) -> Outcome:
        """A reservation is spent."""
        return self.does(CaptureHold, hold_id=hold_id, points=points, **said)

    def voids(self, hold_id: UUID) -> Outcome:
        """A reservation is given up."""
        return self.does(VoidHold, hold_id=hold_id)

    def returns(self, purchase: Outcome | None, *items: tuple[str, int], who: UUID = ANN) -> Outcome:
        """Units of SKUs come back; of no purchase in particular if None, all that is left without items."""
        event_id = None if purchase is None else purchase.event_id
        back = tuple(Item("", sku, quantity) for sku, quantity in items)
        return self.does(Return, who, event_id=event_id, purchase_given=str(event_id), items=back)

    def refunds(self, spent: Outcome, points: int = 0) -> Outcome:
        """A redemption is undone."""
        return self.does(Refund, transaction_id=spent.awards[0].transaction_id, points=points)

    def hands(self, points: int, to: UUID = BEN) -> Outcome:
        """Ann gives points away."""
        return self.does(Transfer, to_member_id=to, to_given=str(to), points=points)

    def adjusts(self, points: int, **said: Any) -> Outcome:
        """Somebody corrects Ann's wallet, or asks for it."""
        return self.does(Adjust, points=points, **said)

    def approves(self, asked: Outcome, by: str) -> Outcome:
        """Somebody agrees to a correction of Ann's wallet."""
        return self.does(ApproveAdjustment, adjustment_id=asked.adjustment_id, by=by)

    def does(self, kind: type[Command], who: UUID = ANN, by: str = "desk", **said: Any) -> Outcome:
        """Any command. Raises Refused."""
        credential_id = uuid5(NAMESPACE_OID, by)
        common: dict[str, Any] = {
            "actor": Actor(CallerKind.STAFF, self.program.program_id, credential_id, by, by, frozenset()),
            "request_id": f"request-{next(self._requests)}",
            "received_at": self.now,
            "member_id": who,
            "member_given": str(who),
            **dict.fromkeys(("reference", "store", "channel", "part"), ""),
            "occurred_at": None,
            "business_date": None,
        }
        terms = Terms(
            self.program, self._rules, 1, self.now, lambda: UUID(int=next(self._ids)), "1", b"k" * 32
        )
        command = kind(**{**common, **said})
        if isinstance(command, Refund):
            spent = self._books.spent[command.transaction_id]
            lived = spent._replace(idle=idle(command.transaction_id, self.rows, self.now))
            self._books.spent[command.transaction_id] = lived
        decided = decide(self._books, prepare(command, self.program), terms)
        assert isinstance(decided, Decision)
        self._books.apply(decided)
        for movement in decided.movements:
            row = movement.transaction
            self.rows.append(row)
            if row.kind in (Kind.REDEEM, Kind.CAPTURE):
                lots = self._books.members[row.member_id].lots
                self._books.spent[row.transaction_id] = spent_by(movement, lots)
        return decided.outcome


def refused(does: Callable[..., Any], *said: Any, **more: Any) -> str:
    """The reason for which it is refused."""
    with pytest.raises(Refused) as caught:
        does(*said, **more)
    return caught.value.reason


def expiring(**expiry: int) -> dict[str, LotTerms]:
    """Terms of points that expire."""
    ((until, number),) = expiry.items()
    return {"points": LotTerms(expiry=Expiry(Until(until), number))}
