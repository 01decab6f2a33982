"""`laurel programs`: the loyalty schemes of an installation."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from laurel.client import database_url
from laurel.commands import notification_terms
from laurel.commands.notification_terms import notification_options
from laurel.commands.program_terms import as_json, in_words, revised, terms_options
from laurel.failures import Failure
from laurel.output import show_fields, show_json, show_table
from server.domain.ledger import MAX_POINTS
from server.domain.notifications.terms import NotificationTerms
from server.domain.program import Program, Tier
from server.ids import new_id
from server.operations import program_terms
from server.store import programs as store
from server.store import templates
from server.store.database import Database

Result = TypeVar("Result")
NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
LONGEST_NAME = 64


@click.group()
def programs() -> None:
    """Programs: an operator's loyalty schemes. Each has members, rules and keys of its own."""


def on_database(work: Callable[[Database], Awaitable[Result]]) -> Result:
    """Run ``work`` on the database of LAUREL_DATABASE_URL or of the running stack."""

    async def run() -> Result:
        database = await Database.open(database_url(), connections=2)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


async def find(database: Database, name: str) -> Program:
    """The program of that name. Raises Failure with the names there are."""
    async with database.connection() as connection:
        program = await store.find(connection, name)
        if program is None:
            names = ", ".join(p.name for p in await store.every(connection)) or "none at all"
            raise Failure(f"no program {name}; there is {names}")
        return program


def _names(_ctx: click.Context, _option: click.Parameter, value: Any) -> Any:
    values = [value] if isinstance(value, str) else value
    for name in values:
        if not 1 <= len(name) <= LONGEST_NAME or not NAME.issuperset(name):
            raise click.BadParameter(f"{name!r}: 1 to {LONGEST_NAME} of a-z, 0-9, hyphen and underscore")
    if len(set(values)) < len(values):
        raise click.BadParameter("a name stands there twice")
    return value


def _currency(_ctx: click.Context, _option: click.Parameter, value: str) -> str:
    if len(value) != 3 or not value.isascii() or not value.isupper():
        raise click.BadParameter("three capital letters, such as INR")
    return value


def _zone(_ctx: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise click.BadParameter(f"{value!r} is no time zone such as Asia/Kolkata") from None
    return value


def _tiers(_ctx: click.Context, _option: click.Parameter, value: str) -> tuple[Tier, ...]:
    tiers = []
    for part in value.split(","):
        name, _, points = part.strip().partition(":")
        _names(_ctx, _option, name)
        if not points.isdigit() or not points.isascii():
            raise click.BadParameter(f"{part!r}: write name:points, such as silver:1000")
        tiers.append(Tier(name, int(points)))
    starts = [tier.from_points for tier in tiers]
    if starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] > 10**15:
        raise click.BadParameter("the first tier starts at 0, each further one at more points")
    if len({tier.name for tier in tiers}) < len(tiers):
        raise click.BadParameter("a name stands there twice")
    return tuple(tiers)


def _rates(_ctx: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> Mapping[str, Decimal]:
    rates = {}
    for part in value:
        currency, _, rate = part.partition("=")
        _currency(_ctx, _option, currency)
        try:
            amount = Decimal(rate)
        except InvalidOperation:
            amount = Decimal(0)
        if not amount.is_finite() or not Decimal("1e-9") <= amount <= Decimal("1e9"):
            raise click.BadParameter(f"{part!r}: write CURRENCY=RATE, such as USD=84.10")
        rates[currency] = amount
    return rates


@programs.command()
@click.argument("name", callback=_names)
@click.option("--currency", required=True, callback=_currency, help="What rules count in, such as INR.")
@click.option("--time-zone", required=True, callback=_zone, help="Whose days and hours rules mean.")
@click.option(
    "--point-type",
    "point_types",
    multiple=True,
    default=("points",),
    callback=_names,
    show_default=True,
    help="A wallet of every member; repeatable. The first decides the tier.",
)
@click.option(
    "--tiers",
    default="member:0",
    callback=_tiers,
    help="name:points, ascending, such as bronze:0,silver:1000.",
)
@click.option(
    "--rate", "rates", multiple=True, callback=_rates, help="CURRENCY=RATE into its own; repeatable."
)
@click.option(
    "--past-limit-days",
    type=click.IntRange(0, 36_500),
    default=30,
    show_default=True,
    help="Older events are refused.",
)
@click.option(
    "--step-up-redeem-points",
    type=click.IntRange(0, MAX_POINTS),
    default=0,
    show_default=True,
    help="Members who redeem more at once must have logged in strongly and of late; 0 for always.",
)
@terms_options
@notification_options
def create(
    *,
    name: str,
    currency: str,
    time_zone: str,
    point_types: tuple[str, ...],
    tiers: tuple[Tier, ...],
    rates: Mapping[str, Decimal],
    past_limit_days: int,
    step_up_redeem_points: int,
    **terms: Any,
) -> None:
    """Make a program.

    Points are spent at once and for ever, unless --pending and --expiry say otherwise.

    \b
    laurel programs create cafe --currency EUR --time-zone Europe/Paris \\
        --tiers bronze:0,silver:1000,gold:5000 --rate CHF=1.05 --expiry points=months:12
    """
    program = Program(
        new_id(),
        name,
        currency,
        time_zone,
        point_types,
        tiers,
        rates,
        past_limit_days=past_limit_days,
        step_up_redeem_points=step_up_redeem_points,
    )
    program = replace(program, ledger=revised(program, terms))

    told = notification_terms.revised(NotificationTerms(), terms)

    async def work(database: Database) -> bool:
        async with database.transaction() as connection:
            made = await store.create(connection, program)
            if made:
                await templates.set_terms(connection, program.program_id, told)
            return made

    if not on_database(work):
        raise Failure(f"there is a program {name} already")
    click.echo(
        f"program {name} made; give its tills a key: laurel keys create --program {name} --name till-1"
    )


@programs.command()
@click.argument("name")
@click.option(
    "--step-up-redeem-points",
    type=click.IntRange(0, MAX_POINTS),
    help="Members who redeem more at once must have logged in strongly and of late; 0 for always.",
)
@terms_options
@notification_options
def change(name: str, step_up_redeem_points: int | None, **terms: Any) -> None:
    """Change what the options name in a program, nothing else.

    How new points live is obeyed from the next command on; points that are there already keep the terms by
    which they came. How members are written to is obeyed at once. Other changes take up to a minute.

    \b
    laurel programs change cafe --expiry points=months:12 --pending points=days:14
    laurel programs change cafe --quiet-hours 22:00-07:30 --tell points_earned=push,inbox --tell birthday=none
    """
    if step_up_redeem_points is None and all(given in (None, {}) for given in terms.values()):
        raise click.UsageError("say what to change; `laurel programs change --help` shows what can be")

    async def work(database: Database) -> tuple[Program, NotificationTerms] | None:
        return await program_terms.change(
            database,
            name,
            step_up_redeem_points=step_up_redeem_points,
            ledger=lambda program: revised(program, terms),
            notifications=lambda before: notification_terms.revised(before, terms),
        )

    found = on_database(work)
    if found is None:
        raise Failure(f"no program {name}; `laurel programs list` shows which there are")
    click.echo(f"program {name} changed")
    show_fields(_terms(*found))


@programs.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List all programs."""

    found = on_database(_every)
    if as_json:
        show_json([_as_dict(program, told) for program, told in found])
        return
    show_table(
        ("NAME", "CURRENCY", "TIME ZONE", "POINT TYPES", "TIERS"),
        [
            (p.name, p.currency, p.time_zone, ", ".join(p.point_types), ", ".join(t.name for t in p.tiers))
            for p, _ in found
        ],
    )


@programs.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the terms of a program."""

    async def work(database: Database) -> tuple[Program, NotificationTerms]:
        program = await find(database, name)
        async with database.connection() as connection:
            told = await templates.terms_of(connection, [program.program_id])
        return program, told[program.program_id]

    program, told = on_database(work)
    if as_json:
        show_json(_as_dict(program, told))
        return
    show_fields(
        (
            ("name", program.name),
            ("id", program.program_id),
            ("currency", program.currency),
            ("time zone", program.time_zone),
            ("point types", ", ".join(program.point_types)),
            ("tiers", ", ".join(f"{t.name} from {t.from_points:,}" for t in program.tiers)),
            ("rates", ", ".join(f"1 {c} = {r} {program.currency}" for c, r in program.rates.items())),
            ("event types", ", ".join(sorted(program.event_types))),
            ("past limit", f"{program.past_limit_days} days"),
            ("clock skew", f"{program.clock_skew_seconds} seconds"),
            *_terms(program, told),
        )
    )


async def _every(database: Database) -> list[tuple[Program, NotificationTerms]]:
    async with database.connection() as connection:
        found = await store.every(connection)
        told = await templates.terms_of(connection, [program.program_id for program in found])
    return [(program, told[program.program_id]) for program in found]


def _terms(program: Program, told: NotificationTerms) -> list[tuple[str, str]]:
    """What can be changed, in words."""
    step_up = f"for more than {program.step_up_redeem_points:,} points at once"
    return [("step-up", step_up), *in_words(program), *notification_terms.in_words(told)]


def _as_dict(program: Program, told: NotificationTerms) -> dict[str, Any]:
    return {
        "programId": str(program.program_id),
        "name": program.name,
        "currency": program.currency,
        "timeZone": program.time_zone,
        "pointTypes": list(program.point_types),
        "tiers": [{"name": t.name, "fromPoints": t.from_points} for t in program.tiers],
        "rates": {currency: str(rate) for currency, rate in program.rates.items()},
        "pastLimitDays": program.past_limit_days,
        "clockSkewSeconds": program.clock_skew_seconds,
        "stepUpRedeemPoints": program.step_up_redeem_points,
        "ledger": as_json(program),
        "notifications": notification_terms.as_json(told),
    }
