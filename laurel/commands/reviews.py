"""`laurel reviews`: entries of journals that are too old to be taken as they come."""

from collections.abc import Iterator

import click
from loyalty.v1 import journal_pb2
from loyalty.v1 import reviews_pb2 as pb

from laurel.client import connect, program_option
from laurel.commands.identifiers import member_id_of, request_id
from laurel.commands.options import json_option, request_option
from laurel.output import amount_of, as_dict, moment, show_fields, show_json, show_table

PAGE = 500
PREFIX = "REVIEW_STATUS_"
STATUSES = ("pending", "approved", "rejected")

review_argument = click.argument("review_id", metavar="REVIEW")


@click.group()
def reviews() -> None:
    """Reviews: what came too late with a till's journal. A person decides."""


@reviews.command("list")
@click.option(
    "--status", type=click.Choice(STATUSES), default="pending", show_default=True, help="Only these."
)
@click.option("--member", default="", help="Only about this member.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most this many.")
@program_option
@json_option
def list_reviews(*, status: str, member: str, limit: int, program: str, as_json: bool) -> None:
    """List them, newest first."""
    found: list[pb.ReviewEntry] = []
    with connect("staff", program) as client:
        request = pb.ListReviewEntriesRequest(
            status=journal_pb2.ReviewStatus.Value(f"{PREFIX}{status.upper()}"),
            member_id=member_id_of(client, member) if member else "",
        )
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            page = client.call(client.reviews.ListReviewEntries, request)
            found += page.reviews
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        show_json([as_dict(review) for review in found])
        return
    show_table(
        ("CAME IN", "HAPPENED", "SENT BY", "STORE", "MEMBER", "DECIDED BY", "REVIEW"),
        [
            (
                moment(r.create_time),
                moment(r.occur_time),
                r.sender,
                r.store,
                r.member_id,
                r.decider,
                r.review_id,
            )
            for r in found
        ],
    )


@reviews.command()
@review_argument
@program_option
@json_option
def show(*, review_id: str, program: str, as_json: bool) -> None:
    """Show what was sent, and what became of it."""
    with connect("staff", program) as client:
        reply = client.call(client.reviews.GetReviewEntry, pb.GetReviewEntryRequest(review_id=review_id))
    if as_json:
        show_json(reply)
        return
    review = reply.review
    show_fields(
        (
            ("status", _status(review)),
            *_what(review.entry),
            ("member", review.member_id),
            ("happened", moment(review.occur_time)),
            ("came in", moment(review.create_time)),
            ("sent by", review.sender),
            ("store", review.store),
            ("put aside for", review.why),
            ("decided by", review.decider),
            ("decided", moment(review.decide_time) if review.decider else ""),
            ("remark", review.decision_reason),
            ("event", review.event_id),
        )
    )


@reviews.command()
@review_argument
@click.option("--reason", default="", help="A remark; no personal data.")
@request_option
@program_option
@json_option
def approve(
    *, review_id: str, reason: str, given_request_id: str | None, program: str, as_json: bool
) -> None:
    """Record one as of when it happened, by the rules of today."""
    request = pb.ApproveReviewEntryRequest(
        request_id=request_id(given_request_id), review_id=review_id, reason=reason
    )
    with connect("staff", program) as client:
        reply = client.call(client.reviews.ApproveReviewEntry, request)
    if as_json:
        show_json(reply)
        return
    result = getattr(reply.result, str(reply.result.WhichOneof("result")))
    show_fields(
        (
            ("recorded as of", moment(reply.review.occur_time)),
            ("points", result.points),
            ("balance", result.balance),
            ("event", result.event_id),
        )
    )


@reviews.command()
@review_argument
@click.option("--reason", default="", help="Why not; no personal data.")
@request_option
@program_option
@json_option
def reject(*, review_id: str, reason: str, given_request_id: str | None, program: str, as_json: bool) -> None:
    """Leave it at that, for good; it is kept."""
    request = pb.RejectReviewEntryRequest(
        request_id=request_id(given_request_id), review_id=review_id, reason=reason
    )
    with connect("staff", program) as client:
        reply = client.call(client.reviews.RejectReviewEntry, request)
    if as_json:
        show_json(reply)
        return
    show_fields((("rejected", reply.review.review_id), ("member", reply.review.member_id)))


def _what(entry: journal_pb2.JournalEntry) -> Iterator[tuple[str, object]]:
    """The entry in a few words."""
    kind = entry.WhichOneof("entry")
    if kind == "accrue":
        if entry.accrue.HasField("amount"):
            yield "purchase", amount_of(entry.accrue.amount)
        for line in entry.accrue.lines:
            yield f"line {line.line_id}".strip(), f"{line.quantity or 1} {line.sku} {amount_of(line.amount)}"
        yield "order", entry.accrue.order_reference
    elif kind == "event":
        yield "event type", entry.event.event_type
    elif kind == "redeem":
        yield "points to redeem", entry.redeem.points
        yield "order", entry.redeem.order_reference
    elif kind == "capture_hold":
        yield "points to capture", entry.capture_hold.points or "all"
        yield "hold", entry.capture_hold.hold_id
        yield "order", entry.capture_hold.order_reference
    elif kind == "return_purchase":
        request = entry.return_purchase
        yield "returned from", request.order.order_reference or request.event_id or "latest purchases"
        for item in request.items:
            yield f"line {item.line_id}".strip(), f"{item.quantity} {item.sku}"


def _status(review: pb.ReviewEntry) -> str:
    return journal_pb2.ReviewStatus.Name(review.status).removeprefix(PREFIX).lower()
