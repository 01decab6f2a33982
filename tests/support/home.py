"""A family at the desk: Ann, Ben and Carl, who share a pool."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from server.domain.activity import MemberFacts
from server.domain.books import MemberState
from server.domain.commands import Outcome, PlaceHold, Redeem
from server.domain.household_commands import (
    ChangeSeat,
    Contribute,
    Dissolve,
    EndSeat,
    FormHousehold,
    Invite,
    Join,
)
from server.domain.households import Invitation, Seat
from server.domain.ledger import Wallet
from tests.support.desk import ANN, BEN, START, Desk

CARL = UUID(int=13)
FAMILY = (ANN, BEN, CARL)


class Home(Desk):
    """Ann's household, of her alone at first; nobody contributes unless they say so."""

    def __init__(self, rules: Any = None, *, contributes: bool = False, **ledger: Any) -> None:
        super().__init__(rules, **ledger)
        self.adopts(CARL)
        pool = self.does(FormHousehold, contributes=contributes).household_id
        assert pool is not None
        self.pool = pool

    def adopts(self, who: UUID) -> None:
        """There is another member."""
        self._books.members[who] = MemberState("active", MemberFacts("bronze", START - timedelta(days=1)), 1)
        self._books.returning.add(who)

    def seat(self, who: UUID) -> Seat | None:
        """Where somebody sits."""
        return self._books.seats.get(who)

    def invites(self, by: UUID | None = ANN, *, may_spend: bool = True, seconds: int = 0) -> Invitation:
        """Somebody offers a seat."""
        said = {"household_id": self.pool, "token_hash": b"", "may_spend": may_spend, "seconds": seconds}
        self.does(Invite, self.pool, acting_id=by, **said)
        return max(self._books.invitations.values())

    def joins(self, who: UUID, invitation: Invitation | None = None, **terms: bool) -> Outcome:
        """Somebody takes a seat, which Ann offers unless there is an invitation."""
        contributes = terms.pop("contributes", False)
        taken = invitation or self.invites(**terms)
        said = {"household_id": taken.household_id, "invitation_id": taken.invitation_id}
        return self.does(Join, who, contributes=contributes, **said)

    def changes(self, who: UUID, by: UUID | None = None, **terms: bool) -> Outcome:
        """Somebody's seat gets other terms."""
        return self.does(ChangeSeat, who, household_id=self.pool, acting_id=by, **terms)

    def leaves(self, who: UUID, by: UUID | None = None) -> Outcome:
        """Somebody's seat ends."""
        return self.does(EndSeat, who, household_id=self.pool, acting_id=by)

    def dissolves(self, by: UUID | None = ANN) -> Outcome:
        """The household ends."""
        sitting = tuple(seat.member_id for seat in self._books.seats.values())
        return self.does(Dissolve, self.pool, household_id=self.pool, sitting=sitting, acting_id=by)

    def gives(self, points: int, who: UUID = ANN) -> Outcome:
        """Somebody puts points into the pool."""
        return self.does(Contribute, who, points=points)

    def shops(self, points: int, who: UUID = ANN) -> Outcome:
        """The pool pays for somebody."""
        return self.does(Redeem, who, points=points, from_household=True)

    def reserves(self, points: int, who: UUID = ANN) -> UUID:
        """Points of the pool are reserved for somebody; the hold's id."""
        hold = self.does(PlaceHold, who, points=points, from_household=True).hold
        assert hold is not None
        assert hold.spender_id == who
        return hold.hold_id

    def recorded(self, who: UUID) -> Wallet:
        """Somebody's points as they are written down."""
        return self._books.members[who].wallet("points")

    def balances(self) -> tuple[int, ...]:
        """Ann's, Ben's, Carl's and the pool's."""
        return tuple(self.wallet(who).balance for who in (*FAMILY, self.pool))
