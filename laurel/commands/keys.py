"""`laurel keys`: the API keys of terminals, services and staff."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from laurel.client import ROLES, program_option
from laurel.commands.options import span
from laurel.commands.programs import find, on_database
from laurel.failures import Failure
from laurel.output import moment, show_fields, show_json, show_table
from server.domain.actor import CallerKind
from server.operations import credentials
from server.rpc.access import declared_scopes
from server.store.credentials import Credential
from server.store.database import Database

IN_FORCE = "in force"


@click.group()
def keys() -> None:
    """API keys: what tills, services and staff call with. Only a hash of each is stored."""


@keys.command()
@program_option
@click.option(
    "--role", type=click.Choice(ROLES), default="terminal", show_default=True, help="Who calls with it."
)
@click.option("--name", required=True, help="Stands in the ledger and in audits; unique among keys in force.")
@click.option("--store", default="", help="Bind it to this store: it can name no other.")
@click.option(
    "--source-system", default="", help="Whose receipts and request ids it shares: `pos` for tills."
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="What it may do, such as members.*; repeatable. What its role usually may, if left out.",
)
@click.option("--expires-in", callback=span, help="Such as 12h, 90d or 1y; never, if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(
    *,
    program: str,
    role: str,
    name: str,
    store: str,
    source_system: str,
    scopes: tuple[str, ...],
    expires_in: timedelta | None,
    as_json: bool,
) -> None:
    """Make a key. It is shown once and can't be read again.

    \b
    laurel keys create --name till-7 --store mumbai-3 --expires-in 1y
    laurel keys create --role staff --name asha --scope members.read --scope points.read
    """
    now = datetime.now(UTC)

    async def work(database: Database) -> tuple[Credential, str]:
        return await credentials.create(
            database,
            (await find(database, program)).program_id,
            CallerKind(role),
            name,
            declared_scopes=declared_scopes(),
            now=now,
            source_system=source_system,
            store_id=store,
            scopes=scopes or None,
            expires_at=None if expires_in is None else now + expires_in,
        )

    credential, key = on_database(work)
    if as_json:
        show_json({**_as_dict(credential), "key": key})
        return
    click.echo(key)
    click.echo(
        f"{role} key {name} of program {program}: {', '.join(sorted(credential.scopes))}\n"
        "Keep it now: only its hash is stored.",
        err=True,
    )


@keys.command("list")
@program_option
@click.option("--all", "revoked_too", is_flag=True, help="Show revoked and expired keys too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(program: str, revoked_too: bool, as_json: bool) -> None:
    """List the keys in force; `show` tells what each may do."""

    async def work(database: Database) -> Sequence[Credential]:
        return await credentials.listed(database, (await find(database, program)).program_id)

    now = datetime.now(UTC)
    found = [c for c in on_database(work) if revoked_too or _state(c, now) == IN_FORCE]
    if as_json:
        show_json([_as_dict(credential) for credential in found])
        return
    show_table(
        ("NAME", "ROLE", "STATE", "STORE", "SOURCE", "EXPIRES", "SCOPES"),
        [
            (
                c.name,
                str(c.kind),
                _state(c, now),
                c.store,
                c.source_system,
                moment(c.expires_at),
                len(c.scopes),
            )
            for c in found
        ],
    )


@keys.command()
@click.argument("name")
@program_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, program: str, as_json: bool) -> None:
    """Show what a key may do, and until when.

    Of several of that name the one in force, else the newest. What callers send is not shown: only its
    hash is stored.
    """

    async def work(database: Database) -> Sequence[Credential]:
        return await credentials.listed(database, (await find(database, program)).program_id)

    now = datetime.now(UTC)
    found = [c for c in on_database(work) if c.name == name]
    if not found:
        raise Failure(f"program {program} has no key of the name {name}")
    c = max(found, key=lambda c: (_state(c, now) == IN_FORCE, c.created_at))
    if as_json:
        show_json(_as_dict(c))
        return
    show_fields(
        (
            ("name", c.name),
            ("role", str(c.kind)),
            ("state", _state(c, now)),
            ("store", c.store),
            ("source", c.source_system),
            ("made", moment(c.created_at)),
            ("expires", moment(c.expires_at) or "never"),
            ("revoked", moment(c.revoked_at)),
            ("scopes", "\n".join(sorted(c.scopes))),
            ("credential", str(c.credential_id)),
        )
    )


@keys.command()
@click.argument("name")
@program_option
def revoke(name: str, program: str) -> None:
    """Take a key out of force. Servers refuse it within LAUREL_CREDENTIAL_CACHE_SECONDS, 20 unless set."""
    now = datetime.now(UTC)

    async def work(database: Database) -> Credential:
        return await credentials.revoke(database, (await find(database, program)).program_id, name, now)

    credential = on_database(work)
    click.echo(
        f"{credential.kind} key {credential.name} is revoked; "
        "servers refuse it within LAUREL_CREDENTIAL_CACHE_SECONDS, 20 unless set"
    )


def _state(credential: Credential, now: datetime) -> str:
    if credential.revoked_at is not None:
        return "revoked"
    if credential.expires_at is not None and credential.expires_at <= now:
        return "expired"
    return IN_FORCE


def _as_dict(credential: Credential) -> dict[str, Any]:
    return {
        "credentialId": str(credential.credential_id),
        "role": str(credential.kind),
        "name": credential.name,
        "store": credential.store,
        "sourceSystem": credential.source_system,
        "scopes": sorted(credential.scopes),
        "createTime": moment(credential.created_at),
        "expireTime": moment(credential.expires_at),
        "revokeTime": moment(credential.revoked_at),
    }
