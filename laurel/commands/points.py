"""`laurel points`: record purchases, redeem, look into wallets and the ledger."""

from collections.abc import Iterator
from datetime import datetime

import click
from google.protobuf.struct_pb2 import Struct
from loyalty.v1 import member_pb2, points_pb2

from laurel.client import connect, program_option
from laurel.commands.adjustments import adjust, adjustments, approve, reject
from laurel.commands.identifiers import MEMBER_HELP, instant, member_id_of, money, pairs, request_id, whose
from laurel.commands.movements import refund, take_back, transfer
from laurel.commands.options import (
    channel_option,
    household_option,
    json_option,
    request_option,
    store_option,
)
from laurel.commands.receipts import find
from laurel.commands.statements import statement
from laurel.commands.transactions import kind, signed
from laurel.commands.uploads import upload
from laurel.failures import Failure
from laurel.output import amount_of, as_dict, moment, show_fields, show_json, show_table

PAGE = 500


@click.group(help=f"Points: earn, redeem, return, hand on, look up, explain.\n\n{MEMBER_HELP}")
def points() -> None:
    """See ``help``."""


for _command in (upload, take_back, refund, transfer, adjust, approve, reject, adjustments, find, statement):
    points.add_command(_command)


@points.command()
@click.argument("member")
@click.argument("amount")
@click.argument("currency")
@click.option("--order", required=True, help="Receipt or invoice number; an order is recorded once.")
@click.option(
    "--line",
    "lines",
    multiple=True,
    help="A line of the basket, such as amount=300,sku=A1,category=sweets,quantity=2; repeatable.",
)
@click.option("--attribute", "attributes", multiple=True, help="name=value for rules; repeatable.")
@store_option
@channel_option
@request_option
@program_option
@json_option
def accrue(
    *,
    member: str,
    amount: str,
    currency: str,
    order: str,
    lines: tuple[str, ...],
    attributes: tuple[str, ...],
    store: str,
    channel: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Record a purchase and award what the rules give for it.

    \b
    laurel points accrue asha@example.com 500 INR --order R-1001
    """
    request = points_pb2.AccrueRequest(
        request_id=request_id(given_request_id),
        order_reference=order,
        store=store,
        channel=channel,
        amount=money(amount, currency),
        lines=[_line(line, currency) for line in lines],
        attributes=pairs(attributes),
        **whose(member),
    )
    with connect("terminal", program) as client:
        reply = client.call(client.points.Accrue, request)
    _show_awards(reply, as_json)


@points.command()
@click.argument("member")
@click.argument("event_type")
@click.option("--reference", default="", help="What it is about; with the type it is recorded once.")
@click.option("--attribute", "attributes", multiple=True, help="name=value as the type declares; repeatable.")
@store_option
@channel_option
@request_option
@program_option
@json_option
def event(
    *,
    member: str,
    event_type: str,
    reference: str,
    attributes: tuple[str, ...],
    store: str,
    channel: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Record something a member did that is no purchase.

    \b
    laurel points event asha@example.com REVIEW_SUBMITTED --reference review-9 --attribute stars=5
    """
    content = Struct()
    content.update({name: _scalar(value) for name, value in pairs(attributes).items()})
    request = points_pb2.SubmitEventRequest(
        request_id=request_id(given_request_id),
        event_type=event_type,
        reference=reference,
        store=store,
        channel=channel,
        attributes=content,
        **whose(member),
    )
    with connect("terminal", program) as client:
        reply = client.call(client.points.SubmitEvent, request)
    _show_awards(reply, as_json)


@points.command()
@click.argument("member")
@click.argument("amount", metavar="POINTS", type=click.IntRange(1))
@click.option("--point-type", default="", help="The wallet; the program's main one, if left out.")
@click.option("--order", default="", help="The order that the points pay for.")
@household_option
@click.option("--reason", default="", help="What for; no personal data.")
@store_option
@channel_option
@request_option
@program_option
@json_option
def redeem(
    *,
    member: str,
    amount: int,
    point_type: str,
    order: str,
    from_household: bool,
    reason: str,
    store: str,
    channel: str,
    given_request_id: str | None,
    program: str,
    as_json: bool,
) -> None:
    """Spend points, the soonest to expire first.

    \b
    laurel points redeem asha@example.com 80 --reason "coffee"
    laurel points redeem asha@example.com 80 --household
    """
    request = points_pb2.RedeemRequest(
        request_id=request_id(given_request_id),
        points=amount,
        point_type=point_type,
        order_reference=order,
        from_household=from_household,
        reason=reason,
        store=store,
        channel=channel,
        **whose(member),
    )
    with connect("terminal", program) as client:
        reply = client.call(client.points.Redeem, request)
    if as_json:
        show_json(reply)
        return
    show_fields(
        (
            ("redeemed", f"{reply.points:,} {reply.point_type}"),
            ("worth", amount_of(reply.value)),
            ("balance", reply.balance),
            ("transaction", reply.transaction_id),
        )
    )


@points.command()
@click.argument("member")
@click.option("--as-of", callback=instant, help="As the ledger said then, such as 2026-11-30T12:00+05:30.")
@program_option
@json_option
def balance(*, member: str, as_of: datetime | None, program: str, as_json: bool) -> None:
    """Show the wallets of a member and the tier. Below: what expires or becomes spendable when."""
    with connect("staff", program) as client:
        request = points_pb2.GetBalanceRequest(member_id=member_id_of(client, member))
        if as_of is not None:
            request.as_of_time.FromDatetime(as_of)
        reply = client.call(client.points.GetBalance, request)
    if as_json:
        show_json(reply)
        return
    show_table(
        ("WALLET", "BALANCE", "PENDING", "HELD", "DEBT", "LIFETIME"),
        [(w.point_type, w.balance, w.pending, w.held, w.debt, w.lifetime) for w in reply.wallets],
    )
    coming = [change for w in reply.wallets for change in _coming(w)]
    if coming:
        click.echo()
        show_table(("WALLET", "POINTS", "WHAT", "WHEN"), coming)
        click.echo()
    rest = f", {reply.points_to_next_tier:,} points to {reply.next_tier}" if reply.next_tier else ""
    click.echo(f"tier {reply.tier}{rest}")


@points.command()
@click.argument("member")
@click.option("--point-type", default="", help="Only this wallet.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most this many.")
@program_option
@json_option
def history(*, member: str, point_type: str, limit: int, program: str, as_json: bool) -> None:
    """List what moved, newest first."""
    found: list[points_pb2.Transaction] = []
    with connect("staff", program) as client:
        request = points_pb2.ListHistoryRequest(member_id=member_id_of(client, member), point_type=point_type)
        while len(found) < limit:
            request.page_size = min(PAGE, limit - len(found))
            page = client.call(client.points.ListHistory, request)
            found += page.transactions
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        show_json([as_dict(transaction) for transaction in found])
        return
    show_table(
        ("OCCURRED", "KIND", "WALLET", "POINTS>", "BALANCE", "ORDER", "STORE", "TRANSACTION"),
        [
            (
                moment(t.occur_time),
                kind(t),
                t.point_type,
                signed(t),
                t.balance_after,
                t.order_reference,
                t.store,
                t.transaction_id,
            )
            for t in found
        ],
    )


@points.command()
@click.argument("transaction_id", metavar="TRANSACTION")
@program_option
@json_option
def show(*, transaction_id: str, program: str, as_json: bool) -> None:
    """Show one row of the ledger."""
    with connect("staff", program) as client:
        request = points_pb2.GetTransactionRequest(transaction_id=transaction_id)
        reply = client.call(client.points.GetTransaction, request)
    if as_json:
        show_json(reply)
        return
    t = reply.transaction
    show_fields(
        (
            ("transaction", t.transaction_id),
            ("member", t.member_id),
            ("kind", kind(t)),
            ("points", f"{signed(t)} {t.point_type}"),
            ("from", t.debit_account),
            ("to", t.credit_account),
            ("balance after", t.balance_after),
            ("sequence", t.sequence),
            ("occurred", moment(t.occur_time)),
            ("recorded", moment(t.record_time)),
            ("event", f"{t.event_type} {t.event_id}"),
            ("order", t.order_reference),
            ("store", t.store),
            ("channel", t.channel),
            ("source", t.source_system),
            ("by", t.actor),
            ("reason", t.reason),
        )
    )


@points.command()
@click.argument("transaction_id", metavar="TRANSACTION")
@program_option
@json_option
def explain(*, transaction_id: str, program: str, as_json: bool) -> None:
    """Say why a transaction moved it: rules, arithmetic, lots."""
    with connect("staff", program) as client:
        request = points_pb2.ExplainRequest(transaction_id=transaction_id)
        reply = client.call(client.points.Explain, request)
    if as_json:
        show_json(reply)
        return
    for sentence in reply.sentences:
        click.echo(sentence)
    if reply.rules:
        click.echo()
        show_table(
            ("RULE", "VERSION", "OUTCOME", "COMPUTED", "POINTS", "WALLET", "HOW"),
            [
                (r.rule, r.version, r.outcome, r.computed, r.points, r.point_type, "; ".join(r.notes))
                for r in reply.rules
            ],
        )
    if reply.lots:
        click.echo()
        show_table(
            ("LOT", "POINTS", "EXPIRES"),
            [(lot.lot_id, lot.points, moment(lot.expire_time) or "never") for lot in reply.lots],
        )


def _coming(wallet: member_pb2.Wallet) -> Iterator[tuple[str, int, str, str]]:
    """What time will do to a wallet; nothing for one in which nothing expires and nothing is pending."""
    name, outlook = wallet.point_type, wallet.outlook
    for start in outlook.activations:
        ways = [moment(start.activate_time), start.event_type and f"with the next {start.event_type}"]
        yield name, start.points, "can be spent", " or ".join(way for way in ways if way)
    if outlook.activating_later:
        yield name, outlook.activating_later, "can be spent", "later"
    for end in outlook.expiries:
        yield name, end.points, "expire", moment(end.expire_time)
    if outlook.expiring_later:
        yield name, outlook.expiring_later, "expire", "later"
    if outlook.expiries and outlook.never_expiring:
        yield name, outlook.never_expiring, "expire", "never"


def _line(text: str, currency: str) -> points_pb2.LineItem:
    values = pairs(tuple(text.split(",")))
    if "amount" not in values or not values.get("quantity", "1").isdigit():
        raise Failure(f"--line {text!r}: write it such as amount=300,sku=A1,category=sweets,quantity=2")
    return points_pb2.LineItem(
        line_id=values.pop("id", ""),
        sku=values.pop("sku", ""),
        category=values.pop("category", ""),
        quantity=int(values.pop("quantity", "1")),
        amount=money(values.pop("amount"), currency),
        attributes=values,
    )


def _scalar(text: str) -> str | float | bool:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _show_awards(reply: points_pb2.AccrueResponse | points_pb2.SubmitEventResponse, as_json: bool) -> None:
    if as_json:
        show_json(reply)
        return
    show_fields(
        (
            ("awarded", ", ".join(f"{a.points:,} {a.point_type}" for a in reply.awards) or "nothing"),
            ("balance", reply.balance),
            ("pending", reply.pending or ""),
            ("tier", f"{reply.tier}{', just reached' if reply.tier_raised else ''}"),
            *((f"transaction ({a.point_type})", a.transaction_id) for a in reply.awards),
            ("event", reply.event_id),
        )
    )
