"""`laurel migrate`: bring a database up to date."""

import asyncio
import json

import click

import migrations
from laurel.client import database_url


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail if something is missing.")
@click.option("--json", "as_json", is_flag=True, help="Print what was applied, or is missing, as JSON.")
def migrate(check: bool, as_json: bool) -> None:
    """Apply the migrations that the database lacks. Each is a transaction.

    The database is that of LAUREL_DATABASE_URL or of the running local stack; it is made
    if it is missing and the user may. Running it twice at once is safe.

    \b
    laurel migrate
    LAUREL_DATABASE_URL=postgresql://laurel@db.example/laurel laurel migrate --check
    """
    url = database_url()
    if check:
        state = asyncio.run(migrations.state(url))
        if as_json:
            print(json.dumps({"pending": state.pending, "unknown": state.unknown}))
        else:
            click.echo(_describe(state))
        raise SystemExit(1 if state.pending or state.unknown else 0)
    applied = asyncio.run(migrations.migrate(url, lambda line: click.echo(line, err=as_json)))
    if as_json:
        print(json.dumps({"applied": applied}))
    elif not applied:
        click.echo("the database is up to date")


def _describe(state: migrations.State) -> str:
    if state.unknown:
        return f"the database is ahead of this Laurel: {', '.join(state.unknown)}"
    if state.pending:
        return f"missing: {', '.join(state.pending)}; run `laurel migrate`"
    return f"up to date: {len(state.applied)} applied"
