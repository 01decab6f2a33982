"""`laurel import`: members and balances from CSV files, through the public API."""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click
import grpc
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from laurel import channels
from laurel.calls import Calls
from laurel.client import address, key_for, program_option
from laurel.failures import Failure
from laurel.imports import opening
from laurel.imports.columns import Columns, Target, match
from laurel.imports.newcomers import TARGET as NEWCOMERS
from laurel.imports.newcomers import Reader, Terms
from laurel.imports.refusals import Report
from laurel.imports.registrations import CONSENTS, KNOWN, NEW, Registrations
from laurel.imports.run import Import, Work
from laurel.imports.table import Table, encoding_named
from laurel.output import console, counted, show_table


@dataclass(frozen=True, slots=True)
class Source:
    """What file to import, and how: as ``file_options`` ask."""

    file: Path
    mapping: Sequence[tuple[str, str]]
    dry_run: bool
    refused: Path | None
    workers: int
    encoding: str
    delimiter: str | None
    program: str


@click.group("import")
def imports() -> None:
    """Bring members and what they hold from CSV files. Importing a file again changes nothing."""


def _pairs(_ctx: click.Context, _option: click.Parameter, value: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for text in value:
        name, equals, heading = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r}: write FIELD=HEADING, such as email=E-Mail")
        found.append((name.strip(), heading.strip()))
    return found


def _encoding(_ctx: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        return encoding_named(value)
    except LookupError:
        raise click.BadParameter(f"{value!r} is no encoding such as utf-8, cp1252 or utf-16") from None


def _delimiter(_ctx: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    found = {None: None, "tab": "\t", "\\t": "\t"}.get(value, value)
    if found is not None and (len(found) != 1 or found in '"\r\n'):
        raise click.BadParameter("one character, or tab")
    return found


def file_options(command: Any) -> Any:
    """The argument and the options of every import."""
    for option in reversed(
        (
            click.argument(
                "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.csv"
            ),
            click.option(
                "--map",
                "mapping",
                multiple=True,
                callback=_pairs,
                metavar="FIELD=HEADING",
                help="Which column fills a field; repeatable. FIELD= leaves the field out.",
            ),
            click.option("--dry-run", is_flag=True, help="Check everything and write nothing."),
            click.option(
                "--refused",
                type=click.Path(dir_okay=False, path_type=Path),
                help="Where refused rows go, as CSV; beside FILE, if left out.",
            ),
            click.option(
                "--workers",
                type=click.IntRange(1, 256),
                default=8,
                show_default=True,
                help="Calls at a time.",
            ),
            click.option(
                "--encoding", default="utf-8", show_default=True, callback=_encoding, help="Of the file."
            ),
            click.option(
                "--delimiter", callback=_delimiter, help="Between cells; found in the header, if left out."
            ),
            program_option,
        )
    ):
        command = option(command)
    return command


@imports.command()
@file_options
@click.option(
    "--date-format",
    default="%Y-%m-%d",
    show_default=True,
    help="Of days of birth: %d is the day, %m the month, %Y the year.",
)
@click.option(
    "--policy-version", default="", help="Which wording members saw when they consented, for the record."
)
@click.option("--channel", default="import", show_default=True, help="How consents were given.")
@click.option("--welcome", is_flag=True, help="Welcome them as who joins today; else nobody is told.")
def members(*, date_format: str, policy_version: str, channel: str, welcome: bool, **source: Any) -> None:
    """Register the members of a CSV file, one a row.

    Columns go into fields by their heading where that is obvious, else by --map. The fields
    are given_name, family_name, email, phone, birth_date, external_ids, external_id.SYSTEM,
    card_numbers, address.lines, address.locality, address.region, address.postal_code,
    address.country_code, preferences.language_code, preferences.time_zone,
    preferences.channels, tags, segments, attributes, attributes.NAME, consents,
    consent.PURPOSE and status. Several values stand in one cell with ; between them.

    Rows that are refused go to a CSV file with line and reason: correct them there and
    import that file. Exit code 1 if any was refused.

    \b
    laurel import members customers.csv --dry-run
    laurel import members customers.csv --map email=E-Mail --map external_id.crm=Number
    """
    terms = Terms(date_format, policy_version, channel)

    def work(columns: Columns, grpc_channel: grpc.aio.Channel, calls: Calls, dry: bool) -> _Plan:
        registrations = Registrations(grpc_channel, calls, columns, dry, welcome=welcome)
        reader = Reader(columns, terms)
        return _Plan(
            Work(reader.read, reader.names, registrations.take),
            lambda: [(what, registrations.done[what]) for what in (NEW, KNOWN, CONSENTS)],
            lambda: not (registrations.done[NEW] or registrations.done[CONSENTS]),
        )

    _bring(Source(**source), NEWCOMERS, work)


def _zone(_ctx: click.Context, _option: click.Parameter, value: str) -> ZoneInfo:
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise click.BadParameter(f"{value!r} is no time zone such as Asia/Kolkata") from None


@imports.command()
@file_options
@click.option("--reason", default="opening balance", show_default=True, help="Stands in the ledger.")
@click.option(
    "--time-zone", default="UTC", show_default=True, callback=_zone, help="Where a day of expiry ends."
)
def balances(*, reason: str, time_zone: ZoneInfo, **source: Any) -> None:
    """Put opening balances into the ledger, one adjustment a row.

    A row names its member by member_id, external_id.SYSTEM, external_ids, card_numbers, email
    or phone; the first of these that it fills counts. points are whole. point_type is the
    program's main one, if left out; expires_on a day such as 2027-12-31, on which they
    can still be spent; without it they live as the program's points do. reference tells rows of one
    wallet apart: each wallet and reference is put in once, and another figure for it refused.
    What is above the program's limit for adjustments waits until a second person approves.

    \b
    laurel import balances points.csv --map external_id.crm=Number --map points=Saldo --dry-run
    """
    terms = opening.Terms(reason, time_zone)

    def work(columns: Columns, grpc_channel: grpc.aio.Channel, calls: Calls, dry: bool) -> _Plan:
        openings = opening.Openings(grpc_channel, calls, terms, dry)
        reader = opening.Reader(columns, terms)
        return _Plan(
            Work(reader.read, reader.names, openings.take),
            lambda: sorted(openings.rows.items()),
            lambda: not openings.changed,
            lambda: _show_sums(reader, openings),
        )

    _bring(Source(**source), opening.TARGET, work)


def _show_sums(reader: opening.Reader, openings: opening.Openings) -> None:
    headings = ("POINT TYPE", "IN THE FILE", "IMPORTED", "ALREADY THERE", "WAITING", "REFUSED")
    show_table(headings, opening.summed(reader, openings))
    if openings.rows[opening.WAITING]:
        click.echo(
            "Waiting: somebody else runs `laurel points adjustments`, and `laurel points approve` for each."
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is done with rows, the counts that came of it, whether nothing changed, and more to show."""

    work: Work[Any]
    counts: Callable[[], list[tuple[str, int]]]
    unchanged: Callable[[], bool]
    further: Callable[[], None] = lambda: None


def _bring(
    source: Source, target: Target, plan_of: Callable[[Columns, grpc.aio.Channel, Calls, bool], _Plan]
) -> None:
    """Import the file and tell how it went. Exits with 1 if a row was refused."""
    key = key_for("service", source.program)
    _check_place(source)
    table = Table(source.file, source.encoding, source.delimiter)
    try:
        columns = match(target, table.header, source.mapping)
        _show_columns(columns)
        report = Report(table.header, table.delimiter, source.encoding, source.file, source.refused)
        try:
            asyncio.run(_run(source, key, table, columns, report, plan_of))
            refused = report.keep()
        except BaseException:  # Ctrl-C too; it goes on
            click.echo("The import ended early. What was imported stays: import the file again.", err=True)
            raise
        finally:
            report.drop()
    finally:
        table.close()
    if refused is not None:
        _show_refused(report, refused)
        raise SystemExit(1)


def _check_place(source: Source) -> None:
    """Whether refused rows can be written down, while nothing has happened yet."""
    if source.refused is not None and source.refused.exists():
        raise Failure(f"{source.refused} is there already, and may hold corrections; name another --refused")
    folder = (source.refused or source.file).absolute().parent
    if not os.access(folder, os.W_OK):
        raise Failure(f"refused rows can't be written to {folder}; name another place with --refused")


async def _run(
    source: Source,
    key: str,
    table: Table,
    columns: Columns,
    report: Report,
    plan_of: Callable[[Columns, grpc.aio.Channel, Calls, bool], _Plan],
) -> None:
    calls = Calls(key)
    async with channels.connect_async(address()) as channel:
        plan = plan_of(columns, channel, calls, source.dry_run)
        run = Import(table, columns, report, plan.work)
        with _bar(table.size) as done:
            await run.run(source.workers, done)
    would = "would be: " if source.dry_run else ""
    show_table(
        ("WHAT", "COUNT"),
        [
            ("rows read", run.rows),
            *((f"{would}{what}", number) for what, number in plan.counts()),
            *((f"rows refused: {reason}", number) for reason, number in sorted(report.counts.items())),
            ("calls tried again", calls.retries),
        ],
    )
    click.echo()
    plan.further()
    if run.rows:
        click.echo(f"{run.rows / run.seconds:,.0f} rows a second for {run.seconds:.1f} s")
    if source.dry_run:
        click.echo("Nothing was written: this was a dry run.")
    elif plan.unchanged():
        click.echo("Nothing changed.")


@contextmanager
def _bar(size: int) -> Iterator[Callable[[int, int], None]]:
    """A bar over the bytes of a file, told of bytes and rows."""
    out = console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.fields[rows]:,} rows"), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("", total=size, rows=0)
        yield lambda position, rows: bar.update(task, completed=position, rows=rows)


def _show_columns(columns: Columns) -> None:
    """Which column goes where, before anything happens; what goes nowhere above all."""
    rows = [(columns.header[index], name) for name, indexes in columns.places.items() for index in indexes]
    show_table(("COLUMN", "FIELD"), [*rows, *((heading, "not imported") for heading in columns.left_out)])
    click.echo()


def _show_refused(report: Report, path: Path) -> None:
    total = report.counts.total()
    click.echo()
    show_table(("LINE>", "REASON", "MESSAGE"), sorted((r.line, r.reason, r.message) for r in report.first))
    click.echo(
        f"\n{counted(total, 'row')} refused"
        + (f", {len(report.first)} of them shown" if total > len(report.first) else "")
        + f"; all of them are in {path}. Correct them there and import that file.",
        err=True,
    )
