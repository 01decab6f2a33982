"""Read models in their generations: one is read and follows the log, another may be built beside it.

Whoever follows the log holds the projection's row shared for the length of a transaction; whoever begins a
generation or puts it in the other's place holds it alone. So nothing happens in between.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from server.store.database import Connection
from server.store.log import BEGINNING, Position


class Superseded(Exception):  # noqa: N818 - that is an answer, not a fault
    """Somebody else builds the projection by now."""


class Generations(NamedTuple):
    """What is read, and what is being built, if anything is."""

    current: UUID
    building: UUID | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A projection as of now. ``idle_seconds``: since building came on, None if nothing is built."""

    name: str
    generations: Generations
    built_at: datetime | None
    building_since: datetime | None
    idle_seconds: float | None
    done: int
    total: int


async def following(connection: Connection, name: str) -> Generations:
    """The generations, which stay what they are until this transaction ends."""
    row = await connection.fetchrow(
        "SELECT generation, building FROM projection WHERE name = $1 FOR SHARE", name
    )
    assert row is not None, name
    return Generations(*row)


async def alone(connection: Connection, name: str) -> Generations:
    """The same, while nobody follows."""
    row = await connection.fetchrow(
        "SELECT generation, building FROM projection WHERE name = $1 FOR UPDATE", name
    )
    assert row is not None, name
    return Generations(*row)


async def standing(connection: Connection, name: str) -> Standing:
    """One projection as of now."""
    row = await connection.fetchrow(
        """SELECT generation, building, built_at, building_since,
                  extract(epoch FROM clock_timestamp() - building_seen)::float8, done, total
             FROM projection WHERE name = $1""",
        name,
    )
    assert row is not None, name
    return Standing(name, Generations(row[0], row[1]), *row[2:])


async def begin(connection: Connection, name: str, building: UUID, total: int) -> None:
    """From now on ``building`` is built; what was built before, whoever did, is dropped."""
    await connection.execute(
        """INSERT INTO dropped_generation (name, generation)
           SELECT name, building FROM projection WHERE name = $1 AND building IS NOT NULL
               ON CONFLICT DO NOTHING""",
        name,
    )
    await connection.execute(
        """UPDATE projection SET building = $2, building_since = clock_timestamp(),
                                 building_seen = clock_timestamp(), done = 0, total = $3
            WHERE name = $1""",
        name,
        building,
        total,
    )


async def came_on(connection: Connection, name: str, building: UUID, done: int) -> None:
    """So much is done. Raises Superseded, and then nothing of the transaction may stay."""
    mine = await connection.fetchval(
        """UPDATE projection SET building_seen = clock_timestamp(), done = $3
            WHERE name = $1 AND building = $2 RETURNING true""",
        name,
        building,
        done,
    )
    if mine is None:
        raise Superseded(name)


async def take_over(connection: Connection, name: str, building: UUID) -> None:
    """What was built is read from now on, and what was read before is dropped. Raises Superseded."""
    await connection.execute(
        """INSERT INTO dropped_generation (name, generation)
           SELECT name, generation FROM projection WHERE name = $1 AND building = $2
               ON CONFLICT DO NOTHING""",
        name,
        building,
    )
    mine = await connection.fetchval(
        """UPDATE projection SET generation = building, built_at = clock_timestamp(), building = NULL,
                                 building_since = NULL, building_seen = NULL, done = 0, total = 0
            WHERE name = $1 AND building = $2 RETURNING true""",
        name,
        building,
    )
    if mine is None:
        raise Superseded(name)


async def give_up(
    connection: Connection, name: str, *, building: UUID | None = None, idle_seconds: float = 0
) -> bool:
    """Build it no more, and drop what is there of it: ``building``, or whichever has idled for so long."""
    found = await connection.fetchval(
        """WITH left_lying AS (
               SELECT name, building FROM projection
                WHERE name = $1 AND building = coalesce($2, building)
                  AND building_seen <= clock_timestamp() - make_interval(secs => $3) FOR UPDATE
           ), dropped AS (
               INSERT INTO dropped_generation (name, generation) SELECT * FROM left_lying
               ON CONFLICT DO NOTHING
           )
           UPDATE projection SET building = NULL, building_since = NULL, building_seen = NULL,
                                 done = 0, total = 0
             FROM left_lying WHERE projection.name = left_lying.name
           RETURNING true""",
        name,
        building,
        idle_seconds,
    )
    return bool(found)


async def dropped(connection: Connection, name: str) -> list[UUID]:
    """The generations that nobody reads any more and of which something may be left."""
    rows = await connection.fetch("SELECT generation FROM dropped_generation WHERE name = $1", name)
    return [row[0] for row in rows]


async def gone(connection: Connection, name: str, generation: UUID) -> None:
    """Nothing is left of a dropped generation."""
    await connection.execute(
        "DELETE FROM dropped_generation WHERE name = $1 AND generation = $2", name, generation
    )


async def place(connection: Connection, name: str) -> Position:
    """How far the projection has followed the log."""
    row = await connection.fetchrow("SELECT epoch, xid, position FROM subscription WHERE consumer = $1", name)
    return BEGINNING if row is None else Position(*row)


async def as_of(connection: Connection, name: str) -> datetime:
    """Everything that was committed before is in the projection, as this transaction sees it."""
    found: datetime = await connection.fetchval(
        """SELECT coalesce((SELECT recorded_at FROM event_log
                             WHERE (epoch, xid, position) > (s.epoch, s.xid, s.position)
                             ORDER BY epoch, xid, position LIMIT 1), now())
             FROM (SELECT epoch, xid, position FROM subscription WHERE consumer = $1
                   UNION ALL SELECT 0, '0', 0
                    ORDER BY 1 DESC LIMIT 1) AS s""",
        name,
    )
    return found


async def dead(connection: Connection, name: str, after: Position, end: Position) -> set[Position]:
    """The events of that stretch that the projection did not take: dead letters that nobody has replayed."""
    rows = await connection.fetch(
        """SELECT epoch, xid, position FROM dead_letter
            WHERE consumer = $1 AND status <> 'replayed'
              AND (epoch, xid, position) > ($2, $3, $4) AND (epoch, xid, position) <= ($5, $6, $7)""",
        name,
        *after,
        *end,
    )
    return {Position(*row) for row in rows}


async def still_dead(connection: Connection, name: str, places: Collection[Position]) -> set[Position]:
    """Which of these it has not taken by now."""
    if not places:
        return set()
    return (await dead(connection, name, BEGINNING, max(places))) & set(places)


async def events_up_to(connection: Connection, end: Position) -> int:
    """How many events the log holds up to that place."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM event_log WHERE (epoch, xid, position) <= ($1, $2, $3)", *end
    )
    return found
