"""Households: who sits there and on what terms, and what goes back to whom when a seat ends."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from server.domain.activity import MemberFacts
from server.domain.books import Books, MemberState, Prepared
from server.domain.commands import Award, Outcome
from server.domain.decisions.pools import Why, give_back, shares_of
from server.domain.draft import Draft, Holdings
from server.domain.errors import Aborted, FailedPrecondition, PermissionDenied, invalid
from server.domain.household_commands import ChangeSeat, Dissolve, EndSeat, FormHousehold, Invite, Join
from server.domain.household_events import (
    HouseholdDissolved,
    HouseholdFormed,
    HouseholdInvited,
    HouseholdJoined,
    HouseholdLeft,
    HouseholdSeatChanged,
    OfSeat,
)
from server.domain.households import (
    INVITATION_SECONDS,
    MAX_OPEN_INVITATIONS,
    MAX_SEATS,
    Household,
    Invitation,
    Role,
    Seat,
    no_household,
    no_invitation,
    pool_id,
)
from server.domain.members import Status


def form(draft: Draft, books: Books, command: FormHousehold, _: Prepared) -> Outcome:
    """A pool with nothing in it, and its head's seat."""
    own, terms = draft.of(command.member_id), draft.terms
    _check_seatless(books, own)
    household_id = pool_id(terms.new_id())
    facts = MemberFacts(terms.program.tiers[0].name, terms.now)
    pool = draft.found(household_id, MemberState(Status.ACTIVE, facts, 0, household=True))
    draft.changes.households[household_id] = Household(household_id, terms.now, draft.cause.actor)
    draft.events.append(HouseholdFormed(**_about(draft, household_id, household_id)))
    _seat(draft, pool, own, Role.HEAD, may_spend=True, contributes=command.contributes)
    return _outcome(draft, own, household_id)


def invite(draft: Draft, books: Books, command: Invite, _: Prepared) -> Outcome:
    """Offer a seat to whoever has the token."""
    pool, terms = draft.of(command.household_id), draft.terms
    _check_acting(books, command.household_id, command.acting_id)
    waiting = [
        i for i in books.invitations.values() if i.household_id == pool.member_id and i.open(terms.now)
    ]
    if len(waiting) >= MAX_OPEN_INVITATIONS:
        raise FailedPrecondition(
            "TOO_MANY_INVITATIONS",
            f"{len(waiting)} invitations wait already",
            {"limit": str(MAX_OPEN_INVITATIONS)},
        )
    invitation = Invitation(
        terms.new_id(),
        pool.member_id,
        command.token_hash,
        command.may_spend,
        terms.now,
        draft.cause.actor,
        terms.now + timedelta(seconds=command.seconds or INVITATION_SECONDS),
    )
    draft.changes.invitations[invitation.invitation_id] = invitation
    about = _about(draft, pool.member_id, pool.member_id)
    draft.events.append(HouseholdInvited(**about, invitation_id=invitation.invitation_id))
    return _outcome(draft, pool, pool.member_id)


def join(draft: Draft, books: Books, command: Join, _: Prepared) -> Outcome:
    """Take the seat that an invitation offers; only one may."""
    own, pool = draft.of(command.member_id), draft.of(command.household_id)
    invitation = books.invitations.get(command.invitation_id)
    if invitation is None or not invitation.open(draft.terms.now):
        raise no_invitation()
    _check_seatless(books, own)
    if len(_seats(books, pool.member_id)) >= MAX_SEATS:
        raise FailedPrecondition(
            "HOUSEHOLD_FULL", f"{MAX_SEATS} sit there already", {"limit": str(MAX_SEATS)}
        )
    draft.changes.invitations[invitation.invitation_id] = invitation._replace(accepted_by=own.member_id)
    _seat(draft, pool, own, Role.MEMBER, may_spend=invitation.may_spend, contributes=command.contributes)
    return _outcome(draft, own, pool.member_id)


def change_seat(draft: Draft, books: Books, command: ChangeSeat, _: Prepared) -> Outcome:
    """Other terms: the head says who spends and who is head, each member whether it contributes."""
    seat = _seat_of(books, command.member_id, command.household_id)
    acting = _check_acting(books, command.household_id, command.acting_id, command.member_id)
    if acting is not None:
        _check_share(command, acting)
    after = seat
    if command.contributes is not None:
        after = after._replace(contributes=command.contributes)
    if command.may_spend is not None:
        after = after._replace(may_spend=command.may_spend)
    if command.make_head:
        after = after._replace(role=Role.HEAD, may_spend=True)
    if after.role is Role.HEAD and not after.may_spend:
        raise invalid("may_spend", "the head may always spend")
    if after.role is not seat.role:
        [head] = [s for s in _seats(books, command.household_id) if s.role is Role.HEAD]
        # Whoever was head is not locked here, so only the household's log tells of it.
        head = head._replace(role=Role.MEMBER)
        draft.changes.seats[head.seat_id] = head
        _tell(draft, HouseholdSeatChanged, head, (head.household_id,))
    if after != seat:
        draft.changes.seats[after.seat_id] = after
        _tell(draft, HouseholdSeatChanged, after)
    return _outcome(draft, draft.of(command.member_id), command.household_id)


def end_seat(draft: Draft, books: Books, command: EndSeat, _: Prepared) -> Outcome:
    """A member leaves with what is left of what it gave; what a hold reserves stays."""
    seat = _seat_of(books, command.member_id, command.household_id)
    _check_acting(books, command.household_id, command.acting_id, command.member_id)
    if seat.role is Role.HEAD:
        raise FailedPrecondition(
            "HOUSEHOLD_NEEDS_HEAD", "the head makes somebody else the head first, or dissolves the household"
        )
    own, pool = draft.of(command.member_id), draft.of(command.household_id)
    lots = shares_of(draft, pool, own.member_id)
    awards = give_back(draft, pool, own, lots, Why.LEFT).awards
    _end(draft, seat)
    return _outcome(draft, own, command.household_id, awards)


def dissolve(draft: Draft, books: Books, command: Dissolve, _: Prepared) -> Outcome:
    """Everybody gets what is left of what they gave; what nobody there gave goes to the head."""
    pool = draft.of(command.household_id)
    _check_acting(books, command.household_id, command.acting_id)
    holds = sorted(str(hold.hold_id) for hold in pool.holds.values() if hold.open_points)
    if holds:
        raise FailedPrecondition(
            "MEMBER_HAS_HOLDS",
            f"{len(holds)} holds of the pool are open: capture or void them first",
            {"holds": ",".join(holds)},
        )
    # In the order of joining, as the same decision must come out whatever the order in which they were found.
    seats = sorted(_seats(books, pool.member_id), key=lambda seat: (seat.role is Role.HEAD, seat.seat_id))
    if {seat.member_id for seat in seats} != set(command.sitting):
        raise Aborted("HOUSEHOLD_CHANGED", "somebody joined or left at this moment; try again")
    awards: tuple[Award, ...] = ()
    for seat in seats:
        own = draft.of(seat.member_id)
        # The head comes last: what is left then is of nobody else.
        left = seat.role is Role.HEAD
        lots = (
            [x for x in pool.lots.values() if x.remaining] if left else shares_of(draft, pool, own.member_id)
        )
        awards += give_back(draft, pool, own, lots, Why.DISSOLVED).awards
        _end(draft, seat)
    household = books.households[pool.member_id]
    draft.changes.households[pool.member_id] = household._replace(dissolved_at=draft.terms.now)
    pool.state = pool.state._replace(status=Status.CLOSED)
    about = _about(draft, pool.member_id, pool.member_id)
    draft.events.append(HouseholdDissolved(**about, reason=draft.cause.reason))
    return _outcome(draft, pool, pool.member_id, awards)


def _check_seatless(books: Books, own: Holdings) -> None:
    seat = books.seats.get(own.member_id)
    if seat is not None:
        raise FailedPrecondition("ALREADY_IN_HOUSEHOLD", "the member sits in a household already")


def _check_acting(
    books: Books, household_id: UUID, acting_id: UUID | None, seated_id: UUID | None = None
) -> Seat | None:
    """The seat of the member who asks: the head's, or the one it is about; None for who asks for the program.

    To whoever sits elsewhere there is no such household.
    """
    if acting_id is None:
        return None
    acting = _seat_of(books, acting_id, household_id)
    if acting.role is not Role.HEAD and acting_id != seated_id:
        raise PermissionDenied("HOUSEHOLD_HEAD_ONLY", "only the head of the household may")
    return acting


def _check_share(command: ChangeSeat, acting: Seat) -> None:
    """What is earned is its earner's to give; what is shared, the head's to open."""
    if command.contributes is not None and acting.member_id != command.member_id:
        raise PermissionDenied("HOUSEHOLD_SEAT_ONLY", "who earns says whether it goes to the pool")
    if (command.may_spend is not None or command.make_head) and acting.role is not Role.HEAD:
        raise PermissionDenied("HOUSEHOLD_HEAD_ONLY", "only the head of the household may")


def _seat_of(books: Books, member_id: UUID, household_id: UUID) -> Seat:
    seat = books.seats.get(member_id)
    if seat is None or seat.household_id != household_id:
        raise no_household()
    return seat


def _seats(books: Books, household_id: UUID) -> list[Seat]:
    return [seat for seat in books.seats.values() if seat.household_id == household_id]


def _seat(
    draft: Draft, pool: Holdings, own: Holdings, role: Role, *, may_spend: bool, contributes: bool
) -> None:
    terms = draft.terms
    seat = Seat(terms.new_id(), pool.member_id, own.member_id, role, may_spend, contributes, terms.now)
    draft.changes.seats[seat.seat_id] = seat
    _tell(draft, HouseholdJoined, seat)


def _end(draft: Draft, seat: Seat) -> None:
    draft.changes.seats[seat.seat_id] = seat._replace(left_at=draft.terms.now)
    _tell(draft, HouseholdLeft, seat, reason=draft.cause.reason)


def _tell(draft: Draft, event: type[OfSeat], seat: Seat, whom: tuple[UUID, ...] = (), **more: Any) -> None:
    """Log it for the household and for the member, unless it is said for whom."""
    for member_id in whom or (seat.household_id, seat.member_id):
        draft.events.append(
            event(
                **_about(draft, member_id, seat.household_id),
                seated_id=seat.member_id,
                role=seat.role.value,
                may_spend=seat.may_spend,
                contributes=seat.contributes,
                **more,
            )
        )


def _about(draft: Draft, member_id: UUID, household_id: UUID) -> dict[str, Any]:
    terms = draft.terms
    return {
        "event_id": terms.new_id(),
        "program_id": terms.program.program_id,
        "member_id": member_id,
        "occurred_at": draft.cause.occurred_at,
        "recorded_at": terms.now,
        "household_id": household_id,
        "actor": draft.cause.actor,
    }


def _outcome(draft: Draft, own: Holdings, household_id: UUID, awards: tuple[Award, ...] = ()) -> Outcome:
    main = draft.terms.program.main_point_type
    wallet = own.wallet(main)
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=own.member_id,
        awards=awards,
        point_type=main,
        points=sum(award.points for award in awards if award.point_type == main),
        balance=wallet.balance,
        pending=wallet.pending,
        debt=wallet.debt,
        tier=own.facts.tier,
        version=own.state.version + 1,
        household_id=household_id,
    )
