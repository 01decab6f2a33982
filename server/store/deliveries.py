"""Deliveries: wanted in somebody's transaction, taken under a lease, and what came of it."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.deliveries import Delivery, DeliveryStatus, Verdict, Wanted
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
# as much as one with a single row. A target belongs to one channel, which any of its rows tells.
TARGETS = """targets AS (
    (SELECT target FROM delivery WHERE status = 'pending' ORDER BY target LIMIT 1)
    UNION ALL
    SELECT (SELECT d.target FROM delivery d
             WHERE d.status = 'pending' AND d.target > t.target ORDER BY d.target LIMIT 1)
      FROM targets t WHERE t.target IS NOT NULL
)"""
# A few of each. Whoever is at a row has put it off until their lease ends, and raised its token: who
# comes back later than that finds it changed.
CLAIM = f"""
WITH RECURSIVE {TARGETS}, due AS (
    SELECT found.program_id, found.delivery_id,
           row_number() OVER (PARTITION BY targets.target ORDER BY found.next_attempt_at) AS turn,
           found.next_attempt_at
      FROM targets
      LEFT JOIN unnest($2::text[], $3::integer[]) AS busy(target, places) USING (target)
     CROSS JOIN LATERAL (
           SELECT channel FROM delivery WHERE status = 'pending' AND target = targets.target LIMIT 1) AS its
     CROSS JOIN LATERAL (
           SELECT program_id, delivery_id, next_attempt_at FROM delivery
            WHERE status = 'pending' AND target = targets.target AND its.channel = ANY($1::text[])
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
RETURNING delivery.program_id, delivery.delivery_id, member_id, channel, target, content, attempts, token,
          CASE WHEN attempts = 1 THEN 0 ELSE
               least(attempts - 1, (SELECT count(*)::integer FROM delivery_attempt AS a
                                     WHERE a.program_id = delivery.program_id
                                       AND a.delivery_id = delivery.delivery_id AND a.outcome = 'temporary'))
          END AS failures
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
                  finished_at = NULL, died_at = CASE status WHEN 'dead' THEN finished_at ELSE died_at END
            WHERE program_id = $1 AND delivery_id = $2 AND status <> 'pending'""",
        program_id,
        delivery_id,
    )
    return done != "UPDATE 0"


async def discard(connection: Connection, program_id: UUID, delivery_id: UUID) -> bool:
    """Send it never; False if there is no dead one of that id."""
    done: str = await connection.execute(
        """UPDATE delivery
              SET status = 'discarded', token = token + 1, finished_at = now(), died_at = finished_at
            WHERE program_id = $1 AND delivery_id = $2 AND status = 'dead'""",
        program_id,
        delivery_id,
    )
    return done != "UPDATE 0"


async def forget(
    connection: Connection,
    program_id: UUID,
    channels: Collection[str],
    before: datetime,
    after: UUID,
    most: int,
) -> tuple[int, UUID | None]:
    """Drop at most ``most`` that went through these channels and were made before then, with their attempts.

    Looks at those beyond the id ``after``, in their order; how many it dropped, and the last, None if it
    found none. What is pending or dead stays.
    """
    row = await connection.fetchrow(
        """WITH old AS (
               SELECT program_id, delivery_id FROM delivery
                WHERE program_id = $1 AND delivery_id > $2 AND delivery_id < $3
                  AND channel = ANY($4::text[]) AND status IN ('sent', 'discarded') AND finished_at < $5
                ORDER BY delivery_id LIMIT $6 FOR UPDATE
           ), attempts AS (
               DELETE FROM delivery_attempt AS a USING old
                WHERE a.program_id = old.program_id AND a.delivery_id = old.delivery_id
           ), gone AS (
               DELETE FROM delivery AS d USING old
                WHERE d.program_id = old.program_id AND d.delivery_id = old.delivery_id
               RETURNING d.delivery_id
           )
           SELECT count(*), (array_agg(delivery_id ORDER BY delivery_id DESC))[1] FROM gone""",
        program_id,
        after,
        # Ids begin with the milliseconds of their making.
        UUID(int=int(before.timestamp() * 1000) << 80),
        list(channels),
        before,
        most,
    )
    assert row is not None
    return row[0], row[1]


async def lapse(connection: Connection, program_id: UUID, after: timedelta, most: int) -> int:
    """Give up at most so many that are overdue for so long, and whose channel nobody had open since."""
    done: str = await connection.execute(
        """UPDATE delivery
              SET status = 'dead', token = token + 1, finished_at = now(),
                  last_error = 'no worker had the channel open'
            WHERE ctid = ANY(ARRAY(
                  SELECT ctid FROM delivery AS d
                   WHERE program_id = $1 AND status = 'pending' AND next_attempt_at < now() - $2::interval
                     AND NOT EXISTS (SELECT FROM open_channel AS o
                                      WHERE o.channel = d.channel AND o.seen_at > now() - $2::interval)
                   LIMIT $3 FOR UPDATE SKIP LOCKED))""",
        program_id,
        after,
        most,
    )
    return int(done.removeprefix("UPDATE "))


class Tried(NamedTuple):
    """How one attempt went, as it was written down."""

    attempted_at: datetime
    milliseconds: int
    outcome: str
    response: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A delivery as it stands, with what is known of its attempts, the first one first.

    ``next_attempt_at`` says something while it is pending: when it is tried next, or until when somebody
    has it.
    """

    program_id: UUID
    delivery_id: UUID
    member_id: UUID
    channel: str
    target: str
    content: Mapping[str, Any]
    status: DeliveryStatus
    attempts: int
    next_attempt_at: datetime
    last_error: str
    created_at: datetime
    finished_at: datetime | None
    tried: tuple[Tried, ...]


COLUMNS = """program_id, delivery_id, member_id, channel, target, content, status, attempts, next_attempt_at,
             last_error, created_at, finished_at"""


async def get(connection: Connection, program_id: UUID, delivery_id: UUID) -> Stored | None:
    """One delivery, None if the program has none of that id."""
    rows = await connection.fetch(
        f"SELECT {COLUMNS} FROM delivery WHERE program_id = $1 AND delivery_id = $2", program_id, delivery_id
    )
    found = await _stored(connection, program_id, rows)
    return found[0] if found else None


async def page(
    connection: Connection,
    program_id: UUID,
    *,
    target: str | None = None,
    before: UUID | None = None,
    status: DeliveryStatus | None = None,
    size: int,
) -> list[Stored]:
    """At most ``size`` deliveries before that id, newest first: of one target, or of all."""
    rows = await connection.fetch(
        f"""SELECT {COLUMNS} FROM delivery
             WHERE program_id = $1 AND ($2::text IS NULL OR target = $2)
               AND ($3::uuid IS NULL OR delivery_id < $3) AND ($4::text IS NULL OR status = $4)
             ORDER BY delivery_id DESC LIMIT $5""",
        program_id,
        target,
        before,
        status,
        size,
    )
    return await _stored(connection, program_id, rows)


async def _stored(connection: Connection, program_id: UUID, rows: Sequence[Any]) -> list[Stored]:
    attempts = await connection.fetch(
        """SELECT delivery_id, attempted_at, milliseconds, outcome, response, error FROM delivery_attempt
            WHERE program_id = $1 AND delivery_id = ANY($2) ORDER BY token""",
        program_id,
        [row["delivery_id"] for row in rows],
    )
    tried: defaultdict[UUID, list[Tried]] = defaultdict(list)
    for delivery_id, *how in attempts:
        tried[delivery_id].append(Tried(*how))
    return [
        Stored(
            **{
                **row,
                "content": json.loads(row["content"]),
                "status": DeliveryStatus(row["status"]),
                "tried": tuple(tried[row["delivery_id"]]),
            }
        )
        for row in rows
    ]


class Backlog(NamedTuple):
    """What waits in one channel: how many are due, and for how many seconds the first of them has been.

    Of one target 10,000 are counted at most. ``dead`` were given up and wait for somebody to decide.
    """

    due: int
    seconds: float
    dead: int


COUNTED = 10_000
BACKLOG = f"""
WITH RECURSIVE {TARGETS}
SELECT channel, sum(due)::bigint, coalesce(extract(epoch FROM now() - min(since)), 0)::float8,
       sum(dead)::bigint
  FROM (SELECT waiting.channel, waiting.due, waiting.since, 0 AS dead
          FROM targets CROSS JOIN LATERAL (
               SELECT channel, count(*) AS due, min(next_attempt_at) AS since
                 FROM (SELECT channel, next_attempt_at FROM delivery
                        WHERE status = 'pending' AND target = targets.target AND next_attempt_at <= now()
                        ORDER BY next_attempt_at LIMIT {COUNTED}) AS first
                GROUP BY channel) AS waiting
         UNION ALL
        SELECT channel, 0, NULL, count(*) FROM delivery WHERE status = 'dead' GROUP BY channel) AS found
 GROUP BY channel
"""


async def backlog(connection: Connection) -> dict[str, Backlog]:
    """What is due by now and not sent, and what is dead, by channel. What somebody is at is not counted."""
    return {row[0]: Backlog(*row[1:]) for row in await connection.fetch(BACKLOG)}
