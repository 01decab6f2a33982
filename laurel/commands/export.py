"""`laurel export`: the ledger, the members and what they hold, as CSV or Parquet."""

import getpass
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from laurel.client import secrets_file
from laurel.commands.identifiers import instant
from laurel.commands.programs import find, on_database
from laurel.drafts import Draft
from laurel.failures import Failure
from laurel.output import console, counted
from laurel.sheets import CsvSheet, ParquetSheet, Sheet
from server import secrets
from server.domain.actor import Actor, CallerKind
from server.operations import exports
from server.operations.audit import Audit
from server.operations.exports import Extract, Personal
from server.store.database import Database
from server.store.sealing import Sealer

FORMATS = ("csv", "parquet")
Opened = Callable[[Database, UUID | None], AbstractAsyncContextManager[Extract]]


@click.group()
def export() -> None:
    """Write ledger, members or what they hold to a file. It is as of one moment.

    It reads the database of LAUREL_DATABASE_URL or of the local stack, changes no member
    and no points, and waits for nobody, so it may run beside the shop.
    """


def file_options(command: Any) -> Any:
    """The options of every export."""
    for option in reversed(
        (
            click.option(
                "--output",
                "-o",
                required=True,
                type=click.Path(dir_okay=False, path_type=Path),
                help="The file; it appears when it is whole, and replaces one of that name.",
            ),
            click.option(
                "--format",
                "form",
                type=click.Choice(FORMATS),
                help="By the ending of the file's name, if left out: .csv or .parquet.",
            ),
            click.option(
                "--raw", is_flag=True, help="CSV for programs: don't guard what a spreadsheet could run."
            ),
            click.option("--program", help="This one only; every program, if left out."),
        )
    ):
        command = option(command)
    return command


personal_option = click.option(
    "--personal-data",
    is_flag=True,
    help="With names, contacts and the like; needs LAUREL_SECRETS_FILE, and is recorded in the audit.",
)


@export.command()
@file_options
@click.option("--since", callback=instant, help="Recorded then or later; UTC, unless it says otherwise.")
@click.option("--until", callback=instant, help="Recorded before that.")
@click.option("--with-hashes", is_flag=True, help="With the hashes that chain the rows.")
def ledger(*, since: datetime | None, until: datetime | None, with_hashes: bool, **file: Any) -> None:
    """Every movement of points, in order of recording.

    \b
    laurel export ledger --since 2026-11-01 --until 2026-12-01 -o november.parquet
    """
    _export(
        lambda database, program_id: exports.ledger(database, program_id, since, until, with_hashes), **file
    )


@export.command()
@file_options
@personal_option
def members(*, personal_data: bool, **file: Any) -> None:
    """Every member, in order of joining. Nothing personal, unless asked for.

    \b
    laurel export members --program demo --personal-data -o members.csv
    """
    _export(
        lambda database, program_id: exports.members(
            database, program_id, _personal(database, personal_data)
        ),
        **file,
    )


@export.command()
@file_options
@personal_option
def balances(*, personal_data: bool, **file: Any) -> None:
    """Every wallet with its figures as recorded, member by member.

    With --personal-data it says what finds each member, as `laurel import balances` asks.

    \b
    laurel export balances --program demo -o balances.csv
    """
    _export(
        lambda database, program_id: exports.balances(
            database, program_id, _personal(database, personal_data)
        ),
        **file,
    )


def _personal(database: Database, wanted: bool) -> Personal | None:
    if not wanted:
        return None
    sealer = Sealer(secrets.load(secrets_file()))
    return Personal(sealer, Audit(database, lambda: datetime.now(UTC)), _operator)


def _operator(program_id: UUID) -> Actor:
    """Who runs the command: an account of this machine, without a credential of Laurel's."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    return Actor(CallerKind.STAFF, program_id, UUID(int=0), f"operator {name}", "laurel", frozenset())


def _export(opened: Opened, *, output: Path, form: str | None, raw: bool, program: str | None) -> None:
    parquet = (form or _form_of(output)) == "parquet"
    started = time.monotonic()

    with _onto(output):
        draft = Draft(output)

    async def work(database: Database) -> int:
        program_id = None if program is None else (await find(database, program)).program_id
        async with opened(database, program_id) as extract:
            sheet: Sheet = (
                ParquetSheet(draft.file, extract.columns)
                if parquet
                else CsvSheet(draft.file, extract.columns, raw)
            )
            written = await _write(extract, sheet, output)
            with _onto(output):
                draft.keep()
        return written

    with draft:
        written = on_database(work)
    seconds = time.monotonic() - started
    click.echo(f"{counted(written, 'row')} in {output}, {written / seconds:,.0f} a second")


def _form_of(output: Path) -> str:
    form = output.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise click.BadParameter(
            f"{output.name} ends neither in .csv nor in .parquet; --format says which of the two it shall be",
            param_hint="'--output' / '-o'",
        )
    return form


@contextmanager
def _onto(output: Path) -> Iterator[None]:
    """Tell of a file as that: while the database is read, an OSError would pass for its absence."""
    try:
        yield
    except FileNotFoundError:
        raise Failure(f"{output} can't be written: no such folder") from None
    except OSError as error:
        raise Failure(f"{output} can't be written: {error.strerror or error}") from None


async def _write(extract: Extract, sheet: Sheet, output: Path) -> int:
    out = console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    written = 0
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("", total=extract.size)
        async for rows in extract.batches:
            with _onto(output):
                sheet.write(rows)
            written += len(rows)
            bar.update(task, completed=written)
    with _onto(output):
        sheet.finish()
    return written
