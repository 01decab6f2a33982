"""`laurel projections`: read models, how far they are, and making one again."""

from collections.abc import Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from types import MappingProxyType

import click
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from laurel.client import redis_url
from laurel.commands.options import json_option
from laurel.commands.programs import on_database
from laurel.failures import Failure
from laurel.output import console, moment, show_json, show_table
from server.store import projections as store
from server.store import subscriptions
from server.store.database import Database
from server.store.projections import Standing, Superseded
from workers.projections import daily_figures, history, member_summary
from workers.projections.member_summary import Lost, MemberSummaries
from workers.projections.rebuild import Build, UnderWay, rebuild

BUILDS: Mapping[str, Callable[[Redis], Build]] = MappingProxyType(
    {
        "daily_figures": lambda _: daily_figures.Build(),
        "history": lambda _: history.Build(),
        "member_summary": lambda redis: member_summary.Build(MemberSummaries(redis, now)),
    }
)


@click.group()
def projections() -> None:
    """Projections: read models that follow the event log. They can be made from it again."""


@projections.command()
@json_option
def status(*, as_json: bool) -> None:
    """Show how far each has come, and what is being rebuilt."""
    found = on_database(_standings)
    if as_json:
        show_json([_plain(*one) for one in found])
        return
    show_table(
        ("NAME", "BEHIND", "SECONDS", "REBUILT", "REBUILDING"),
        [
            (
                standing.name,
                "not followed yet" if follower is None else follower.behind,
                0 if follower is None else round(follower.behind_seconds),
                moment(standing.built_at) or "never",
                _building(standing),
            )
            for standing, follower in found
        ],
    )


@projections.command(name="rebuild")
@click.argument("name", type=click.Choice(list(BUILDS)))
def rebuild_command(*, name: str) -> None:
    """Make one again while everything goes on, and then read that one.

    It is built beside the one that is read and takes its place when it is whole; if this is ended before,
    the old one stays. Rebuild one after a mistake in how it is made was mended.
    """

    async def work(database: Database) -> int:
        out = console(stderr=True)
        columns = (TextColumn(name, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        done = 0
        with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
            task = bar.add_task(name, total=None)
            async with (
                Redis.from_url(redis_url()) as redis,
                aclosing(rebuild(database, BUILDS[name](redis))) as steps,
            ):
                async for progress in steps:
                    done = progress.done
                    bar.update(task, completed=done, total=progress.total)
        return done

    try:
        done = on_database(work)
    except UnderWay:
        raise Failure(f"{name} is being rebuilt at the moment; see `laurel projections status`") from None
    except Superseded:
        raise Failure(f"somebody else began to rebuild {name} meanwhile") from None
    except (Lost, RedisError) as error:
        raise Failure(f"Redis lost it or can't be reached ({type(error).__name__}); try again") from None
    click.echo(f"{name}: rebuilt, {done:,} looked at")


def now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


Found = tuple[Standing, subscriptions.Standing | None]


async def _standings(database: Database) -> list[Found]:
    async with database.connection() as connection:
        followers = {s.consumer: s for s in await subscriptions.standings(connection)}
        return [(await store.standing(connection, name), followers.get(name)) for name in BUILDS]


def _building(standing: Standing) -> str:
    if standing.generations.building is None:
        return ""
    share = min(99, 100 * standing.done // standing.total) if standing.total else 0
    idle = f", nothing for {standing.idle_seconds:.0f} s" if (standing.idle_seconds or 0) >= 10 else ""
    return f"{share}% since {moment(standing.building_since)}{idle}"


def _plain(standing: Standing, follower: subscriptions.Standing | None) -> dict[str, object]:
    return {
        "name": standing.name,
        "behind": None if follower is None else follower.behind,
        "behindSeconds": None if follower is None else follower.behind_seconds,
        "rebuiltTime": _iso(standing.built_at),
        "rebuilding": None
        if standing.generations.building is None
        else {"since": _iso(standing.building_since), "done": standing.done, "total": standing.total},
    }


def _iso(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat()
