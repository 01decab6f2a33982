"""What is written to the event log of households: once for the pool, once for the member concerned."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from server.domain.events import Event
from server.domain.records import record


@record
class OfHousehold(Event):
    """Something happened to a household; ``actor`` did it."""

    household_id: UUID
    actor: str

    def payload(self) -> Mapping[str, Any]:
        """The household and who did it."""
        return {"household_id": str(self.household_id), "actor": self.actor}


class HouseholdFormed(OfHousehold):
    """There is a new pool. The pool's own event; the head joins with one like everybody's."""

    event_type = "household.formed"


@record
class HouseholdInvited(OfHousehold):
    """Whoever has the token may join. The pool's own event."""

    event_type = "household.invited"

    invitation_id: UUID

    def payload(self) -> Mapping[str, Any]:
        """Which invitation; never its token."""
        return {**OfHousehold.payload(self), "invitation_id": str(self.invitation_id)}


@record
class OfSeat(OfHousehold):
    """Something happened to a seat. Two of each: the pool's and the member's who sits there."""

    seated_id: UUID
    role: str
    may_spend: bool
    contributes: bool

    def payload(self) -> Mapping[str, Any]:
        """Whose seat it is, and its terms."""
        return {
            **OfHousehold.payload(self),
            "seated_id": str(self.seated_id),
            "role": self.role,
            "may_spend": self.may_spend,
            "contributes": self.contributes,
        }


class HouseholdJoined(OfSeat):
    """A member has a seat."""

    event_type = "household.joined"


class HouseholdSeatChanged(OfSeat):
    """A seat has other terms."""

    event_type = "household.seat_changed"


@record
class HouseholdLeft(OfSeat):
    """A seat has ended. What went back to its member is in events of its own."""

    event_type = "household.left"

    reason: str

    def payload(self) -> Mapping[str, Any]:
        """Whose seat it was, and why it ended."""
        return {**OfSeat.payload(self), "reason": self.reason}


@record
class HouseholdDissolved(OfHousehold):
    """There is no pool any more. The pool's own event; everybody leaves with one like everybody's."""

    event_type = "household.dissolved"

    reason: str

    def payload(self) -> Mapping[str, Any]:
        """Why."""
        return {**OfHousehold.payload(self), "reason": self.reason}


@record
class HouseholdSpent(OfHousehold):
    """The pool paid for a member, whose own event this is; the pool's says what it did to the wallet.

    ``kind``: redeemed or captured. ``balance`` is what is left in the pool.
    """

    event_type = "household.spent"

    kind: str
    point_type: str
    points: int
    balance: int
    transaction_id: UUID
    order_reference: str
    store: str
    channel: str

    def payload(self) -> Mapping[str, Any]:
        """Which household, how, what was spent and what is left of it."""
        names = ("kind", "point_type", "points", "balance", "order_reference", "store", "channel")
        return {
            **OfHousehold.payload(self),
            **{name: getattr(self, name) for name in names},
            "transaction_id": str(self.transaction_id),
        }
