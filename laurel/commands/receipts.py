"""`laurel points find`: a dispute, from the receipt that the member shows."""

import click
from loyalty.v1 import points_pb2

from laurel.client import connect, program_option
from laurel.commands.transactions import kind, signed
from laurel.output import moment, show_json, show_table


@click.command()
@click.argument("receipt")
@click.option("--store", default="", help="Only what this store recorded.")
@program_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def find(*, receipt: str, store: str, program: str, as_json: bool) -> None:
    """Show all that is recorded under a receipt, latest first.

    What earned nothing is there too, without a transaction.

    \b
    laurel points find R-328475451347
    """
    with connect("staff", program) as client:
        request = points_pb2.FindTransactionsRequest(order_reference=receipt, store=store)
        reply = client.call(client.points.FindTransactions, request)
    if as_json:
        show_json(reply)
        return
    show_table(
        ("DAY", "STORE", "PART", "WHAT", "MEMBER", "RECORDED", "KIND", "WALLET", "POINTS>", "TRANSACTION"),
        [row for order in reply.orders for row in _rows(order)],
    )
    if reply.more:
        click.echo("there are more; name the --store")


def _rows(order: points_pb2.RecordedOrder) -> list[tuple[object, ...]]:
    day = order.business_date
    told = (
        f"{day.year:04}-{day.month:02}-{day.day:02}",
        order.store,
        order.part,
        order.action,
        order.member_id,
    )
    return [
        (
            *told,
            moment(t.record_time),
            kind(t),
            t.point_type,
            signed(t),
            t.transaction_id,
        )
        for t in order.transactions
    ] or [(*told, "", "", "", "0", "")]
