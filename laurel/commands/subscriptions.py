"""`laurel subscriptions`: how far each consumer of the event log has come."""

from dataclasses import asdict
from datetime import datetime

import click

from laurel.commands.options import json_option
from laurel.commands.programs import on_database
from laurel.failures import Failure
from laurel.output import console, show_json, show_table
from server.store import subscriptions as store
from server.store.database import Database
from server.store.subscriptions import Standing


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def subscriptions(context: click.Context, *, as_json: bool) -> None:
    """Show how far each consumer of the event log has come. It says what keeps one, too.

    BEHIND counts the events that it hasn't done with, of whatever type, and SINCE is how long the first
    of them has waited. A consumer with an error tries again by itself.
    """
    if context.invoked_subcommand is not None:
        return
    found = on_database(_standings)
    if as_json:
        show_json([_plain(standing) for standing in found])
        return
    show_table(
        ("CONSUMER", "POSITION", "BEHIND>", "SINCE>", "HOLDER", "FAILED>", "LAST ERROR"),
        [
            (
                standing.consumer,
                ".".join(str(part) for part in standing.place) if standing.moved_at else "not begun",
                f"{standing.behind:,}",
                f"{standing.behind_seconds:,.1f} s",
                standing.holder,
                standing.attempts or "",
                f"{standing.last_error} {standing.last_error_at:%Y-%m-%d %H:%M:%S}Z"
                if standing.last_error_at
                else "",
            )
            for standing in found
        ],
    )


@subscriptions.command()
@click.argument("consumer")
def forget(consumer: str) -> None:
    """Drop the position of a consumer that is no more. Nobody waits for it to come on then."""
    # Here, so that looking doesn't wait for all that workers need.
    from workers.subscriptions import SUBSCRIPTIONS

    if consumer in SUBSCRIPTIONS:
        raise Failure(f"{consumer} is one of this Laurel's consumers, and would begin anew")

    async def work(database: Database) -> bool:
        async with database.transaction() as connection:
            return await store.forget(connection, consumer)

    if not on_database(work):
        raise Failure(f"there is no consumer {consumer}; `laurel subscriptions` lists them")
    console().print(f"{consumer} is forgotten", markup=False)


async def _standings(database: Database) -> list[Standing]:
    async with database.connection() as connection:
        return await store.standings(connection)


def _plain(standing: Standing) -> dict[str, object]:
    plain = asdict(standing) | {"place": standing.place._asdict()}
    moments = {name: value.isoformat() for name, value in plain.items() if isinstance(value, datetime)}
    return plain | moments
