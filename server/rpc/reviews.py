"""ReviewService: parse, act, render."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from google.protobuf import json_format
from loyalty.v1 import journal_pb2
from loyalty.v1 import reviews_pb2 as pb

from server.domain.actor import Actor
from server.domain.commands import Command
from server.domain.reviews import ApproveReview, RejectReview, Review, ReviewStatus
from server.operations.points import Points
from server.operations.reviews import Reviews
from server.rpc.fields import Fields
from server.rpc.gate import Call, Handler
from server.rpc.movements import circumstances
from server.rpc.pages import Pages

STATUSES: Mapping[ReviewStatus, journal_pb2.ReviewStatus.ValueType] = MappingProxyType(
    {
        ReviewStatus.PENDING: journal_pb2.REVIEW_STATUS_PENDING,
        ReviewStatus.APPROVED: journal_pb2.REVIEW_STATUS_APPROVED,
        ReviewStatus.REJECTED: journal_pb2.REVIEW_STATUS_REJECTED,
    }
)


class ReviewService:
    """The RPCs of ReviewService, called by the gate. Entries go through the handlers of their own calls."""

    def __init__(
        self,
        reviews: Reviews,
        points: Points,
        handlers: Mapping[str, Handler],
        pages: Pages,
        clock: Callable[[], datetime],
    ) -> None:
        self._reviews = reviews
        self._points = points
        self._handlers = handlers
        self._pages = pages
        self._clock = clock

    async def ApproveReviewEntry(
        self, request: pb.ApproveReviewEntryRequest, call: Call
    ) -> pb.ApproveReviewEntryResponse:
        """Record an entry as of when it happened."""
        said, review = await self._asked(request, call)

        def approving(entry: Command) -> Command:
            return ApproveReview(
                member_id=entry.member_id,
                member_given="",
                received_at=self._clock(),
                review_id=review.review_id,
                entry=replace(entry, received_at=review.received_at),
                request=(review.source_system, review.request_id),
                **said,
            )

        within = Call(_on_behalf(call.actor, review), call.deadline, call.method, call.touched, via=approving)
        entry = json_format.Parse(review.entry, getattr(journal_pb2.JournalEntry(), review.kind))
        reply: Any = await self._handlers[review.kind](entry, within)
        return pb.ApproveReviewEntryResponse(
            review=_message(await self._reviews.get(call.actor.program_id, review.review_id)),
            result=journal_pb2.JournalResult(request_id=review.request_id, **{review.kind: reply}),
        )

    async def RejectReviewEntry(
        self, request: pb.RejectReviewEntryRequest, call: Call
    ) -> pb.RejectReviewEntryResponse:
        """Leave it at that."""
        said, review = await self._asked(request, call)
        command = RejectReview(
            member_id=review.member_id,
            member_given="",
            received_at=self._clock(),
            review_id=review.review_id,
            **said,
        )
        await self._points.commit(command, call.deadline)
        review = await self._reviews.get(call.actor.program_id, review.review_id)
        return pb.RejectReviewEntryResponse(review=_message(review))

    async def _asked(
        self, request: pb.ApproveReviewEntryRequest | pb.RejectReviewEntryRequest, call: Call
    ) -> tuple[dict[str, Any], Review]:
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        review_id = fields.uuid("review_id", request.review_id)
        fields.check()
        review = await self._reviews.get(call.actor.program_id, review_id)
        call.touched.append(review.member_id)
        await call.count(review.member_id)
        return said, review

    async def GetReviewEntry(
        self, request: pb.GetReviewEntryRequest, call: Call
    ) -> pb.GetReviewEntryResponse:
        """Show an entry."""
        fields = Fields()
        review_id = fields.uuid("review_id", request.review_id)
        fields.check()
        review = await self._reviews.get(call.actor.program_id, review_id)
        call.touched.append(review.member_id)
        return pb.GetReviewEntryResponse(review=_message(review))

    async def ListReviewEntries(
        self, request: pb.ListReviewEntriesRequest, call: Call
    ) -> pb.ListReviewEntriesResponse:
        """Page through the entries."""
        fields = Fields()
        size = fields.page_size("page_size", request.page_size)
        status = _status(fields, request.status)
        member_id = fields.uuid("member_id", request.member_id, required=False)
        fields.check()
        filters = {
            "program": str(call.actor.program_id),
            "status": status or "",
            "member_id": str(member_id or ""),
        }
        position = self._pages.decode("ListReviewEntries", filters, request.page_token)
        found, more = await self._reviews.page(
            call.actor.program_id,
            before=fields.uuid("page_token", position[0]) if position else None,
            size=size,
            status=status,
            member_id=member_id,
        )
        call.touched.extend(review.member_id for review in found)
        last = [str(found[-1].review_id)] if more else []
        return pb.ListReviewEntriesResponse(
            reviews=[_message(review) for review in found],
            next_page_token=self._pages.encode("ListReviewEntries", filters, last) if more else "",
        )


def _on_behalf(actor: Actor, review: Review) -> Actor:
    """Who decides, with the credential that sent the entry and in the name of its source system."""
    return Actor(
        kind=actor.kind,
        program_id=actor.program_id,
        credential_id=review.credential_id,
        name=actor.name,
        source_system=review.source_system,
        scopes=frozenset(),
        store=review.store,
    )


def _status(fields: Fields, value: int) -> ReviewStatus | None:
    if value == journal_pb2.REVIEW_STATUS_UNSPECIFIED:
        return None
    found = next((status for status, number in STATUSES.items() if number == value), None)
    if found is None:
        fields.add("status", "must be a ReviewStatus")
    return found


def _message(review: Review) -> pb.ReviewEntry:
    message = pb.ReviewEntry(
        review_id=str(review.review_id),
        member_id=str(review.member_id),
        sender=review.sent_by,
        credential_id=str(review.credential_id),
        source_system=review.source_system,
        store=review.store,
        why=review.why,
        status=STATUSES[review.status],
        decider=review.decided_by,
        decision_reason=review.decision_reason,
        event_id="" if review.event_id is None else str(review.event_id),
    )
    if review.entry:
        json_format.Parse(review.entry, getattr(message.entry, review.kind))
    message.occur_time.FromDatetime(review.occurred_at)
    message.create_time.FromDatetime(review.received_at)
    if review.decided_at is not None:
        message.decide_time.FromDatetime(review.decided_at)
    return message
