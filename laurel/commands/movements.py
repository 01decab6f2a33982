"""`laurel points return`, `refund` and `transfer`: what moves points back, or on to others."""

from collections import Counter
from collections.abc import Iterator

import click
from loyalty.v1 import movements_pb2

from laurel.client import connect, program_option
from laurel.commands.identifiers import date, identifier, is_member_id, request_id, whose
from laurel.commands.options import channel_option, json_option, request_option, store_option
from laurel.output import show_fields, show_json, show_table

reason_option = click.option("--reason", default="", help="Why; no personal data.")
part_option = click.option("--part", default="", help="Tells apart several under one number.")


@click.command("return")
@click.argument("member", required=False)
@click.option("--receipt", default="", help="The receipt of the purchase.")
@click.option("--bought-in", default="", help="The store of the purchase, where several have the receipt.")
@click.option("--bought-on", default="", help="Its business day, where several have the receipt.")
@click.option("--bought-part", default="", help="Its part, where an order was recorded in parts.")
@click.option("--bought-through", default="", help="Its source system, where several have the receipt.")
@click.option("--exactly", is_flag=True, help="It has no store and no part but those named here.")
@click.option("--item", "items", multiple=True, help="SKU=UNITS that come back; repeatable.")
@click.option("--line", "lines", multiple=True, help="LINE=UNITS of the receipt that come back; repeatable.")
@click.option("--credit-note", default="", help="Its number; that of the receipt, if left out.")
@part_option
@reason_option
@store_option
@channel_option
@request_option
@program_option
@json_option
def take_back(
    *,
    member: str | None,
    receipt: str,
    bought_in: str,
    bought_on: str,
    bought_part: str,
    bought_through: str,
    exactly: bool,
    items: tuple[str, ...],
    lines: tuple[str, ...],
    credit_note: str,
    part: str,
    reason: str,
    store: str,
    channel: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Take back what returned goods had earned. That is some of a receipt, or all that is left of it.

    Without --receipt the goods are looked for in MEMBER's latest purchases that still have
    them; what is found in none is shown, and nothing taken for it. Several returns under one
    receipt take --credit-note or --part to tell them apart.

    \b
    laurel points return --receipt R-1001 --item LADOO=2
    laurel points return --receipt R-1001 --bought-in mumbai-3 --bought-on 2026-11-20
    laurel points return asha@example.com --item LADOO=1
    """
    if not receipt and (bought_in or bought_on or bought_part or bought_through or exactly or lines):
        raise click.UsageError("--bought-..., --exactly and --line say more of a --receipt; name it")
    if not receipt and not (member and items):
        raise click.UsageError("name a --receipt, or a member and each --item")
    request = movements_pb2.ReturnPurchaseRequest(
        request_id=request_id(given_request_id),
        items=[*_items(items, "sku"), *_items(lines, "line_id")],
        order_reference=credit_note,
        part=part,
        reason=reason,
        store=store,
        channel=channel,
        **(whose(member) if member else {}),
    )
    if receipt:
        request.order.MergeFrom(
            movements_pb2.PurchaseOrder(
                order_reference=receipt,
                store=bought_in,
                business_date=date(bought_on) if bought_on else None,
                part=bought_part,
                source_system=bought_through,
                exact=exactly,
            )
        )
    with connect("terminal", program) as client:
        reply = client.call(client.points.ReturnPurchase, request)
    if as_json:
        show_json(reply)
        return
    _show_return(reply)


@click.command()
@click.argument("transaction_id", metavar="TRANSACTION")
@click.option("--points", type=click.IntRange(1), help="A part of them; all that are left, if left out.")
@click.option("--order", default="", help="Receipt's or credit note's number.")
@part_option
@reason_option
@store_option
@channel_option
@request_option
@program_option
@json_option
def refund(
    *,
    transaction_id: str,
    points: int | None,
    order: str,
    part: str,
    reason: str,
    store: str,
    channel: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Give the points of a redemption or of a capture back. They go to the lots that they came from.

    \b
    laurel points refund 0199a2f0-6c1e-7c50-8d3e-0e2b7a5c4d10 --points 40 --reason "no coffee left"
    """
    request = movements_pb2.RefundRedemptionRequest(
        request_id=request_id(given_request_id),
        transaction_id=transaction_id,
        points=points or 0,
        order_reference=order,
        part=part,
        reason=reason,
        store=store,
        channel=channel,
    )
    with connect("terminal", program) as client:
        reply = client.call(client.points.RefundRedemption, request)
    if as_json:
        show_json(reply)
        return
    show_fields(
        (
            ("given back", f"{reply.points:,} {reply.point_type}"),
            ("balance", reply.balance),
            ("debt", reply.debt or ""),
            ("transaction", reply.transaction_id),
        )
    )


@click.command()
@click.argument("giver", metavar="FROM")
@click.argument("getter", metavar="TO")
@click.argument("amount", metavar="POINTS", type=click.IntRange(1))
@click.option("--point-type", default="", help="The wallet; the program's main one, if left out.")
@reason_option
@channel_option
@request_option
@program_option
@json_option
def transfer(
    *,
    giver: str,
    getter: str,
    amount: int,
    point_type: str,
    reason: str,
    channel: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Hand points on to another member. They keep their expiry.

    \b
    laurel points transfer asha@example.com ravi@example.com 50 --reason "a birthday"
    """
    request = movements_pb2.TransferPointsRequest(
        request_id=request_id(given_request_id),
        points=amount,
        point_type=point_type,
        reason=reason,
        channel=channel,
        **whose(giver),
    )
    if is_member_id(getter):
        request.to_member_id = getter
    else:
        request.to_identifier.CopyFrom(identifier(getter))
    with connect("service", program) as client:
        reply = client.call(client.points.TransferPoints, request)
    if as_json:
        show_json(reply)
        return
    show_fields(
        (
            ("handed on", f"{reply.points:,} {reply.point_type}"),
            ("balance", reply.balance),
            ("transaction", reply.transaction_id),
        )
    )


def _items(values: tuple[str, ...], name: str) -> Iterator[movements_pb2.ReturnItem]:
    """``NAME=UNITS`` each. Raises click.BadParameter."""
    for value in values:
        # A name may have a = of its own.
        which, _, units = value.rpartition("=")
        if not which or not units.isascii() or not units.isdigit() or len(units) > 18:
            raise click.BadParameter(f"{value!r}: write which and how many units, such as LADOO=2")
        yield movements_pb2.ReturnItem(quantity=int(units), **{name: which})


def _show_return(reply: movements_pb2.ReturnPurchaseResponse) -> None:
    taken = Counter[str]()
    for reversal in reply.reversals:
        taken[reversal.point_type] += reversal.points
    show_fields(
        (
            ("taken back", ", ".join(f"{points:,} {name}" for name, points in taken.items()) or "nothing"),
            ("not taken", f"{reply.shortfall:,}, as the program has it" if reply.shortfall else ""),
            ("balance", reply.balance),
            ("debt", reply.debt or ""),
            ("tier", reply.tier),
            *((f"transaction ({r.point_type})", r.transaction_id) for r in reply.reversals),
            ("event", reply.event_id),
        )
    )
    if reply.lines:
        click.echo()
        show_table(
            ("CAME BACK", "UNITS", "PURCHASE"),
            [(line.line_id or "all of it", line.quantity, line.event_id) for line in reply.lines],
        )
    if reply.unmatched:
        click.echo()
        show_table(
            ("FOUND IN NO PURCHASE", "UNITS"),
            [(item.sku or item.line_id, item.quantity) for item in reply.unmatched],
        )
