"""Schedules: one row each, which says who does it, for which period, and what came of the last.

Whoever begins gets a lease and a token. A holder that died is replaced when its lease is over, and one
that slept past it can't say any more that it was done. Leases are by the database's clock, periods by
the caller's.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from server.domain.schedules import NOBODYS, Outcome, Standing
from server.store.database import Connection


class Wanted(NamedTuple):
    """A schedule that there should be. ``first_at``: when it is first done."""

    name: str
    program_id: UUID
    every: timedelta
    first_at: datetime
    switched_off: bool


class Turn(NamedTuple):
    """The right to do a schedule for the period that begins at ``period``, for the ``attempts``-th time.

    ``since``: the last period that was done whole, None if none was.
    """

    name: str
    program_id: UUID
    token: int
    period: datetime
    since: datetime | None
    attempts: int


async def enrol(connection: Connection, wanted: Sequence[Wanted]) -> None:
    """Make rows for those that have none; what is there follows ``every`` and ``switched_off``."""
    await connection.execute(
        """INSERT INTO schedule AS s (name, program_id, every, next_at, switched_off)
           SELECT * FROM unnest($1::text[], $2::uuid[], $3::interval[], $4::timestamptz[], $5::boolean[])
           ON CONFLICT (name, program_id) DO UPDATE
              SET every = excluded.every, switched_off = excluded.switched_off,
                  next_at = CASE WHEN s.every = excluded.every THEN s.next_at ELSE excluded.next_at END
            WHERE (s.every, s.switched_off) <> (excluded.every, excluded.switched_off)""",
        *(list(column) for column in zip(*wanted, strict=True)),
    )


async def ready(connection: Connection, names: Collection[str], now: datetime) -> list[tuple[str, UUID]]:
    """Those of these names whose time has come, or whose holder died, and that nobody is at."""
    rows = await connection.fetch(
        """SELECT name, program_id FROM schedule
            WHERE name = ANY($1) AND NOT switched_off AND leased_until < clock_timestamp()
              AND (next_at <= $2 OR outcome = 'running')
            ORDER BY next_at""",
        list(names),
        now,
    )
    return [(row[0], row[1]) for row in rows]


async def take(
    connection: Connection,
    name: str,
    program_id: UUID,
    period: datetime,
    next_at: datetime,
    holder: str,
    seconds: float,
) -> Turn | None:
    """Begin the period, with a lease for so long; None if somebody is at it, or it was done already."""
    row = await connection.fetchrow(
        """UPDATE schedule
              SET attempts = CASE WHEN period = $3 THEN attempts + 1 ELSE 1 END, period = $3, next_at = $4,
                  outcome = 'running', started_at = clock_timestamp(), ended_at = NULL,
                  token = token + 1, holder = $5, leased_until = clock_timestamp() + $6 * interval '1 s'
            WHERE name = $1 AND program_id = $2 AND leased_until < clock_timestamp()
              AND (period IS NULL OR period < $3 OR (period = $3 AND outcome <> 'done'))
        RETURNING token, done_period, attempts""",
        name,
        program_id,
        period,
        next_at,
        holder,
        seconds,
    )
    return None if row is None else Turn(name, program_id, row[0], period, row[1], row[2])


async def extend(connection: Connection, turn: Turn, seconds: float) -> bool:
    """Keep the lease for so long from now on; False if somebody else has the turn by now."""
    return await _changed(connection, turn, "leased_until = clock_timestamp() + $4 * interval '1 s'", seconds)


async def done(connection: Connection, turn: Turn, did: str) -> bool:
    """It is done, and this came of it; False if somebody else has the turn by now."""
    return await _changed(
        connection,
        turn,
        """outcome = 'done', done_period = period, ended_at = clock_timestamp(), did = $4, error = '',
           leased_until = '-infinity'""",
        did,
    )


async def failed(connection: Connection, turn: Turn, error: str, again_at: datetime) -> bool:
    """It failed, and is tried again then; False if somebody else has the turn by now."""
    return await _changed(
        connection,
        turn,
        """outcome = 'failed', ended_at = clock_timestamp(), error = $4, next_at = least(next_at, $5),
           leased_until = '-infinity'""",
        error,
        again_at,
    )


async def give_back(connection: Connection, turn: Turn) -> bool:
    """Somebody else may go on with it at once; False if somebody does already."""
    return await _changed(connection, turn, "leased_until = '-infinity'")


async def _changed(connection: Connection, turn: Turn, change: str, *arguments: object) -> bool:
    done = await connection.execute(
        f"UPDATE schedule SET {change} WHERE name = $1 AND program_id = $2 AND token = $3",
        turn.name,
        turn.program_id,
        turn.token,
        *arguments,
    )
    return bool(done != "UPDATE 0")


async def standings(connection: Connection, program_id: UUID | None = None) -> list[Standing]:
    """Those that aren't switched off: of the installation, and of that program or of all for None."""
    rows = await connection.fetch(
        """SELECT s.name, coalesce(p.name, ''), every, next_at, outcome, period, done_period,
                  attempts, started_at, ended_at, did, error, holder, leased_until >= clock_timestamp()
             FROM schedule s LEFT JOIN program p USING (program_id)
            WHERE NOT switched_off AND ($1::uuid IS NULL OR s.program_id IN ($1, $2))
            ORDER BY 2, 1""",
        program_id,
        NOBODYS,
    )
    return [
        Standing(name, program, every, next_at, Outcome(outcome), *others)
        for name, program, every, next_at, outcome, *others in rows
    ]
