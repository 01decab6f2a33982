"""Subscriptions: how far each consumer of the event log has come, and who may move it on.

Whoever works for a consumer holds its lease. Each lease has a token of its own, and nothing is written
for a consumer but together with a check of the token: a holder that slept past its lease is refused.
All times are the database's.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from server.store.database import Connection
from server.store.log import BEGINNING, READABLE, Position

# Beyond this many events somebody is behind, their number is told by positions, not by counting.
COUNTED = 10_000
LAST = 2**63 - 1


class Fenced(Exception):  # noqa: N818 - that is an answer, not a fault
    """Somebody else holds the lease by now; nothing of what was done in the transaction may stay."""


class Lease(NamedTuple):
    """The right to move a consumer on from ``place``.

    ``attempts``: so many failed in a row before. ``replays``: dead letters are to be replayed.
    """

    consumer: str
    holder: str
    token: int
    place: Position
    attempts: int
    replays: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """A consumer as of now.

    ``behind`` counts the events after its position, of any type and those not readable yet too; above
    10,000 it is about right. ``behind_seconds`` is the age of the first of them. ``holder`` is who holds
    the lease, "" if nobody does.
    """

    consumer: str
    place: Position
    moved_at: datetime | None
    behind: int
    behind_seconds: float
    holder: str
    attempts: int
    next_attempt_at: datetime | None
    last_error: str
    last_error_at: datetime | None


# PostgreSQL takes a third of the log for unreadable, and would read all of a large one. In order it reads no
# more than there is to read.
HELD_BACK = """
    SELECT extract(epoch FROM clock_timestamp() - min(recorded_at))::float8
      FROM (SELECT recorded_at FROM event_log
             WHERE (epoch, xid) >= ((SELECT max(epoch) FROM log_epoch),
                                    (SELECT pg_snapshot_xmin(pg_current_snapshot())))
             ORDER BY epoch, xid, position LIMIT $1) AS first"""


async def enrol(connection: Connection, from_beginning: Collection[str], from_now: Collection[str]) -> None:
    """Make rows for consumers that have none: at the beginning of the log, or behind what is readable now."""
    await connection.execute(
        """INSERT INTO subscription (consumer, epoch, xid, position)
           SELECT unnest($1::text[]), $2, $3::xid8, $4 ON CONFLICT DO NOTHING""",
        list(from_beginning),
        *BEGINNING,
    )
    await connection.execute(
        """INSERT INTO subscription (consumer, epoch, xid, position)
           SELECT unnest($1::text[]), (SELECT max(epoch) FROM log_epoch),
                  (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1)::text::xid8, $2
               ON CONFLICT DO NOTHING""",
        list(from_now),
        LAST,
    )


async def with_work(connection: Connection, consumers: Collection[str]) -> list[str]:
    """Which of them have something to do that nobody is doing and that isn't to wait for another attempt."""
    rows = await connection.fetch(
        f"""SELECT consumer FROM subscription AS s
             WHERE consumer = ANY($1) AND leased_until < clock_timestamp()
               AND next_attempt_at <= clock_timestamp()
               AND (EXISTS (SELECT FROM event_log
                             WHERE (epoch, xid, position) > (s.epoch, s.xid, s.position) AND {READABLE})
                 OR EXISTS (SELECT FROM dead_letter AS d
                             WHERE d.consumer = s.consumer AND d.status = 'replaying'))""",
        list(consumers),
    )
    return [row["consumer"] for row in rows]


async def take(connection: Connection, consumer: str, holder: str, seconds: float) -> Lease | None:
    """Take the lease for so long, None if somebody has it. ``holder`` is nobody else's name.

    It need not be flushed: should a crash forget it, the next holder's name tells it from this one's.
    """
    row = await connection.fetchrow(
        """UPDATE subscription
              SET token = token + 1, holder = $2, leased_until = clock_timestamp() + $3 * interval '1 s'
            WHERE consumer = (SELECT consumer FROM subscription
                               WHERE consumer = $1 AND leased_until < clock_timestamp()
                                 FOR UPDATE SKIP LOCKED)
           RETURNING token, epoch, xid, position, attempts,
                     EXISTS (SELECT FROM dead_letter AS d
                              WHERE d.consumer = subscription.consumer AND d.status = 'replaying')""",
        consumer,
        holder,
        seconds,
    )
    if row is None:
        return None
    token, *place, attempts, replays = row
    return Lease(consumer, holder, token, Position(*place), attempts, replays)


async def move(connection: Connection, lease: Lease, place: Position, seconds: float) -> Lease:
    """Move on to ``place``, in the transaction of what was done up to there. Raises Fenced.

    The lease lasts for so long again; with 0 somebody else may have it.
    """
    moved = await connection.fetchval(
        """UPDATE subscription
              SET epoch = $4, xid = $5, position = $6, moved_at = clock_timestamp(), attempts = 0,
                  leased_until = clock_timestamp() + $7 * interval '1 s'
            WHERE consumer = $1 AND holder = $2 AND token = $3
           RETURNING true""",
        *lease[:3],
        *place,
        seconds,
    )
    if moved is None:
        raise Fenced(lease.consumer)
    return lease._replace(place=place, attempts=0)


async def give_back(connection: Connection, lease: Lease) -> None:
    """Let somebody else have the lease, if it still is ours."""
    await connection.execute(
        """UPDATE subscription SET leased_until = '-infinity'
            WHERE consumer = $1 AND holder = $2 AND token = $3""",
        *lease[:3],
    )


async def failed(connection: Connection, lease: Lease, error: str, pause_seconds: float) -> None:
    """Note what went wrong and give the lease back; nobody tries again before the pause is over."""
    await connection.execute(
        """UPDATE subscription
              SET attempts = attempts + 1, next_attempt_at = clock_timestamp() + $4 * interval '1 s',
                  last_error = $5, last_error_at = clock_timestamp(), leased_until = '-infinity'
            WHERE consumer = $1 AND holder = $2 AND token = $3""",
        *lease[:3],
        pause_seconds,
        error,
    )


async def standings(connection: Connection) -> list[Standing]:
    """Every consumer as of now, by name."""
    rows = await connection.fetch(
        """SELECT consumer, s.epoch, s.xid, s.position, moved_at,
                  CASE WHEN unread.events < $1 THEN unread.events
                       ELSE greatest(unread.events, (SELECT position FROM event_log
                                                      ORDER BY epoch DESC, xid DESC, position DESC LIMIT 1)
                                                    - s.position) END,
                  coalesce(extract(epoch FROM clock_timestamp() - unread.since), 0)::float8,
                  CASE WHEN leased_until >= clock_timestamp() THEN holder ELSE '' END, attempts,
                  nullif(next_attempt_at, '-infinity'), last_error, last_error_at
             FROM subscription AS s,
                  LATERAL (SELECT count(*) AS events, (array_agg(recorded_at))[1] AS since
                             FROM (SELECT recorded_at FROM event_log
                                    WHERE (epoch, xid, position) > (s.epoch, s.xid, s.position)
                                    ORDER BY epoch, xid, position LIMIT $1) AS first) AS unread
            ORDER BY consumer""",
        COUNTED,
    )
    return [
        Standing(consumer, Position(epoch, xid, position), moved_at, behind, max(0.0, seconds), *others)
        for consumer, epoch, xid, position, moved_at, behind, seconds, *others in rows
    ]


async def forget(connection: Connection, consumer: str) -> bool:
    """Drop the row of a consumer that is no more; whether there was one. Its dead letters stay."""
    return (
        await connection.fetchval("DELETE FROM subscription WHERE consumer = $1 RETURNING true", consumer)
        is not None
    )


async def held_back_seconds(connection: Connection) -> float:
    """How long the oldest row of the log that isn't readable yet has waited; 0 if all are readable."""
    seconds = await connection.fetchval(HELD_BACK, COUNTED)
    return max(0.0, seconds or 0.0)
