"""Refunds: a redemption is undone, and its points go back to the lots they came from."""

from datetime import timedelta
from uuid import UUID

from server.domain.books import Books, Prepared
from server.domain.commands import Award, Outcome, Refund
from server.domain.draft import BALANCE, Draft, Holdings
from server.domain.errors import FailedPrecondition, NotFound
from server.domain.events import PointsRefunded
from server.domain.ledger import Account, Allocation, Kind, Lot
from server.domain.past import Spent


def refund(draft: Draft, books: Books, command: Refund, _: Prepared) -> Outcome:
    """Give points back, with their own expiry; what has expired meanwhile gets the program's grace."""
    own = draft.of(command.member_id)
    spent = books.spent.get(command.transaction_id)
    # The books may have it for the sake of another member's command.
    if spent is None or spent.member_id != command.member_id:
        raise NotFound("REDEMPTION_NOT_FOUND", "no such redemption of this member")
    left = spent.points - spent.refunded
    points = command.points or left
    if points > left or not left:
        raise FailedPrecondition(
            "REFUND_EXCEEDS_REDEMPTION",
            f"{spent.points} points were redeemed, {spent.refunded} of them are refunded already",
            {"redeemed": str(spent.points), "refunded": str(spent.refunded), "requested": str(points)},
        )
    transaction_id = draft.terms.new_id()
    back, renewed = _into(draft, own, spent, points, transaction_id)
    row = draft.move(
        own,
        spent.point_type,
        Kind.REVERSE_REDEEM,
        Account.PROGRAM_REDEMPTION,
        BALANCE,
        points,
        {"reverses": str(spent.transaction_id)},
        transaction_id=transaction_id,
        created=renewed,
        allocations=back,
    )
    draft.settle(own, spent.point_type)
    draft.changes.refunded[spent.spender_id or own.member_id, spent.transaction_id] = points
    draft.tell(PointsRefunded, own, spent.point_type, points, {"reverses": str(spent.transaction_id)})
    wallet = own.wallet(spent.point_type)
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=own.member_id,
        awards=(Award(row.transaction_id, spent.point_type, points),),
        point_type=spent.point_type,
        points=points,
        balance=wallet.balance,
        debt=wallet.debt,
        tier=own.facts.tier,
        version=own.state.version + 1,
    )


def _into(
    draft: Draft, own: Holdings, spent: Spent, points: int, transaction_id: UUID
) -> tuple[tuple[Allocation, ...], tuple[Lot, ...]]:
    """What goes back into which lot, and a new lot for what has expired.

    What was taken last goes back first, so the split of a refund into parts makes no difference. Lots of
    a member who was merged into this one are over: each gets one like it here.
    """
    terms, active_at = draft.terms, own.wallet(spent.point_type).active_at
    back, renewed, expired, skip = [], [], 0, spent.refunded
    for lot_id, share in reversed(spent.shares):
        part = min(max(share - skip, 0), points)
        skip -= min(share, skip)
        points -= part
        if not part:
            continue
        lot = own.lots[lot_id]
        if spent.lapsed(lot, active_at, terms.now):
            expired += part
        elif spent.spender_id is None:
            back.append(Allocation(lot_id, part))
        else:
            like_it = Lot(terms.new_id(), spent.point_type, transaction_id, part, part)
            renewed.append(like_it._replace(expires_at=lot.expires_at, rolling_days=lot.rolling_days))
    if expired:
        until = terms.now + timedelta(days=terms.program.ledger.refund_grace_days)
        renewed.append(
            Lot(terms.new_id(), spent.point_type, transaction_id, expired, expired, expires_at=until)
        )
    return tuple(back), tuple(renewed)
