"""Households: members who share a pool of points, who of them may spend it, and who is asked to join."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from server.domain.errors import FailedPrecondition, NotFound

MAX_SEATS = 10
MAX_OPEN_INVITATIONS = 20
INVITATION_SECONDS = 7 * 86_400
MAX_INVITATION_SECONDS = 30 * 86_400

# The first half of the eight bytes that advisory locks are numbered by: the greatest that a UUID may have.
LAST = b"\xbf\xff\xff\xff"


class Role(StrEnum):
    """What a seat lets its member do beside spending."""

    HEAD = "head"  # asks others in, says who may spend, ends seats; there is one
    MEMBER = "member"


class Seat(NamedTuple):
    """A member's place in a household. Nobody has two at a time; one that ended stays as history.

    ``may_spend``: whether the pool pays for this member. ``contributes``: whether all that the member
    earns goes on to the pool.
    """

    seat_id: UUID
    household_id: UUID
    member_id: UUID
    role: Role
    may_spend: bool
    contributes: bool
    joined_at: datetime
    left_at: datetime | None = None


class Invitation(NamedTuple):
    """A seat that waits for whoever has the token, of which only the SHA-256 is kept."""

    invitation_id: UUID
    household_id: UUID
    token_hash: bytes
    may_spend: bool
    created_at: datetime
    created_by: str
    expires_at: datetime
    accepted_by: UUID | None = None

    def open(self, now: datetime) -> bool:
        """Whether it can still be accepted."""
        return self.accepted_by is None and self.expires_at > now


class Household(NamedTuple):
    """A pool and those who share it. Its id owns the pool's wallets as a member's id owns theirs."""

    household_id: UUID
    created_at: datetime
    created_by: str
    dissolved_at: datetime | None = None


def pool_id(fresh: UUID) -> UUID:
    """The id of a new household: a UUID of the same version that is locked after those of members.

    Locks are taken in ascending order of the second half of what they are about, so all agree that
    members come before pools. The moment and 44 bits of chance are left to tell households apart.
    """
    return UUID(bytes=fresh.bytes[:8] + LAST + fresh.bytes[12:])


def no_household() -> NotFound:
    """The refusal where there is none, and to those who don't sit there: one answer."""
    return NotFound("HOUSEHOLD_NOT_FOUND", "no such household, or the member doesn't sit there")


def no_invitation() -> NotFound:
    """The refusal of a token that was used, has expired, is of a household that is over, or never was."""
    return NotFound("INVITATION_NOT_FOUND", "no such invitation that is still open")


def check_seatless(seat: Seat | None) -> None:
    """Nobody ends while they sit in a household: what they gave goes back to them first."""
    if seat is not None:
        raise FailedPrecondition(
            "MEMBER_IN_HOUSEHOLD",
            "the member sits in a household: end that seat first",
            {"household_id": str(seat.household_id)},
        )
