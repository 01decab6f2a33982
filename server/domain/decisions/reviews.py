"""What becomes of entries that came too late: kept, and then recorded or not, as a person decides."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from server.domain.books import Books, Prepared
from server.domain.commands import CaptureHold, Command, Earn, Outcome, Redeem, Return
from server.domain.decisions.earn import earn
from server.domain.decisions.holds import capture
from server.domain.decisions.redeem import redeem
from server.domain.decisions.returns import give_back
from server.domain.draft import Draft
from server.domain.errors import AlreadyExists, FailedPrecondition, NotFound, invalid
from server.domain.events import ReviewApproved, ReviewRejected, ReviewRequested
from server.domain.reviews import MOST_PENDING, ApproveReview, PutAside, RejectReview, Review, ReviewStatus

# What can be put aside.
DEEDS: Mapping[type[Command], Callable[..., Outcome]] = MappingProxyType(
    {Earn: earn, Redeem: redeem, CaptureHold: capture, Return: give_back}
)


def known(books: Books, command: PutAside) -> Outcome | None:
    """What was said of the entry when it was put aside; None if it wasn't."""
    review = books.put_aside.get((command.actor.source_system, command.request_id))
    if review is None:
        return None
    if review.request_hash != command.said:
        raise invalid("request_id", "was used with another request", "REQUEST_ID_REUSED")
    return _outcome(review)


def put_aside(draft: Draft, books: Books, command: PutAside, _: Prepared) -> Outcome:
    """Keep the entry, if there is room for another one of its credential."""
    credential_id = command.actor.credential_id
    if books.pending_reviews.get(credential_id, 0) >= MOST_PENDING:
        raise FailedPrecondition(
            "REVIEWS_FULL",
            f"{MOST_PENDING:,} entries of this credential wait for a review already",
            {"limit": str(MOST_PENDING)},
        )
    assert command.occurred_at is not None
    review = Review(
        draft.terms.new_id(),
        command.member_id,
        command.actor.source_system,
        command.request_id,
        command.said,
        credential_id,
        command.actor.label,
        command.store,
        command.kind,
        command.entry,
        command.why,
        command.occurred_at,
        command.received_at,
    )
    _note(draft, review, ReviewRequested)
    return _outcome(review)


def approve(draft: Draft, books: Books, command: ApproveReview, prepared: Prepared) -> Outcome:
    """Do what was sent, as of when it happened, once: it may have been accepted otherwise meanwhile."""
    review = pending(books, command)
    accepted = books.requests.get(command.request)
    if accepted is not None:
        raise AlreadyExists(
            "ORDER_ALREADY_RECORDED",
            "what was sent under this request_id is on record already",
            {} if accepted.outcome is None else {"event_id": str(accepted.outcome.event_id)},
        )
    outcome = DEEDS[type(command.entry)](draft, books, command.entry, prepared)
    # Whoever sends the entry again is answered as if it had been accepted at once.
    draft.changes.answered[command.request] = review.request_hash
    _note(draft, _decided(draft, command, review, ReviewStatus.APPROVED), ReviewApproved)
    return outcome


def reject(draft: Draft, books: Books, command: RejectReview, _: Prepared) -> Outcome:
    """Leave it at that; the entry is kept."""
    review = _decided(draft, command, pending(books, command), ReviewStatus.REJECTED)
    _note(draft, review, ReviewRejected)
    return _outcome(review)


def pending(books: Books, command: ApproveReview | RejectReview) -> Review:
    """The entry, if nobody has decided yet. Refused otherwise."""
    review = books.reviews.get(command.review_id)
    if review is None:
        raise NotFound("REVIEW_NOT_FOUND", "no such entry in this program")
    if review.status is not ReviewStatus.PENDING:
        raise FailedPrecondition(
            "REVIEW_NOT_PENDING",
            f"the entry is {review.status} already",
            {"status": review.status.value},
        )
    return review


def _decided(
    draft: Draft, command: ApproveReview | RejectReview, review: Review, status: ReviewStatus
) -> Review:
    return review._replace(
        status=status,
        decided_by=draft.cause.actor,
        decided_at=draft.terms.now,
        decision_reason=command.reason,
        event_id=draft.cause.event_id if status is ReviewStatus.APPROVED else None,
    )


def _note(draft: Draft, review: Review, event: type[ReviewRequested]) -> None:
    """Write the entry down as it is now, and log it; what an approval records is logged beside it."""
    draft.changes.reviews[review.review_id] = review
    draft.events.append(
        event(
            event_id=draft.terms.new_id(),
            program_id=draft.terms.program.program_id,
            member_id=review.member_id,
            occurred_at=draft.terms.now,
            recorded_at=draft.terms.now,
            review_id=review.review_id,
            kind=review.kind,
            request_id=review.request_id,
            source_system=review.source_system,
            why=review.why,
            actor=draft.cause.actor,
        )
    )


def _outcome(review: Review) -> Outcome:
    """What is told where no points moved."""
    return Outcome(
        event_id=review.review_id,
        member_id=review.member_id,
        awards=(),
        point_type="",
        points=0,
        balance=0,
        tier="",
        version=0,
        review=review.status,
    )
