"""`laurel points adjust` and what follows from it: two persons correct a wallet."""

import click
from loyalty.v1 import adjustments_pb2, movements_pb2

from laurel.client import connect, program_option
from laurel.commands.identifiers import member_id_of, request_id, whose
from laurel.commands.options import json_option, request_option
from laurel.output import as_dict, moment, show_fields, show_json, show_table

PAGE = 500
PREFIX = "ADJUSTMENT_STATUS_"
STATUSES = ("pending", "approved", "rejected")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("member")
@click.argument("amount", metavar="POINTS", type=int)
@click.option("--reason", required=True, help="Why; the member may read it. No personal data.")
@click.option("--point-type", default="", help="The wallet; the program's main one, if left out.")
@click.option("--reference", default="", help="A number to find it by; it is recorded once a day.")
@request_option
@program_option
@json_option
def adjust(
    *,
    member: str,
    amount: int,
    reason: str,
    point_type: str,
    reference: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Put points in by hand, or take them out if negative. Above the program's limit this asks for it.

    \b
    laurel points adjust asha@example.com 500 --reason "a lost parcel"
    laurel points adjust asha@example.com -20 --reason "counted twice"
    """
    request = movements_pb2.AdjustPointsRequest(
        request_id=request_id(given_request_id),
        points=amount,
        point_type=point_type,
        reason=reason,
        reference=reference,
        **whose(member),
    )
    with connect("service", program) as client:
        reply = client.call(client.points.AdjustPoints, request)
    if as_json:
        show_json(reply)
        return
    if reply.adjustment_id:
        click.echo(
            f"This takes a second person: somebody else runs `laurel points approve {reply.adjustment_id}`."
        )
    show_fields(
        (
            ("asked for" if reply.adjustment_id else "adjusted", f"{reply.points:+,} {reply.point_type}"),
            ("adjustment", reply.adjustment_id),
            ("balance", reply.balance),
            ("debt", reply.debt or ""),
            ("transaction", reply.transaction_id),
        )
    )


@click.command()
@click.argument("adjustment_id", metavar="ADJUSTMENT")
@click.option("--reason", default="", help="A remark; no personal data.")
@request_option
@program_option
@json_option
def approve(
    *, adjustment_id: str, reason: str, given_request_id: str | None, program: str, as_json: bool
) -> None:
    """Make an adjustment that somebody else asked for."""
    request = adjustments_pb2.ApproveAdjustmentRequest(
        request_id=request_id(given_request_id), adjustment_id=adjustment_id, reason=reason
    )
    with connect("staff", program) as client:
        reply = client.call(client.adjustments.ApproveAdjustment, request)
    if as_json:
        show_json(reply)
        return
    show_fields(
        (
            ("adjusted", f"{reply.adjustment.points:+,} {reply.adjustment.point_type}"),
            ("balance", reply.balance),
            ("debt", reply.debt or ""),
            ("transaction", reply.transaction_id),
        )
    )


@click.command()
@click.argument("adjustment_id", metavar="ADJUSTMENT")
@click.option("--reason", default="", help="Why not; no personal data.")
@request_option
@program_option
@json_option
def reject(
    *, adjustment_id: str, reason: str, given_request_id: str | None, program: str, as_json: bool
) -> None:
    """Leave a wallet as it is, for good."""
    request = adjustments_pb2.RejectAdjustmentRequest(
        request_id=request_id(given_request_id), adjustment_id=adjustment_id, reason=reason
    )
    with connect("staff", program) as client:
        reply = client.call(client.adjustments.RejectAdjustment, request)
    if as_json:
        show_json(reply)
        return
    show_fields((("rejected", f"{reply.adjustment.points:+,} {reply.adjustment.point_type}"),))


@click.command()
@click.option(
    "--status", type=click.Choice(STATUSES), default="pending", show_default=True, help="Only these."
)
@click.option("--member", default="", help="Only of this member.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most this many.")
@program_option
@json_option
def adjustments(*, status: str, member: str, limit: int, program: str, as_json: bool) -> None:
    """List adjustments that take a second person, newest first."""
    found: list[adjustments_pb2.Adjustment] = []
    with connect("staff", program) as client:
        request = adjustments_pb2.ListAdjustmentsRequest(
            status=adjustments_pb2.AdjustmentStatus.Value(f"{PREFIX}{status.upper()}"),
            member_id=member_id_of(client, member) if member else "",
        )
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            page = client.call(client.adjustments.ListAdjustments, request)
            found += page.adjustments
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        show_json([as_dict(adjustment) for adjustment in found])
        return
    show_table(
        ("ASKED FOR", "BY", "MEMBER", "WALLET", "POINTS>", "REASON", "DECIDED BY", "ADJUSTMENT"),
        [
            (
                moment(a.create_time),
                a.requester,
                a.member_id,
                a.point_type,
                f"{a.points:+,}",
                a.reason,
                a.decider,
                a.adjustment_id,
            )
            for a in found
        ],
    )
