"""`laurel points statement`: what a member had, what came and went, and what was left."""

from datetime import datetime

import click
from loyalty.v1 import points_pb2

from laurel.client import connect, program_option
from laurel.commands.identifiers import end_after, instant, member_id_of
from laurel.commands.options import json_option
from laurel.commands.transactions import kind, signed
from laurel.output import as_dict, moment, show_json, show_table

PAGE = 500


@click.command()
@click.argument("member")
@click.option("--from", "since", callback=instant, required=True, help="The first day, or moment.")
@click.option(
    "--to", "until", callback=end_after, required=True, help="The last day, or moment; it is part of it."
)
@program_option
@json_option
def statement(*, member: str, since: datetime, until: datetime, program: str, as_json: bool) -> None:
    """Show what a member had, what moved, and what was left. Times are UTC unless they say otherwise.

    \b
    laurel points statement asha@example.com --from 2026-11-01 --to 2026-11-30
    laurel points statement asha@example.com --from 2026-11-01T00:00+05:30 --to 2026-11-30T23:59:59+05:30
    """
    rows: list[points_pb2.Transaction] = []
    with connect("staff", program) as client:
        request = points_pb2.GetStatementRequest(member_id=member_id_of(client, member), page_size=PAGE)
        request.from_time.FromDatetime(since)
        request.to_time.FromDatetime(until)
        while True:
            page = client.call(client.points.GetStatement, request)
            rows += page.transactions
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        del page.transactions[:]
        page.transactions.extend(rows)
        show_json(as_dict(page))
        return
    show_table(
        ("", "WALLET", "BALANCE", "PENDING", "HELD", "DEBT", "LIFETIME"),
        [
            (when, w.point_type, w.balance, w.pending, w.held, w.debt, w.lifetime)
            for when, wallets in (("opening", page.opening), ("closing", page.closing))
            for w in wallets
        ],
    )
    if rows:
        click.echo()
        show_table(
            ("OCCURRED", "KIND", "WALLET", "POINTS>", "FROM", "TO", "ORDER", "TRANSACTION"),
            [
                (
                    moment(t.occur_time),
                    kind(t),
                    t.point_type,
                    signed(t),
                    t.debit_account,
                    t.credit_account,
                    t.order_reference,
                    t.transaction_id,
                )
                for t in rows
            ],
        )
