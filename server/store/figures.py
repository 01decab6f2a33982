"""Daily figures: counted up by who reads the event log, read by day and store."""

from collections.abc import Collection, Iterable
from datetime import date
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from server.domain.figures import Figures, Key, Measure, Row
from server.domain.ledger import Account
from server.store.database import Connection
from server.store.together import columns

PROJECTION = "daily_figures"


class Place(NamedTuple):
    """A day in a store, in the order in which they are listed."""

    day: date
    store: str


class Wanted(NamedTuple):
    """Which figures: of the days from ``since`` to ``until``, both included. "" is any store, any rule.

    With a rule only days and stores on which it gave points are wanted, and of rules only that one.
    """

    program_id: UUID
    since: date
    until: date
    store: str = ""
    rule: str = ""


async def add(connection: Connection, generation: UUID, figures: Figures) -> None:
    """Count these in. In the order of the keys, so that two who do so at once wait in one order."""
    if not figures:
        return
    await connection.execute(
        """INSERT INTO daily_figure AS f (generation, program_id, day, store, rule, measure, unit, amount)
           SELECT $1, * FROM unnest($2::uuid[], $3::date[], $4::text[], $5::text[], $6::text[], $7::text[],
                                    $8::numeric[])
               ON CONFLICT (generation, program_id, day, store, rule, measure, unit)
               DO UPDATE SET amount = f.amount + excluded.amount""",
        generation,
        *columns([(*key, figures[key]) for key in sorted(figures)]),
    )


async def rows(connection: Connection, named: Collection[tuple[UUID, UUID, UUID]]) -> dict[UUID, Row]:
    """Rows of the ledger by program, member and id, by id."""
    if not named:
        return {}
    found = await connection.fetch(
        """SELECT transaction_id, point_type, points, debit_account, credit_account,
                  CASE WHEN kind = 'EARN' THEN trace::text ELSE '' END
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS wanted(program_id, member_id, transaction_id)
             JOIN ledger_transaction USING (program_id, member_id, transaction_id)""",
        *columns(list(named)),
    )
    return {r[0]: Row(r[0], r[1], r[2], Account(r[3]), Account(r[4]), r[5]) for r in found}


async def zones(connection: Connection, program_ids: Iterable[UUID]) -> dict[UUID, ZoneInfo]:
    """On which clock each program's days end. It is the same for ever."""
    found = await connection.fetch(
        "SELECT program_id, time_zone FROM program WHERE program_id = ANY($1)", list(program_ids)
    )
    return {program_id: ZoneInfo(name) for program_id, name in found}


async def page(
    connection: Connection, wanted: Wanted, after: Place | None, size: int
) -> dict[Place, Figures]:
    """The figures of the next ``size`` days and stores after that one, in order."""
    found = await connection.fetch(
        """WITH figure AS (
               SELECT f.* FROM projection JOIN daily_figure f USING (generation)
                WHERE name = $1 AND program_id = $2 AND day BETWEEN $3 AND $4 AND ($5 = '' OR store = $5)),
           place AS (
               SELECT DISTINCT day, store FROM figure
                WHERE ($6 = '' OR rule = $6) AND ($7::date IS NULL OR (day, store) > ($7, $8))
                ORDER BY day, store LIMIT $9)
           SELECT day, store, rule, measure, unit, amount
             FROM place JOIN figure USING (day, store)
            WHERE rule = '' OR $6 = '' OR rule = $6
            ORDER BY day, store, rule, measure, unit""",
        PROJECTION,
        *wanted,
        *(after or (None, "")),
        size,
    )
    places: dict[Place, Figures] = {}
    for day, store, rule, measure, unit, amount in found:
        key = Key(wanted.program_id, day, store, rule, Measure(measure), unit)
        places.setdefault(Place(day, store), {})[key] = amount
    return places


async def everything(connection: Connection, generation: UUID) -> Figures:
    """All figures of a generation."""
    found = await connection.fetch(
        """SELECT program_id, day, store, rule, measure, unit, amount FROM daily_figure
            WHERE generation = $1""",
        generation,
    )
    return {Key(r[0], r[1], r[2], r[3], Measure(r[4]), r[5]): r[6] for r in found}


async def drop(connection: Connection, generation: UUID, most: int) -> bool:
    """Forget at most so many rows of a generation; whether there are more."""
    await connection.execute(
        """DELETE FROM daily_figure WHERE ctid = ANY(ARRAY(
               SELECT ctid FROM daily_figure WHERE generation = $1 LIMIT $2))""",
        generation,
        most,
    )
    # Not by how many it was: somebody else may be at the others, and die before they are gone.
    left: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM daily_figure WHERE generation = $1)", generation
    )
    return left
