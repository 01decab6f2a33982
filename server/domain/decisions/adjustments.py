"""Adjustments: points put in or taken out by hand, with a reason."""

from server.domain.books import Books, Prepared
from server.domain.commands import Adjust, Award, Outcome
from server.domain.draft import BALANCE, Draft
from server.domain.errors import FailedPrecondition
from server.domain.events import PointsAdjusted
from server.domain.ledger import Account, Kind, check_balance
from server.domain.lots import LotTerms, new_lot


def adjust(draft: Draft, _: Books, command: Adjust, __: Prepared) -> Outcome:
    """Correct a wallet. What is taken out comes from lots as a redemption would take it."""
    own, terms = draft.of(command.member_id), draft.terms
    program, points = terms.program, abs(command.points)
    if points > program.ledger.approval_points and not command.approved_by:
        raise FailedPrecondition(
            "APPROVAL_REQUIRED",
            f"adjustments of more than {program.ledger.approval_points} points take a second person",
            {"limit": str(program.ledger.approval_points), "requested": str(points)},
        )
    point_type = program.point_type(command.point_type)
    why = {"adjustment": {"approved_by": command.approved_by}} if command.approved_by else {}
    if command.points > 0:
        transaction_id = terms.new_id()
        lot_terms = LotTerms(expiry=program.ledger.lot_terms(point_type).expiry)
        now = draft.cause.occurred_at
        own.touch(point_type, now)
        lot = new_lot(terms.new_id(), point_type, transaction_id, points, lot_terms, now, program.zone)
        if command.expires_at is not None:
            lot = lot._replace(expires_at=command.expires_at, rolling_days=None)
        row = draft.move(
            own,
            point_type,
            Kind.ADJUST,
            Account.PROGRAM_ADJUSTMENT,
            BALANCE,
            points,
            why,
            transaction_id=transaction_id,
            created=(lot,),
        )
        draft.settle(own, point_type)
    else:
        check_balance(own.wallet(point_type), points, "take out")
        row = draft.move(
            own,
            point_type,
            Kind.ADJUST,
            BALANCE,
            Account.PROGRAM_ADJUSTMENT,
            points,
            why,
            allocations=own.allocated(point_type, points),
        )
    direction = "in" if command.points > 0 else "out"
    told = {"direction": direction, "reason": command.reason, "actor": draft.cause.actor}
    draft.tell(PointsAdjusted, own, point_type, points, told)
    wallet = own.wallet(point_type)
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=own.member_id,
        awards=(Award(row.transaction_id, point_type, points),),
        point_type=point_type,
        points=command.points,
        balance=wallet.balance,
        debt=wallet.debt,
        tier=own.facts.tier,
        version=own.state.version + 1,
    )
