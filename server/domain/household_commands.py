"""What callers ask of a household: who sits there, and what goes into its pool."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from server.domain.commands import Command
from server.domain.records import record


@record
class FormHousehold(Command):
    """A household of one, its head."""

    contributes: bool

    @property
    def seated(self) -> tuple[UUID, ...]:
        """Who must sit in none."""
        return (self.member_id,)

    @property
    def action(self) -> str:
        """Forming."""
        return "HOUSEHOLD"

    def _particulars(self) -> Sequence[object]:
        return (self.contributes,)


@record
class OfHousehold(Command):
    """What is asked of a household that is named.

    ``acting_id``: the member who asks, and must sit there; None for whoever works for the program.
    ``acting_given`` is how the caller named that member.
    """

    household_id: UUID
    acting_id: UUID | None = None
    acting_given: str = ""

    @property
    def members(self) -> tuple[UUID, ...]:
        """Who is concerned, and the pool."""
        return tuple(dict.fromkeys((self.member_id, self.household_id)))

    @property
    def households(self) -> tuple[UUID, ...]:
        """The one."""
        return (self.household_id,)

    @property
    def action(self) -> str:
        """Who sits there."""
        return "HOUSEHOLD"

    def _particulars(self) -> Sequence[object]:
        return str(self.household_id), self.acting_given


@record
class Invite(OfHousehold):
    """A seat for whoever has the token; ``member_id`` is the household's. ``seconds`` 0: the usual time."""

    token_hash: bytes
    may_spend: bool
    seconds: int = 0

    def _particulars(self) -> Sequence[object]:
        return str(self.household_id), self.acting_given, self.may_spend, self.seconds


@record
class Join(OfHousehold):
    """A member takes the seat that an invitation offers."""

    invitation_id: UUID
    contributes: bool

    @property
    def seated(self) -> tuple[UUID, ...]:
        """Who must sit in none."""
        return (self.member_id,)

    def _particulars(self) -> Sequence[object]:
        return str(self.invitation_id), self.contributes


@record
class ChangeSeat(OfHousehold):
    """Other terms for a seat; None leaves what is. ``make_head``: the head until now is one no more."""

    may_spend: bool | None = None
    contributes: bool | None = None
    make_head: bool = False

    def _particulars(self) -> Sequence[object]:
        said = self.may_spend, self.contributes, self.make_head
        return str(self.household_id), self.acting_given, *said


@record
class EndSeat(OfHousehold):
    """A member leaves, or has to."""

    def _particulars(self) -> Sequence[object]:
        return str(self.household_id), self.acting_given, self.reason


@record
class Dissolve(OfHousehold):
    """No more pool. ``member_id`` is the household's, ``sitting`` are those who were seen to sit there."""

    sitting: tuple[UUID, ...]

    @property
    def members(self) -> tuple[UUID, ...]:
        """The pool, and everybody who gets something of it."""
        return (self.household_id, *self.sitting)

    def following(self, merged: Mapping[UUID, UUID]) -> Command:
        """Who left and was merged since they were seen to sit there is whoever lives on."""
        return replace(self, sitting=tuple(dict.fromkeys(merged.get(who, who) for who in self.sitting)))

    def _particulars(self) -> Sequence[object]:
        return str(self.household_id), self.acting_given, self.reason


@record
class Contribute(Command):
    """Points for the pool of the household in which the member sits."""

    points: int
    point_type: str = ""

    @property
    def seated(self) -> tuple[UUID, ...]:
        """Whose household gets them."""
        return (self.member_id,)

    @property
    def action(self) -> str:
        """Sharing."""
        return "CONTRIBUTION"

    def _particulars(self) -> Sequence[object]:
        return self.points, self.point_type, self.reason
