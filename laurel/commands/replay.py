"""`laurel replay`: real sales of the past, through the API, as if they happened now."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from laurel import channels, retail
from laurel.client import address, key_for
from laurel.output import console, show_table
from laurel.terminals import Tally, Terminals

PROGRAM = "online-retail"


@click.group()
def replay() -> None:
    """Replay recorded sales: a trial with real data."""


@replay.command("online-retail")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--terminals", type=click.IntRange(1, 256), default=8, show_default=True, help="At a time.")
@click.option(
    "--program",
    default=PROGRAM,
    show_default=True,
    help="Whose terminal key of the local stack to call with.",
)
@click.pass_context
def online_retail(ctx: click.Context, *, files: tuple[Path, ...], terminals: int, program: str) -> None:
    """Send the invoices of the UCI "Online Retail" data set. FILE is CSV, plain or .gz.

    Customers become members, every invoice of a known customer a purchase, every
    cancellation a return: the data names no purchase for it, so the goods are looked for in
    the customer's latest ones, and what is found in none is counted. What was sent already
    changes nothing, so a replay that was interrupted can just be repeated.

    \b
    laurel replay online-retail 2010-12.csv.gz 2011-01.csv.gz --terminals 16
    """
    key = key_for("terminal", program)
    invoices = retail.read(files)
    reasons = Counter[str]()
    sent = []
    for invoice in invoices:
        reason = _why_not(invoice)
        if reason:
            reasons[reason] += 1
        else:
            sent.append(invoice)
    try:
        tally = asyncio.run(_send(key, sent, terminals))
    except KeyboardInterrupt:
        click.echo("What was sent stays: replay the same files again, and it goes on.", err=True)
        raise
    _show(invoices, sent, reasons, tally)
    if tally.refused or tally.returns_refused:
        ctx.exit(1)


def _why_not(invoice: retail.Invoice) -> str:
    """Why it is not sent; "" if it is."""
    if invoice.of_several:
        return "invoices of several customers"
    if not invoice.customer:
        return "cancellations for nobody known" if invoice.cancels else "sales to nobody known"
    return "" if invoice.lines else "invoices without a line to send"


async def _send(key: str, invoices: list[retail.Invoice], number: int) -> Tally:
    customers = sorted({invoice.customer for invoice in invoices})
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )
    async with channels.connect_async(address()) as channel:
        terminals = Terminals(channel, key, number)
        with bar:
            enrolled = _advance(bar, "customers", len(customers))
            if first := _first_of_its_customer(invoices):
                customers.remove(first.customer)
                await terminals.begin(first, enrolled)
            await terminals.enrol(customers, enrolled)
            await terminals.send(invoices, _advance(bar, "invoices", len(invoices)))
        await terminals.take_stock()
        return terminals.tally


def _first_of_its_customer(invoices: list[retail.Invoice]) -> retail.Invoice | None:
    """The earliest purchase that may be sent before all others: nothing of its customer precedes it."""
    seen = set()
    for invoice in sorted(invoices, key=lambda invoice: (invoice.at, invoice.number)):
        if not invoice.cancels and invoice.customer not in seen:
            return invoice
        seen.add(invoice.customer)
    return None


def _advance(bar: Progress, name: str, total: int) -> Callable[[], None]:
    task = bar.add_task(name, total=total)
    return lambda: bar.advance(task)


def _show(
    invoices: list[retail.Invoice], sent: list[retail.Invoice], reasons: Counter[str], tally: Tally
) -> None:
    new = sum(customer.new for customer in tally.customers.values())
    lines = Counter[str]()
    for invoice in invoices:
        if invoice.customer:
            lines += invoice.left_out
    rows: list[tuple[str, int]] = [
        ("invoices read", len(invoices)),
        ("invoices to send", len(sent)),
        ("purchases recorded", tally.recorded),
        ("purchases already there", tally.already),
        *((f"purchases refused: {reason}", count) for reason, count in sorted(tally.refused.items())),
        ("returns recorded", tally.returns),
        ("returns already there", tally.returns_already),
        *((f"returns refused: {reason}", count) for reason, count in sorted(tally.returns_refused.items())),
        ("units brought back", tally.units),
        ("units that no purchase was found for", tally.unmatched),
        *sorted(reasons.items()),
        *((f"lines left out: {reason}", count) for reason, count in sorted(lines.items())),
        ("members new", new),
        ("members known", len(tally.customers) - new),
        ("points earned", tally.points),
        ("points taken back", tally.taken_back),
        ("points the customers hold", tally.balance),
        ("calls tried again", tally.retries),
    ]
    show_table(("WHAT", "COUNT"), rows)
    if tally.seconds:
        rate = len(tally.seconds) / tally.sending_seconds
        took = sorted(tally.seconds)
        shares = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
        figures = ", ".join(f"{name} {percentile(took, share) * 1000:.1f} ms" for name, share in shares)
        click.echo(f"{rate:,.0f} purchases a second for {tally.sending_seconds:.1f} s; {figures}")
    if not tally.changed:
        click.echo(f"Nothing changed: all {len(tally.customers):,} customers are as they were before.")


def percentile(ascending: list[float], share: float) -> float:
    """The smallest value that ``share`` of the values don't exceed; there must be one."""
    return ascending[max(0, -(-int(len(ascending) * share * 1000) // 1000) - 1)]
