"""`laurel run`: what workers do by the clock, done now."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

import click
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from laurel.client import secrets_file
from laurel.commands.programs import find, on_database
from laurel.output import console, counted, show_table
from server import secrets
from server.domain.program import Program
from server.ids import new_id
from server.operations.programs import Programs
from server.operations.runs import Done, Runs
from server.secrets import Keyring
from server.store import due as due_store
from server.store import programs as store
from server.store.database import Database

# More than a server takes at once: nobody else waits while a batch is decided here.
BATCH_SIZE = 100


@click.group()
def run() -> None:
    """Runs: what workers do by the clock, done now."""


@run.command()
@click.option("--program", default=None, help="This one only; every program, if left out.")
@click.option("--dry-run", is_flag=True, help="Only show what would happen.")
@click.option(
    "--batch-size",
    type=click.IntRange(1, 1000),
    default=BATCH_SIZE,
    show_default=True,
    help="Members in one transaction; their purchases wait for it.",
)
def due(program: str | None, dry_run: bool, batch_size: int) -> None:
    """Activate, release and expire what has fallen due. Members are warned of points that will expire.

    Workers do so by themselves every LAUREL_DUE_SECONDS; where that is 0, call this from cron. What
    members may spend doesn't depend on it. It may be ended at any time, and run beside servers and
    beside itself: the next run does what is left, and nothing happens twice. Exit code 1 if it
    failed with some member; the log names these.
    """
    keys = secrets.load(secrets_file()).ledger
    now = datetime.now(UTC)

    async def work(database: Database) -> list[tuple[Program, Done]]:
        programs = await _programs(database, program)
        return await _run(database, keys, programs, now, dry_run, batch_size)

    results = on_database(work)
    rows = [
        (program.name, point_type, movement, points, done.members[point_type, movement])
        for program, done in results
        for (point_type, movement), points in sorted(done.points.items())
    ]
    seen = sum(done.seen for _, done in results)
    if rows:
        show_table(("PROGRAM", "WALLET", "WOULD BE" if dry_run else "WERE", "POINTS", "MEMBERS"), rows)
    click.echo(f"{counted(seen, 'member')} looked at", err=True)
    failed = [member_id for _, done in results for member_id in done.failed]
    if failed:
        click.echo(
            f"{counted(len(failed), 'member')} failed, {failed[0]} first; the next run tries again", err=True
        )
        raise SystemExit(1)


async def _programs(database: Database, name: str | None) -> list[Program]:
    if name is not None:
        return [await find(database, name)]
    async with database.connection() as connection:
        return await store.every(connection)


async def _run(
    database: Database,
    keys: Keyring,
    programs: Sequence[Program],
    now: datetime,
    dry_run: bool,
    batch_size: int,
) -> list[tuple[Program, Done]]:
    runs = Runs(
        database, Programs(), keys, lambda: datetime.now(UTC), new_id, batch_size=batch_size, dry_run=dry_run
    )
    out = console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    results = []
    with Bar(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        for program in programs:
            async with database.connection() as connection:
                total = await due_store.count(connection, program.program_id, now)
            done = Done()
            results.append((program, done))
            task = bar.add_task(f"{program.name}: due", total=total)
            await _follow(runs.catch_up(program.program_id), done, bar, task)
            task = bar.add_task(f"{program.name}: warnings", total=None)
            await _follow(runs.warn(program.program_id), done, bar, task)
    return results


async def _follow(steps: AsyncGenerator[Done, None], total: Done, bar: Bar, task: TaskID) -> None:
    async with aclosing(steps):
        async for done in steps:
            total.add(done)
            bar.update(task, advance=done.seen)
