"""`laurel checkpoint`: what shows that nothing was cut off the ledger's end."""

import os
from datetime import UTC, datetime
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from laurel.client import secrets_file, stack
from laurel.commands.programs import on_database
from laurel.failures import Failure
from laurel.output import counted, moment, show_fields, show_table
from server import secrets
from server.ids import new_id
from server.operations.checkpoints import Taken, take
from server.secrets import Keyring
from server.store.checkpoint_file import CheckpointWriter, lines, public_hex, public_keys
from server.store.database import Database

MOST_SHOWN = 20


@click.group()
def checkpoint() -> None:
    """Checkpoints: where all chains ended, signed. They are kept outside the database.

    A worker takes one every LAUREL_CHECKPOINT_SECONDS if LAUREL_CHECKPOINT_FILE names a file,
    and `laurel verify` compares the ledger with it. Keep the file, or a copy, where the
    database's owner can't change it.
    """


@checkpoint.command("take")
@click.option("--file", "given", type=click.Path(dir_okay=False, path_type=Path), help="Append to it.")
def take_one(given: Path | None) -> None:
    """Take one now, unless nothing changed; for cron, or before a backup.

    \b
    laurel checkpoint take --file /mnt/elsewhere/laurel.jsonl
    """
    path = given or checkpoint_file()
    if path is None:
        raise Failure("where to? name it with --file or LAUREL_CHECKPOINT_FILE")
    writer = CheckpointWriter(path, signing_keys())

    async def work(database: Database) -> Taken:
        return await take(database, writer, lambda: datetime.now(UTC), new_id)

    taken = on_database(work)
    if taken.busy:
        raise Failure("somebody else is taking one at this moment")
    if not taken.heads or taken.last is None:
        click.echo("nothing changed since the last one")
        return
    last = taken.last.checkpoint
    click.echo(
        f"checkpoint {last.number} of {moment(last.taken_at)}: {counted(taken.heads, 'wallet')} in {path}"
    )


@checkpoint.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--public-key",
    "given",
    multiple=True,
    help="ID:HEX as `laurel checkpoint key` shows it; those of the secrets file, if left out. Repeatable.",
)
def check(file: Path, given: tuple[str, ...]) -> None:
    """Check signatures and order of a file; public keys are enough. Exit code 1 if it isn't whole.

    This looks at the file alone: `laurel verify` compares the ledger with it.
    """
    keys = dict(_public_key(text) for text in given) if given else public_keys(signing_keys())
    wallets = set()
    heads, bad, last = 0, [], None
    for read in lines(file, keys):
        if read.problem:
            name = f"checkpoint {read.line.checkpoint.number}" if read.line else ""
            bad.append((read.number, name, read.problem))
        if read.line is not None and read.authentic:
            last = read.line.checkpoint
            heads += len(last.heads)
            wallets |= {head[:3] for head in last.heads}
    if bad:
        show_table(("LINE", "", "WHAT IS WRONG"), bad[:MOST_SHOWN])
        if len(bad) > MOST_SHOWN:
            click.echo(f"{len(bad):,} lines are wrong, {MOST_SHOWN} of them shown", err=True)
        raise SystemExit(1)
    show_fields(
        (
            ("file", str(last.chain) if last else "empty"),
            ("last checkpoint", f"{last.number} of {moment(last.taken_at)}" if last else ""),
            ("wallets", len(wallets)),
            ("ends of chains", heads),
        )
    )


@checkpoint.command()
@click.option("--new", is_flag=True, help="Add one to the secrets file first; servers use it once restarted.")
def key(new: bool) -> None:
    """Show the public keys that check signatures. By id, the one in use first."""
    if new:
        secrets.add_checkpoint_key(secrets_file())
    signing = signing_keys()
    public = public_keys(signing)
    for key_id in sorted(public, key=lambda key_id: key_id != signing.current):
        click.echo(f"{key_id}:{public_hex(public[key_id])}")


def checkpoint_file() -> Path | None:
    """The file that the environment or the running stack names, None if there is none."""
    given = os.environ.get("LAUREL_CHECKPOINT_FILE")
    if given is None:
        given = str(stack().get("checkpoint_file") or "")
    return Path(given) if given else None


def signing_keys() -> Keyring:
    """The keys that sign. Raises Failure if there are none."""
    path = secrets_file()
    signing = secrets.load(path).checkpoint
    if signing is None:
        raise Failure(f"{path} has no key for checkpoints; `laurel checkpoint key --new` adds one")
    return signing


def _public_key(text: str) -> tuple[str, Ed25519PublicKey]:
    key_id, _, digits = text.rpartition(":")
    try:
        return key_id, Ed25519PublicKey.from_public_bytes(bytes.fromhex(digits))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not ID:HEX with 64 hex digits") from None
