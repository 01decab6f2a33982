"""`laurel holds`: points reserved for a payment, or for a till that will be offline."""

from collections.abc import Iterable

import click
from loyalty.v1 import holds_pb2

from laurel.client import connect, program_option
from laurel.commands.identifiers import MEMBER_HELP, member_id_of, request_id, whose
from laurel.commands.options import (
    channel_option,
    household_option,
    json_option,
    request_option,
    store_option,
)
from laurel.output import amount_of, as_dict, moment, show_fields, show_json, show_table

order_option = click.option("--order", default="", help="Receipt or invoice number.")
part_option = click.option("--part", default="", help="Tells apart several for one order.")
reason_option = click.option("--reason", default="", help="What for; no personal data.")


@click.group(help=f"Holds: reserve points, spend them or give them up.\n\n{MEMBER_HELP}")
def holds() -> None:
    """See ``help``."""


@holds.command()
@click.argument("member")
@click.argument("amount", metavar="POINTS", type=click.IntRange(1))
@click.option("--point-type", default="", help="The wallet; the program's main one, if left out.")
@click.option(
    "--seconds", type=click.IntRange(1), help="When it ends by itself; as the program says, if left out."
)
@household_option
@order_option
@part_option
@reason_option
@store_option
@channel_option
@request_option
@program_option
@json_option
def place(
    *,
    member: str,
    amount: int,
    point_type: str,
    seconds: int | None,
    from_household: bool,
    order: str,
    part: str,
    reason: str,
    store: str,
    channel: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Reserve points, so that nobody else spends them. The soonest to expire come first.

    \b
    laurel holds place asha@example.com 80 --order R-1002
    laurel holds place asha@example.com 200 --seconds 86400 --reason "a train's till"
    """
    request = holds_pb2.PlaceHoldRequest(
        request_id=request_id(given_request_id),
        points=amount,
        point_type=point_type,
        time_limit_seconds=seconds or 0,
        from_household=from_household,
        order_reference=order,
        part=part,
        reason=reason,
        store=store,
        channel=channel,
        **whose(member),
    )
    with connect("terminal", program) as client:
        reply = client.call(client.holds.PlaceHold, request)
    if as_json:
        show_json(reply)
        return
    show_fields(
        (
            ("held", f"{reply.hold.points:,} {reply.hold.point_type}"),
            ("until", moment(reply.hold.expire_time)),
            ("balance", reply.balance),
            ("hold", reply.hold.hold_id),
            ("transaction", reply.transaction_id),
        )
    )


@holds.command()
@click.argument("hold_id", metavar="HOLD")
@click.option("--points", type=click.IntRange(1), help="A part of them; all still held, if left out.")
@click.option("--keep-rest", is_flag=True, help="Hold the rest on, instead of releasing it.")
@order_option
@part_option
@reason_option
@store_option
@channel_option
@request_option
@program_option
@json_option
def capture(
    *,
    hold_id: str,
    points: int | None,
    keep_rest: bool,
    order: str,
    part: str,
    reason: str,
    store: str,
    channel: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Spend what is held, or a part of it. The rest is released unless --keep-rest is given.

    \b
    laurel holds capture 0199a2f0-6c1e-7c50-8d3e-0e2b7a5c4d10 --points 60 --order R-1002
    """
    request = holds_pb2.CaptureHoldRequest(
        request_id=request_id(given_request_id),
        hold_id=hold_id,
        points=points or 0,
        keep_rest=keep_rest,
        order_reference=order,
        part=part,
        reason=reason,
        store=store,
        channel=channel,
    )
    with connect("terminal", program) as client:
        reply = client.call(client.holds.CaptureHold, request)
    if as_json:
        show_json(reply)
        return
    show_fields(
        (
            ("spent", f"{reply.points:,} {reply.hold.point_type}"),
            ("worth", amount_of(reply.value)),
            ("still held", reply.hold.open_points),
            ("balance", reply.balance),
            ("transaction", reply.transaction_id),
        )
    )


@holds.command()
@click.argument("hold_id", metavar="HOLD")
@reason_option
@store_option
@channel_option
@request_option
@program_option
@json_option
def void(
    *,
    hold_id: str,
    reason: str,
    store: str,
    channel: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Give up what is still held. What expired meanwhile expires then.

    \b
    laurel holds void 0199a2f0-6c1e-7c50-8d3e-0e2b7a5c4d10 --reason "paid in cash"
    """
    request = holds_pb2.VoidHoldRequest(
        request_id=request_id(given_request_id), hold_id=hold_id, reason=reason, store=store, channel=channel
    )
    with connect("terminal", program) as client:
        reply = client.call(client.holds.VoidHold, request)
    if as_json:
        show_json(reply)
        return
    show_fields((("released", f"{reply.points:,} {reply.hold.point_type}"), ("balance", reply.balance)))


@holds.command()
@click.argument("hold_id", metavar="HOLD")
@program_option
@json_option
def show(*, hold_id: str, program: str, as_json: bool) -> None:
    """Show a hold, open or not."""
    with connect("staff", program) as client:
        reply = client.call(client.holds.GetHold, holds_pb2.GetHoldRequest(hold_id=hold_id))
    if as_json:
        show_json(reply)
        return
    hold = reply.hold
    show_fields(
        (
            ("hold", hold.hold_id),
            ("member", hold.member_id),
            ("status", _status(hold)),
            ("points", f"{hold.points:,} {hold.point_type}"),
            ("still held", hold.open_points),
            ("captured", hold.captured_points),
            ("until", moment(hold.expire_time)),
        )
    )


@holds.command("list")
@click.argument("member")
@program_option
@json_option
def list_(*, member: str, program: str, as_json: bool) -> None:
    """List what is held of a member's points, the soonest to end first.

    \b
    laurel holds list asha@example.com
    """
    with connect("staff", program) as client:
        request = holds_pb2.ListHoldsRequest(member_id=member_id_of(client, member))
        reply = client.call(client.holds.ListHolds, request)
    if as_json:
        show_json([as_dict(hold) for hold in reply.holds])
        return
    _show_holds(reply.holds)


def _show_holds(found: Iterable[holds_pb2.Hold]) -> None:
    show_table(
        ("UNTIL", "WALLET", "POINTS", "STILL HELD", "CAPTURED", "HOLD"),
        [
            (
                moment(hold.expire_time),
                hold.point_type,
                hold.points,
                hold.open_points,
                hold.captured_points,
                hold.hold_id,
            )
            for hold in found
        ],
    )


def _status(hold: holds_pb2.Hold) -> str:
    return holds_pb2.HoldStatus.Name(hold.status).removeprefix("HOLD_STATUS_").lower()
