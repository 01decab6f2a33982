"""Adjustments: points put in or taken out by hand, with a reason; large ones by two persons."""

from collections.abc import Mapping
from datetime import datetime

from server.domain.adjustments import Adjustment, AdjustmentStatus
from server.domain.books import Books, Prepared
from server.domain.commands import Adjust, ApproveAdjustment, Award, Outcome, RejectAdjustment
from server.domain.draft import BALANCE, Cause, Draft, Holdings
from server.domain.errors import FailedPrecondition, NotFound, PermissionDenied
from server.domain.events import AdjustmentRejected, AdjustmentRequested, PointsAdjusted
from server.domain.ledger import Account, Kind, Transaction, check_balance
from server.domain.lots import LotTerms, new_lot


def adjust(draft: Draft, _: Books, command: Adjust, __: Prepared) -> Outcome:
    """Correct a wallet, or write down that somebody wants to."""
    own, program = draft.of(command.member_id), draft.terms.program
    point_type = program.point_type(command.point_type)
    if abs(command.points) > program.ledger.approval_points:
        return _request(draft, own, point_type, command)
    row = _correct(draft, own, point_type, command.points, command.expires_at, {}, draft.cause)
    return _outcome(draft, own, point_type, command.points, (_award(row),))


def approve(draft: Draft, books: Books, command: ApproveAdjustment, _: Prepared) -> Outcome:
    """Do what was asked for, if it can still be done; who asked for it may not."""
    own, actor = draft.of(command.member_id), command.actor
    asked = _pending(books, command)
    if asked.asked_by(actor):
        raise PermissionDenied(
            "APPROVAL_REQUIRED",
            f"it takes another person than {asked.requested_by}, who asked for it",
            {"requested_by": asked.requested_by},
        )
    why = {
        "adjustment": {
            "id": str(asked.adjustment_id),
            "requested_by": asked.requested_by,
            "approved_by": actor.label,
        }
    }
    cause = draft.cause._replace(reason=asked.reason)
    row = _correct(draft, own, asked.point_type, asked.points, asked.expires_at, why, cause)
    draft.changes.adjustments[asked.adjustment_id] = _decided(
        draft, asked, AdjustmentStatus.APPROVED
    )._replace(transaction_id=row.transaction_id)
    return _outcome(draft, own, asked.point_type, asked.points, (_award(row),), asked)


def reject(draft: Draft, books: Books, command: RejectAdjustment, _: Prepared) -> Outcome:
    """Leave the wallet as it is; who asked for it may change their mind."""
    own = draft.of(command.member_id)
    asked = _pending(books, command)
    decided = _decided(draft, asked, AdjustmentStatus.REJECTED)
    draft.changes.adjustments[asked.adjustment_id] = decided
    draft.events.append(
        AdjustmentRejected(
            event_id=draft.cause.event_id,
            program_id=draft.terms.program.program_id,
            member_id=own.member_id,
            occurred_at=draft.cause.occurred_at,
            recorded_at=draft.terms.now,
            adjustment_id=asked.adjustment_id,
            point_type=asked.point_type,
            points=asked.points,
            reason=command.reason,
            actor=draft.cause.actor,
            expires_at=asked.expires_at,
        )
    )
    return _outcome(draft, own, asked.point_type, asked.points, (), asked)


def _request(draft: Draft, own: Holdings, point_type: str, command: Adjust) -> Outcome:
    terms, cause = draft.terms, draft.cause
    if command.points < 0:
        check_balance(own.wallet(point_type), -command.points, "take out")
    asked = Adjustment(
        terms.new_id(),
        own.member_id,
        point_type,
        command.points,
        command.expires_at,
        command.reason,
        AdjustmentStatus.PENDING,
        cause.actor,
        cause.credential_id,
        terms.now,
    )
    draft.changes.adjustments[asked.adjustment_id] = asked
    draft.events.append(
        AdjustmentRequested(
            event_id=cause.event_id,
            program_id=terms.program.program_id,
            member_id=own.member_id,
            occurred_at=cause.occurred_at,
            recorded_at=terms.now,
            adjustment_id=asked.adjustment_id,
            point_type=point_type,
            points=command.points,
            reason=command.reason,
            actor=cause.actor,
            expires_at=command.expires_at,
        )
    )
    return _outcome(draft, own, point_type, command.points, (), asked)


def _correct(
    draft: Draft,
    own: Holdings,
    point_type: str,
    points: int,
    expires_at: datetime | None,
    why: Mapping[str, object],
    cause: Cause,
) -> Transaction:
    """Move the points. What is taken out comes from lots as a redemption would take it."""
    terms, program = draft.terms, draft.terms.program
    if points > 0:
        transaction_id = terms.new_id()
        lot_terms = LotTerms(expiry=program.ledger.lot_terms(point_type).expiry)
        own.touch(point_type, cause.occurred_at)
        lot = new_lot(
            terms.new_id(), point_type, transaction_id, points, lot_terms, cause.occurred_at, program.zone
        )
        if expires_at is not None:
            lot = lot._replace(expires_at=expires_at, rolling_days=None)
        row = draft.move(
            own,
            point_type,
            Kind.ADJUST,
            Account.PROGRAM_ADJUSTMENT,
            BALANCE,
            points,
            why,
            cause=cause,
            transaction_id=transaction_id,
            created=(lot,),
        )
        draft.settle(own, point_type, cause)
    else:
        check_balance(own.wallet(point_type), -points, "take out")
        row = draft.move(
            own,
            point_type,
            Kind.ADJUST,
            BALANCE,
            Account.PROGRAM_ADJUSTMENT,
            -points,
            why,
            cause=cause,
            allocations=own.allocated(point_type, -points),
        )
    direction = "in" if points > 0 else "out"
    told = {"direction": direction, "reason": cause.reason, "actor": cause.actor, **why}
    draft.tell(PointsAdjusted, own, point_type, abs(points), told, cause)
    return row


def _pending(books: Books, command: ApproveAdjustment | RejectAdjustment) -> Adjustment:
    asked = books.adjustments.get(command.adjustment_id)
    if asked is None:
        raise NotFound("ADJUSTMENT_NOT_FOUND", "no such adjustment in this program")
    if asked.status is not AdjustmentStatus.PENDING:
        raise FailedPrecondition(
            "ADJUSTMENT_NOT_PENDING",
            f"the adjustment is {asked.status} already",
            {"status": asked.status.value},
        )
    return asked


def _decided(draft: Draft, asked: Adjustment, status: AdjustmentStatus) -> Adjustment:
    return asked._replace(
        status=status,
        decided_by=draft.cause.actor,
        decided_at=draft.terms.now,
        decision_reason=draft.cause.reason,
    )


def _award(row: Transaction) -> Award:
    return Award(row.transaction_id, row.point_type, row.points)


def _outcome(
    draft: Draft,
    own: Holdings,
    point_type: str,
    points: int,
    awards: tuple[Award, ...],
    asked: Adjustment | None = None,
) -> Outcome:
    wallet = own.wallet(point_type)
    return Outcome(
        event_id=draft.cause.event_id,
        member_id=own.member_id,
        awards=awards,
        point_type=point_type,
        points=points,
        balance=wallet.balance,
        debt=wallet.debt,
        tier=own.facts.tier,
        version=own.state.version + 1,
        adjustment_id=None if asked is None else asked.adjustment_id,
    )
