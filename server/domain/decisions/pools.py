"""The pool of a household: what goes in, who is paid from it, and what goes back to whom.

A pool is a wallet like any other, of nobody in particular. Its lots remember who gave them; they are
spent as all lots are, the soonest to expire first, whoever gave them.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from uuid import UUID

from server.domain.books import Books, Prepared
from server.domain.commands import Award, Outcome
from server.domain.decisions.handover import Handed, Parts, hand_lots
from server.domain.draft import Cause, Draft, Holdings
from server.domain.due import activate, catch_up
from server.domain.errors import PermissionDenied
from server.domain.events import PointsTransferred
from server.domain.household_commands import Contribute
from server.domain.household_events import HouseholdSpent
from server.domain.households import Seat, no_household
from server.domain.ledger import Lot, Transaction, check_balance
from server.domain.lots import spending_order


class Why(StrEnum):
    """Why points go into a pool or out of it to a member."""

    EARNED = "earned"  # a member who contributes earned them
    GIVEN = "given"  # a member put them in
    LEFT = "left"  # who gave them leaves
    DISSOLVED = "dissolved"  # everybody does
    RETURNED = "returned"  # goods came back that had earned them


def pool_of(draft: Draft, books: Books, member_id: UUID) -> tuple[Seat, Holdings] | None:
    """Where the member sits, and the pool as it is now; None for who sits in no household."""
    seat = books.seats.get(member_id)
    return None if seat is None else (seat, pool(draft, seat.household_id))


def pool(draft: Draft, household_id: UUID) -> Holdings:
    """The pool; what has fallen due in it is done."""
    met = household_id in draft.members
    own = draft.of(household_id)
    if not met:
        catch_up(draft, own)
    return own


def payer(draft: Draft, books: Books, member_id: UUID) -> Holdings:
    """The pool that pays for a member. Raises NotFound, PermissionDenied."""
    found = pool_of(draft, books, member_id)
    if found is None:
        raise no_household()
    seat, own = found
    if not seat.may_spend:
        raise PermissionDenied(
            "SPENDING_NOT_ALLOWED", "the household does not let this member spend its pool"
        )
    return own


def spent_for(pays: Holdings, member_id: UUID) -> Mapping[str, object]:
    """What a row says of a pool that pays for a member; nothing where members pay for themselves."""
    if pays.member_id == member_id:
        return {}
    return {"household": {"id": str(pays.member_id), "spender": str(member_id)}}


def tell_spender(draft: Draft, pays: Holdings, member_id: UUID, kind: str, row: Transaction) -> None:
    """An event for the member who spent what is a pool's; nothing where members pay for themselves."""
    if pays.member_id == member_id:
        return
    draft.events.append(
        HouseholdSpent(
            event_id=draft.terms.new_id(),
            program_id=row.program_id,
            member_id=member_id,
            occurred_at=row.occurred_at,
            recorded_at=draft.terms.now,
            household_id=pays.member_id,
            actor=row.actor,
            kind=kind,
            point_type=row.point_type,
            points=row.points,
            balance=row.balance_after,
            transaction_id=row.transaction_id,
            order_reference=row.order_reference,
            store=row.store,
            channel=row.channel,
        )
    )


def share(draft: Draft, own: Holdings, seat: Seat, into: Holdings, awards: Iterable[Award]) -> Handed:
    """Hand on what these rows brought and no debt has taken."""
    rows = {award.transaction_id for award in awards}
    handed = Handed()
    for point_type in sorted(own.wallets):
        parts = [(x, x.remaining - x.held) for x in own.lots_of(point_type) if x.transaction_id in rows]
        handed += hand(draft, own, into, point_type, parts, seat.household_id, Why.EARNED)
    return handed


def activate_awaiting(draft: Draft, own: Holdings, into: Holdings, event_type: str) -> None:
    """What a member gave while it waited for this event of theirs can be spent from now on."""
    for point_type, wallet in sorted(into.wallets.items()):
        lots = [
            lot
            for lot in into.lots_of(point_type)
            if wallet.pending
            and not lot.active
            and lot.remaining
            and lot.activates_on == event_type
            and draft.giver(lot) == own.member_id
        ]
        if lots:
            # An event and rows of the pool's own, which belong to no order of the member's.
            activate(draft, into, point_type, lots, _apart(draft))


def contribute(draft: Draft, books: Books, command: Contribute, _: Prepared) -> Outcome:
    """Points of a member's own balance into the pool; they keep their expiry and whose they were."""
    own, program = draft.of(command.member_id), draft.terms.program
    found = pool_of(draft, books, command.member_id)
    if found is None:
        raise no_household()
    seat, into = found
    point_type = program.point_type(command.point_type)
    check_balance(own.wallet(point_type), command.points, "contribute")
    parts = [(own.lots[lot_id], points) for lot_id, points in own.allocated(point_type, command.points)]
    causes = draft.cause, _apart(draft)
    hand(draft, own, into, point_type, parts, seat.household_id, Why.GIVEN, causes)
    wallet = own.wallet(point_type)
    [row] = draft.rows_of(own, draft.cause)
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=own.member_id,
        awards=(Award(row, point_type, command.points),),
        point_type=point_type,
        points=command.points,
        balance=wallet.balance,
        tier=own.facts.tier,
        version=own.state.version + 1,
        household_id=seat.household_id,
        shared=command.points,
        pool_balance=into.wallet(point_type).balance,
    )


def shares_of(draft: Draft, pool: Holdings, giver_id: UUID) -> list[Lot]:
    """What is left of the lots that a member gave, and no hold reserves."""
    lots = [x for x in pool.lots.values() if x.remaining > x.held and draft.giver(x) == giver_id]
    return sorted(lots, key=lambda lot: lot.lot_id)


def give_back(draft: Draft, pool: Holdings, getter: Holdings, lots: Sequence[Lot], why: Why) -> Handed:
    """Lots of a pool go to a member, whose debt they pay first."""
    handed = Handed()
    for point_type in sorted({lot.point_type for lot in lots}):
        parts = [(lot, lot.remaining - lot.held) for lot in lots if lot.point_type == point_type]
        handed += hand(draft, pool, getter, point_type, parts, pool.member_id, why)
    return handed


def take_back(
    draft: Draft, books: Books, own: Holdings, point_type: str, rows: Sequence[UUID], points: int
) -> frozenset[UUID]:
    """Fetch as many points as there are of what the member gave, for goods that come back; the new lots.

    First what those rows had earned, then what the pool would spend first.
    """
    found = pool_of(draft, books, own.member_id)
    if found is None or points <= 0:
        return frozenset()
    _, pool = found
    active_at = pool.wallet(point_type).active_at
    theirs = [lot for lot in shares_of(draft, pool, own.member_id) if lot.point_type == point_type]
    earned = [lot for lot in theirs if draft.origin(lot) in rows]
    others = [lot for lot in theirs if lot.active and lot not in earned]
    parts = []
    for lot in (*earned, *sorted(others, key=lambda lot: spending_order(lot, active_at))):
        part = min(lot.remaining - lot.held, points)
        points -= part
        if part:
            parts.append((lot, part))
    # What comes is taken by the return in the same breath: a debt of the member's has no claim on it.
    return hand(draft, pool, own, point_type, parts, pool.member_id, Why.RETURNED, settling=False).lots


def hand(
    draft: Draft,
    giver: Holdings,
    getter: Holdings,
    point_type: str,
    parts: Parts,
    household_id: UUID,
    why: Why,
    causes: tuple[Cause, Cause] | None = None,
    *,
    settling: bool = True,
) -> Handed:
    """Lots between a member and a pool, either way. Activity counts on where they go."""
    points = sum(part for _, part in parts)
    if not points:
        return Handed()
    active_at = giver.wallet(point_type).active_at
    if active_at is not None:
        getter.touch(point_type, active_at)
    causes = causes or (_apart(draft), _apart(draft))
    into_pool = getter.member_id == household_id
    told = {
        "transfer": {"from": str(giver.member_id), "to": str(getter.member_id)},
        "household": {"id": str(household_id), "why": why.value},
    }
    remembered = giver.member_id if into_pool else None
    # The rows say which activity came along, where it isn't their own moment.
    active = {} if active_at == causes[1].occurred_at else {"active_at": active_at and active_at.isoformat()}
    handed = hand_lots(draft, giver, getter, point_type, parts, {**told, **active}, causes, remembered)
    if settling:
        draft.settle(getter, point_type, causes[1])
    details = {**told["transfer"], "household": told["household"]}
    draft.tell(PointsTransferred, giver, point_type, points, details, causes[0])
    draft.tell(PointsTransferred, getter, point_type, points, details, causes[1])
    return handed


def _apart(draft: Draft) -> Cause:
    """The command's cause, as an event of its own and of no order."""
    return draft.cause._replace(event_id=draft.terms.new_id(), order_reference="")
