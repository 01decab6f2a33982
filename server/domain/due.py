"""What the clock does to a wallet: lots activate and expire, holds reach their limit.

It is done, in the order of the moments at which it fell due, before anything else touches the wallet;
reads do the same without writing it down. So it makes no difference when, or whether, a nightly run
has been there.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.books import Books, Effects, MemberState, Terms
from server.domain.draft import BALANCE, HELD, PENDING, Cause, Draft, Holdings
from server.domain.events import PointsActivated, PointsExpired, PointsReleased
from server.domain.ledger import Account, Allocation, Hold, HoldStatus, Kind, Lot, Wallet
from server.domain.lots import expiry_of, next_due
from server.domain.program import Program
from server.domain.rules.compile import RuleSet

ACTIVATION, RELEASE, EXPIRY = "ACTIVATION", "HOLD_EXPIRY", "EXPIRY"
TIER_REVIEW = "TIER_REVIEW"
NOBODY = UUID(int=0)
CLOCK = "system:clock"


class _Due(NamedTuple):
    """What falls due at a moment; of those of one moment, activations come first, expiries last."""

    moment: datetime
    order: int
    what: Lot | Hold


def catch_up(draft: Draft, own: Holdings) -> None:
    """Do what has fallen due in any of the member's wallets."""
    for point_type in sorted(_due_by(draft.terms.now, own.wallets)):
        _catch_up(draft, own, point_type)


def catch_up_overdue(draft: Draft, own: Holdings) -> None:
    """Do what the draft itself made due: a lot that was too old when it came in."""
    for point_type in sorted(own.overdue):
        _catch_up(draft, own, point_type)


def anything_due(member: MemberState, now: datetime) -> bool:
    """Whether something may have fallen due in one of the member's wallets."""
    return bool(_due_by(now, member.wallets))


def _due_by(now: datetime, wallets: Mapping[str, Wallet]) -> list[str]:
    """The point types of the wallets in which something may have fallen due."""
    return [w.point_type for w in wallets.values() if w.next_due is not None and w.next_due <= now]


def caught_up(books: Books, terms: Terms) -> Effects:
    """What the clock has done to the members in ``books``, and nothing else.

    Of a wallet whose bound was too low only the bound changes. Who was seen to meanwhile isn't in it.
    """
    draft = Draft(books, terms, _cause(terms, EXPIRY, terms.now))
    for member_id, member in books.members.items():
        if anything_due(member, terms.now):
            catch_up(draft, draft.of(member_id))
    return _effects(draft)


def reviewed(books: Books, terms: Terms) -> Effects:
    """Those members in ``books`` whose tier isn't the one that their lifetime reaches, in that one.

    Every movement sees to its members' tiers, so this is for who hasn't moved since the terms changed.
    """
    program = terms.program
    draft = Draft(books, terms, _cause(terms, TIER_REVIEW, terms.now))
    for member_id, member in books.members.items():
        if member.facts.tier != program.tier_at(member.facts.lifetime).name:
            catch_up(draft, draft.of(member_id))
    return _effects(draft)


def _effects(draft: Draft) -> Effects:
    return Effects(
        members=draft.finish(),
        movements=tuple(draft.movements),
        events=tuple(draft.events),
        changes=draft.changes,
    )


def as_due(member_id: UUID, member: MemberState, program: Program, now: datetime) -> MemberState:
    """The member as a decision taken now would find it."""
    if not anything_due(member, now):
        return member
    numbers = count(1)
    terms = Terms(program, RuleSet.compile(program, []), 0, now, lambda: UUID(int=next(numbers)), "", b"-")
    draft = Draft(Books(members={member_id: member}), terms, _cause(terms, "", now))
    own = draft.of(member_id)
    catch_up(draft, own)
    return member._replace(wallets=own.wallets, lots=own.lots, holds=own.holds)


def hold_as_due(hold: Hold, now: datetime) -> Hold:
    """The hold as a decision taken now would find it."""
    if not hold.open_points or hold.expires_at > now:
        return hold
    return hold._replace(open_points=0, status=HoldStatus.EXPIRED, shares=())


def _catch_up(draft: Draft, own: Holdings, point_type: str) -> None:
    now, latest = draft.terms.now, datetime.min.replace(tzinfo=UTC)
    while found := _due(own, point_type, now):
        first = min(found, key=lambda due: due[:2])
        together = [due.what for due in found if due[:2] == first[:2]]
        latest = max(latest, first.moment)
        _STEPS[first.order](draft, own, point_type, latest, together)
    own.overdue.discard(point_type)
    wallet = own.wallet(point_type)
    coming = next_due(wallet, own.lots_of(point_type), _holds(own, point_type), now)
    # A bound that lies ahead still stands for lots that were not loaded.
    if wallet.next_due is not None and wallet.next_due > now and (coming is None or wallet.next_due < coming):
        coming = wallet.next_due
    own.wallets[point_type] = wallet._replace(next_due=coming)


def _holds(own: Holdings, point_type: str) -> list[Hold]:
    holds = [hold for hold in own.holds.values() if hold.point_type == point_type and hold.open_points]
    return sorted(holds, key=lambda hold: hold.hold_id)


def _due(own: Holdings, point_type: str, now: datetime) -> list[_Due]:
    active_at = own.wallet(point_type).active_at
    found = [_Due(h.expires_at, 1, h) for h in _holds(own, point_type) if h.expires_at <= now]
    for lot in own.lots_of(point_type):
        if not lot.remaining:
            continue
        if not lot.active and lot.activates_at is not None and lot.activates_at <= now:
            found.append(_Due(lot.activates_at, 0, lot))
        expires_at = expiry_of(lot, active_at)
        if expires_at is not None and expires_at <= now and lot.remaining > lot.held:
            found.append(_Due(expires_at, 2, lot))
    return found


def _activate(draft: Draft, own: Holdings, point_type: str, moment: datetime, lots: Sequence[Any]) -> None:
    activate(draft, own, point_type, lots, _cause(draft.terms, ACTIVATION, moment))


def activate(draft: Draft, own: Holdings, point_type: str, lots: Sequence[Lot], cause: Cause | None) -> None:
    """Let pending points be spent."""
    shares = tuple(Allocation(lot.lot_id, lot.remaining) for lot in lots)
    points = sum(share.points for share in shares)
    draft.move(own, point_type, Kind.ACTIVATE, PENDING, BALANCE, points, {}, cause=cause, allocations=shares)
    draft.settle(own, point_type, cause)
    if cause is not None:
        draft.tell(PointsActivated, own, point_type, points, {}, cause)


def _release(draft: Draft, own: Holdings, point_type: str, moment: datetime, holds: Sequence[Any]) -> None:
    for hold in holds:
        release(draft, own, hold, HoldStatus.EXPIRED, _cause(draft.terms, RELEASE, moment))


def release(draft: Draft, own: Holdings, hold: Hold, status: HoldStatus, cause: Cause | None) -> None:
    """Give what a hold still reserves back to the balance, and end it."""
    why = {"hold": str(hold.hold_id)}
    draft.move(
        own,
        hold.point_type,
        Kind.RELEASE,
        HELD,
        BALANCE,
        hold.open_points,
        why,
        cause=cause,
        allocations=hold.shares,
    )
    draft.hold(own, hold._replace(open_points=0, status=status, shares=()))
    draft.settle(own, hold.point_type, cause)
    draft.tell(PointsReleased, own, hold.point_type, hold.open_points, why, cause)


def _expire(draft: Draft, own: Holdings, point_type: str, moment: datetime, lots: Sequence[Any]) -> None:
    cause, total = _cause(draft.terms, EXPIRY, moment), 0
    for active, account in _EXPIRING_FROM.items():
        shares = tuple(Allocation(x.lot_id, x.remaining - x.held) for x in lots if x.active is active)
        points = sum(share.points for share in shares)
        if points:
            draft.move(
                own,
                point_type,
                Kind.EXPIRE,
                account,
                Account.PROGRAM_BREAKAGE,
                points,
                {},
                cause=cause,
                allocations=shares,
            )
        total += points
    draft.tell(PointsExpired, own, point_type, total, {}, cause)


_EXPIRING_FROM: Mapping[bool, Account] = {True: BALANCE, False: PENDING}
_STEPS = (_activate, _release, _expire)


def _cause(terms: Terms, event_type: str, moment: datetime) -> Cause:
    return Cause(terms.new_id(), event_type, moment, "", "", "", "laurel", CLOCK, NOBODY)
