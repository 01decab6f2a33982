"""Deliveries: wanted in somebody's transaction, taken under a lease, and what came of it."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from server.domain.deliveries import Delivery, Verdict, Wanted
from server.store.database import Connection
from server.store.together import Write, columns, write


async def add(connection: Connection, wanted: Sequence[Wanted]) -> None:
    """Want these to be sent, if this transaction commits. What is wanted already stays as it is."""
    if not wanted:
        return
    await connection.execute(
        """INSERT INTO delivery (program_id, delivery_id, member_id, channel, target, dedup_key, content,
                                 status, next_attempt_at)
           SELECT a, b, c, d, e, f, g, 'pending', coalesce(h, now())
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::jsonb[],
                         $8::timestamptz[]) AS t(a, b, c, d, e, f, g, h)
               ON CONFLICT (program_id, dedup_key) DO NOTHING""",
        *columns(
            [
                (
                    w.program_id,
                    w.delivery_id,
                    w.member_id,
                    w.channel,
                    w.target,
                    w.dedup_key,
                    json.dumps(w.content),
                    w.due_at,
                )
                for w in wanted
            ]
        ),
    )


# A walk from target to target in the index of what is pending, so that one with a million rows costs
# as much as one with a single row; then a few of each. Whoever is at a row has put it off until their
# lease ends, and raised its token: who comes back later than that finds it changed.
CLAIM = """
WITH RECURSIVE targets AS (
    (SELECT target FROM delivery WHERE status = 'pending' ORDER BY target LIMIT 1)
    UNION ALL
    SELECT (SELECT d.target FROM delivery d
             WHERE d.status = 'pending' AND d.target > t.target ORDER BY d.target LIMIT 1)
      FROM targets t WHERE t.target IS NOT NULL
), due AS (
    SELECT found.program_id, found.delivery_id,
           row_number() OVER (PARTITION BY targets.target ORDER BY found.next_attempt_at) AS turn,
           found.next_attempt_at
      FROM targets
      LEFT JOIN unnest($2::text[], $3::integer[]) AS busy(target, places) USING (target)
     CROSS JOIN LATERAL (
           SELECT program_id, delivery_id, next_attempt_at FROM delivery
            WHERE status = 'pending' AND target = targets.target AND channel = ANY($1::text[])
              AND next_attempt_at <= now()
            ORDER BY next_attempt_at
            LIMIT greatest($4 - coalesce(busy.places, 0), 0)
              FOR UPDATE SKIP LOCKED) AS found
     ORDER BY turn, next_attempt_at LIMIT $5
)
UPDATE delivery
   SET token = token + 1, attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => $6)
  FROM due
 WHERE delivery.program_id = due.program_id AND delivery.delivery_id = due.delivery_id
RETURNING delivery.program_id, delivery.delivery_id, member_id, channel, target, content, attempts, token
"""


async def claim(
    connection: Connection,
    channels: Collection[str],
    busy: Mapping[str, int],
    *,
    at_once: int,
    per_target: int,
    lease_seconds: float,
) -> list[Delivery]:
    """Take at most ``at_once`` that are due through these channels; nobody else does for ``lease_seconds``.

    Of a target so many of its ``per_target`` places as are not ``busy``.
    """
    rows = await connection.fetch(
        CLAIM,
        list(channels),
        list(busy),
        list(busy.values()),
        per_target,
        at_once,
        lease_seconds,
    )
    return [Delivery(**{**row, "content": json.loads(row["content"])}) for row in rows]


class Attempt(NamedTuple):
    """How one attempt went, and what becomes of the delivery. ``outcome`` as in the table."""

    delivery: Delivery
    attempted_at: datetime
    milliseconds: int
    outcome: str
    response: str
    error: str
    verdict: Verdict


async def record(connection: Connection, attempts: Sequence[Attempt]) -> None:
    """Write down how these went. A delivery that somebody else has taken since is left to them."""
    await write(
        connection,
        Write(
            """UPDATE delivery
                  SET status = r.status, attempts = r.attempts, last_error = r.error,
                      next_attempt_at = now() + make_interval(secs => r.wait),
                      finished_at = CASE WHEN r.status <> 'pending' THEN now() END
                 FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::integer[], $6::text[],
                             $7::float8[]) AS r(program_id, delivery_id, token, status, attempts, error, wait)
                WHERE delivery.program_id = r.program_id AND delivery.delivery_id = r.delivery_id
                  AND delivery.token = r.token AND delivery.status = 'pending'""",
            columns(
                [
                    (
                        a.delivery.program_id,
                        a.delivery.delivery_id,
                        a.delivery.token,
                        a.verdict.status,
                        a.verdict.attempts,
                        a.error,
                        a.verdict.wait,
                    )
                    for a in attempts
                ]
            ),
        ),
        Write(
            """INSERT INTO delivery_attempt (program_id, delivery_id, token, attempted_at, milliseconds,
                                             outcome, response, error)
               SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::integer[],
                                    $6::text[], $7::text[], $8::text[])
                   ON CONFLICT DO NOTHING""",
            columns(
                [
                    (
                        a.delivery.program_id,
                        a.delivery.delivery_id,
                        a.delivery.token,
                        a.attempted_at,
                        a.milliseconds,
                        a.outcome,
                        a.response,
                        a.error,
                    )
                    for a in attempts
                ]
            ),
        ),
    )


async def replay(connection: Connection, program_id: UUID, delivery_id: UUID) -> bool:
    """Send it anew from now on, under the same id, with all attempts; False if there is none that ended."""
    done: str = await connection.execute(
        """UPDATE delivery
              SET status = 'pending', attempts = 0, token = token + 1, next_attempt_at = now(),
                  finished_at = NULL
            WHERE program_id = $1 AND delivery_id = $2 AND status <> 'pending'""",
        program_id,
        delivery_id,
    )
    return done != "UPDATE 0"


async def discard(connection: Connection, program_id: UUID, delivery_id: UUID) -> bool:
    """Send it never; False if there is no dead one of that id."""
    done: str = await connection.execute(
        """UPDATE delivery SET status = 'discarded', token = token + 1
            WHERE program_id = $1 AND delivery_id = $2 AND status = 'dead'""",
        program_id,
        delivery_id,
    )
    return done != "UPDATE 0"


class Backlog(NamedTuple):
    """What waits in one channel: how many are due, and for how many seconds the first of them has been."""

    due: int
    seconds: float


async def backlog(connection: Connection) -> dict[str, Backlog]:
    """What is due by now and not sent, by channel. What somebody is at is not counted."""
    rows = await connection.fetch(
        """SELECT channel, count(*) AS due,
                  extract(epoch FROM now() - min(next_attempt_at))::float8 AS seconds
             FROM delivery WHERE status = 'pending' AND next_attempt_at <= now() GROUP BY channel"""
    )
    return {row["channel"]: Backlog(row["due"], row["seconds"]) for row in rows}
