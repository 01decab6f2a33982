"""`laurel verify`: prove that the ledger is what the servers wrote, and that it adds up."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from uuid import UUID

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from laurel.client import secrets_file
from laurel.commands.programs import find, on_database
from laurel.output import console, show_table
from server import secrets
from server.domain.proof import Finding
from server.operations.verify import Progress, Result
from server.operations.verify import verify as check_all
from server.store import programs as store
from server.store.database import Database


@click.command()
@click.option("--program", default=None, help="Check this one only; every program, if left out.")
@click.option(
    "--limit-findings",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Show at most so many of each check.",
)
def verify(program: str | None, limit_findings: int) -> None:
    """Verify the ledger; exit code 1 if anything is wrong, with the first bad row named.

    It reads every row, recomputes its HMAC with the keys of LAUREL_SECRETS_FILE (or of the
    local stack) and compares the tables with each other, all as of one moment. It changes
    nothing and waits for nobody, so it may run beside the shop.
    """
    keys = secrets.load(secrets_file()).ledger.keys

    async def work(database: Database) -> tuple[list[Result], Mapping[UUID, str]]:
        wanted = None if program is None else (await find(database, program)).program_id
        results = await _run(database, keys, wanted, limit_findings)
        async with database.connection() as connection:
            return results, {p.program_id: p.name for p in await store.every(connection)}

    results, names = on_database(work)
    show_table(
        ("CHECK", "CHECKED", "FAULTS", "RESULT"),
        [(r.check, r.checked, r.faults, "FAILED" if r.faults else "ok") for r in results],
    )
    findings = [finding for result in results for finding in result.findings]
    if findings:
        _show(findings, names)
        kept, faults = len(findings), sum(result.faults for result in results)
        click.echo(f"\n{faults} faults" + (f", {kept} of them shown" if kept < faults else ""), err=True)
        raise SystemExit(1)


async def _run(
    database: Database, keys: Mapping[str, bytes], program_id: UUID | None, most: int
) -> list[Result]:
    results = []
    out = console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("counting", total=None)
        async with aclosing(check_all(database, keys, program_id, most)) as steps:
            async for step in steps:
                match step:
                    case Progress():
                        bar.update(task, description=step.step, completed=step.done, total=step.total)
                    case Result():
                        results.append(step)
    return results


def _show(findings: Sequence[Finding], names: Mapping[UUID, str]) -> None:
    click.echo()
    show_table(
        ("PROGRAM", "MEMBER", "WALLET", "SEQUENCE>", "TRANSACTION", "WHAT IS WRONG"),
        [
            (
                names.get(f.program_id, str(f.program_id)),
                f.member_id or "",
                f.point_type or "",
                "" if f.sequence is None else str(f.sequence),
                f.transaction_id or "",
                f.problem,
            )
            for f in findings
        ],
    )
