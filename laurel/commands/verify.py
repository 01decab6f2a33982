"""`laurel verify`: prove that the ledger is what the servers wrote, and that it adds up."""

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from laurel.client import data_folder, secrets_file, stack
from laurel.commands.checkpoint import checkpoint_file
from laurel.commands.programs import find, on_database
from laurel.failures import Failure
from laurel.output import console, show_table
from laurel.stack.folder import DataFolder
from server import secrets
from server.domain.proof import Finding
from server.operations.evidence import Evidence
from server.operations.verify import Progress, Result
from server.operations.verify import verify as check_all
from server.secrets import Secrets
from server.store import programs as store
from server.store.checkpoint_file import public_keys
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
@click.option(
    "--checkpoints",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="The file of checkpoints; that of LAUREL_CHECKPOINT_FILE or of the local stack, if left out.",
)
@click.option(
    "--since",
    default=None,
    metavar="CHECKPOINT|TIME",
    help="Trust this checkpoint, or the last one before the time: check what is newer.",
)
def verify(program: str | None, limit_findings: int, file: Path | None, since: str | None) -> None:
    """Verify the ledger. Exit code 1 if anything is wrong, with the first bad row named.

    It reads every row, recomputes its HMAC with the keys of LAUREL_SECRETS_FILE (or of the
    local stack), compares the tables with each other and all of it with the checkpoints, as
    of one moment. It changes nothing and waits for nobody, so it may run beside the shop.

    \b
    laurel verify
    laurel verify --checkpoints /mnt/elsewhere/laurel.jsonl --since 2026-11-23
    """
    given = secrets.load(secrets_file())
    evidence = _evidence(file, given)
    number = None if since is None else _number(since, evidence)

    async def work(database: Database) -> tuple[list[Result], Mapping[UUID, str]]:
        wanted = None if program is None else (await find(database, program)).program_id
        steps = check_all(database, given.ledger.keys, wanted, limit_findings, evidence, number)
        results = await _run(steps)
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


def _evidence(file: Path | None, given: Secrets) -> Evidence | None:
    path = file or checkpoint_file() or _left_behind()
    if path is None or given.checkpoint is None:
        click.echo("no checkpoints to compare with: an end that was cut off goes unseen", err=True)
        return None
    if not path.exists():
        raise Failure(
            f"{path} is missing; --checkpoints names another file of checkpoints. Of a new ledger a worker "
            "takes the first one within a minute, and `laurel checkpoint take` at once"
        )
    return Evidence.of(path, public_keys(given.checkpoint))


def _left_behind() -> Path | None:
    """The checkpoints of the local stack while it doesn't run, if the keys are its own too."""
    folder = DataFolder(data_folder())
    unnamed = "LAUREL_CHECKPOINT_FILE" not in os.environ and not stack()
    own = unnamed and folder.checkpoints.exists() and secrets_file().resolve() == folder.secrets
    return folder.checkpoints if own else None


def _number(since: str, evidence: Evidence | None) -> int:
    if evidence is None:
        raise Failure("--since needs the checkpoints that it trusts; name their file with --checkpoints")
    if since.isdigit():
        return int(since)
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise click.BadParameter(
            f"{since!r} is neither a checkpoint's number nor a time", param_hint="--since"
        ) from None
    return evidence.number_at(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


async def _run(steps: AsyncGenerator[Progress | Result, None]) -> list[Result]:
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
        async with aclosing(steps):
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
                "" if f.program_id is None else names.get(f.program_id, str(f.program_id)),
                f.member_id or "",
                f.point_type or "",
                "" if f.sequence is None else str(f.sequence),
                f.transaction_id or "",
                f.problem,
            )
            for f in findings
        ],
    )
