"""`laurel points upload`: a journal of what a till did."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from laurel import channels
from laurel.client import address, key_for, program_option
from laurel.journals import Tally, Upload, counted
from laurel.output import console, show_json, show_table


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.jsonl")
@program_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def upload(ctx: click.Context, *, file: Path, program: str, as_json: bool) -> None:
    """Send a journal, such as of a till that was offline. It has one entry a line, in order.

    An entry is the request of a call in proto3 JSON with its own requestId and occurTime, under
    `accrue` (Accrue), `event` (SubmitEvent), `redeem` (Redeem), `captureHold` (CaptureHold),
    `voidHold` (VoidHold, without occurTime) or `returnPurchase` (ReturnPurchase). Each stands on one line:

    \b
    {"accrue": {"requestId": "till-7-1", "memberId": "...", "orderReference": "R-1",
     "amount": {"currencyCode": "INR", "units": "500"}, "occurTime": "2026-11-08T12:00:00Z"}}
    {"captureHold": {"requestId": "till-7-2", "holdId": "...", "points": "40", "keepRest": true,
     "orderReference": "R-2", "occurTime": "2026-11-08T12:05:00Z"}}
    {"returnPurchase": {"requestId": "till-7-3", "order": {"orderReference": "R-1"},
     "items": [{"lineId": "1", "quantity": "1"}], "occurTime": "2026-11-08T12:10:00Z"}}

    Sending a file again changes nothing and says so. What is too old to be taken as it comes waits
    for a person: see `laurel reviews list`. The exit code is 1 if any entry was refused.
    """
    key = key_for("terminal", program)
    count = counted(file)
    tally = asyncio.run(_send(key, file, count))
    if as_json:
        show_json(asdict(tally))
    else:
        _show(tally)
    if tally.reasons:
        ctx.exit(1)


async def _send(key: str, file: Path, count: int) -> Tally:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )
    async with channels.connect_async(address()) as channel:
        sending = Upload(channel, key, file)
        with bar:
            await sending.run(_advance(bar, count))
        return sending.tally


def _advance(bar: Progress, total: int) -> Callable[[], None]:
    task = bar.add_task("entries", total=total)
    return lambda: bar.advance(task)


def _show(tally: Tally) -> None:
    show_table(
        ("WHAT", "COUNT"),
        [
            ("entries sent", tally.entries),
            ("recorded", tally.accepted - tally.known),
            ("known before", tally.known),
            *((f"too old, for review: {word}", count) for word, count in sorted(tally.put_aside.items())),
            *((f"refused: {reason}", count) for reason, count in sorted(tally.reasons.items())),
            ("streams begun again", tally.retries),
        ],
    )
    if tally.refused:
        click.echo()
        show_table(
            ("LINE", "REQUEST", "REASON", "WHY"),
            [(entry.line, entry.request_id, entry.reason, entry.message) for entry in tally.refused],
        )
    if tally.entries and tally.known == tally.entries:
        click.echo(f"Nothing changed: all {tally.entries:,} entries were known before.")
