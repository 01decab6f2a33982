"""Dead letters: events with which a consumer failed by themselves, and deliveries that were given up.

Each kind lies in its own table, and is listed here beside the others.
"""

import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.dead_letters import DeadLetter, DeadLetterKind, DeadLetterStatus
from server.store.database import Connection
from server.store.log import LoggedEvent, Position


class Source(NamedTuple):
    """Where the dead letters of one kind lie.

    ``query`` is for those of a program ($1), with what ``DeadLetter`` holds in that order, and the content.
    ``listed``: by which condition those of a status are found.
    """

    dead_letter_id: str
    consumer: str
    listed: Mapping[DeadLetterStatus, str]
    query: str


# A further kind is a line here and in ``DeadLetters`` of the operations.
SOURCES: Mapping[DeadLetterKind, Source] = MappingProxyType(
    {
        DeadLetterKind.EVENT: Source(
            "dead_letter_id",
            "consumer",
            {status: f"status = '{status}'" for status in DeadLetterStatus},
            """SELECT dead_letter_id, 'event', status, consumer, '', d.event_id, d.event_type, d.member_id,
                      attempts, error, died_at, settled_at, settled_by, payload
                 FROM dead_letter AS d JOIN event_log USING (epoch, xid, position)
                WHERE d.program_id = $1""",
        ),
        # Of those that are dead no more, when they died is kept.
        DeadLetterKind.DELIVERY: Source(
            "delivery_id",
            "channel",
            {
                DeadLetterStatus.DEAD: "status = 'dead'",
                DeadLetterStatus.REPLAYING: "status = 'pending' AND died_at IS NOT NULL",
                DeadLetterStatus.REPLAYED: "status = 'sent' AND died_at IS NOT NULL",
                DeadLetterStatus.DISCARDED: "status = 'discarded' AND died_at IS NOT NULL",
            },
            """SELECT delivery_id, 'delivery',
                      CASE status WHEN 'pending' THEN 'replaying' WHEN 'sent' THEN 'replayed' ELSE status END,
                      channel, target, NULL::uuid, '', member_id, attempts, last_error,
                      CASE status WHEN 'dead' THEN finished_at ELSE died_at END,
                      CASE status WHEN 'dead' THEN NULL ELSE finished_at END, '', content
                 FROM delivery
                WHERE program_id = $1 AND (status = 'dead' OR died_at IS NOT NULL)""",
        ),
    }
)


async def bury(
    connection: Connection, dead_letter_id: UUID, consumer: str, event: LoggedEvent, error: str
) -> None:
    """Keep an event for later, in the transaction that moves the consumer past it."""
    await connection.execute(
        """INSERT INTO dead_letter (dead_letter_id, consumer, epoch, xid, position, event_id, event_type,
                                    program_id, member_id, status, attempts, error)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'dead', 1, $10)
               ON CONFLICT (consumer, epoch, xid, position)
               DO UPDATE SET status = 'dead', attempts = dead_letter.attempts + 1, error = excluded.error,
                             died_at = now(), settled_at = NULL, settled_by = ''""",
        dead_letter_id,
        consumer,
        *event.place,
        event.event_id,
        event.event_type,
        event.program_id,
        event.member_id,
        error,
    )


async def next_replay(connection: Connection, consumer: str) -> tuple[UUID, Position] | None:
    """The first dead letter of the consumer that is to be replayed, None if none is."""
    row = await connection.fetchrow(
        """SELECT dead_letter_id, epoch, xid, position FROM dead_letter
            WHERE consumer = $1 AND status = 'replaying'
            ORDER BY epoch, xid, position LIMIT 1""",
        consumer,
    )
    return None if row is None else (row[0], Position(*row[1:]))


async def replayed(connection: Connection, dead_letter_id: UUID) -> None:
    """It was taken this time, in the transaction of what the consumer did."""
    await connection.execute(
        """UPDATE dead_letter SET status = 'replayed', settled_at = now()
            WHERE dead_letter_id = $1 AND status = 'replaying'""",
        dead_letter_id,
    )


async def died_again(connection: Connection, dead_letter_id: UUID, error: str) -> None:
    """The replay failed too."""
    await connection.execute(
        """UPDATE dead_letter SET status = 'dead', attempts = attempts + 1, error = $2, died_at = now()
            WHERE dead_letter_id = $1 AND status = 'replaying'""",
        dead_letter_id,
        error,
    )


async def get(
    connection: Connection, program_id: UUID, dead_letter_id: UUID
) -> tuple[DeadLetter, dict[str, Any]] | None:
    """A dead letter and what it is about, None if the program has none of that id."""
    for source in SOURCES.values():
        row = await connection.fetchrow(
            f"{source.query} AND {source.dead_letter_id} = $2", program_id, dead_letter_id
        )
        if row is not None:
            return _dead_letter(row), json.loads(row[-1])
    return None


async def page(
    connection: Connection,
    program_id: UUID,
    *,
    before: UUID | None,
    size: int,
    statuses: Collection[DeadLetterStatus],
    consumer: str,
) -> list[DeadLetter]:
    """At most ``size`` before that id, newest first. ``consumer``: "" for any."""
    parts = [
        f"""({source.query} AND {source.listed[status]} AND ($3 = '' OR {source.consumer} = $3)
               AND ($2::uuid IS NULL OR {source.dead_letter_id} < $2)
              ORDER BY 1 DESC LIMIT $4)"""
        for source in SOURCES.values()
        for status in statuses
    ]
    rows = await connection.fetch(
        f"{' UNION ALL '.join(parts)} ORDER BY 1 DESC LIMIT $4", program_id, before, consumer, size
    )
    return [_dead_letter(row) for row in rows]


async def settle(
    connection: Connection, program_id: UUID, dead_letter_id: UUID, status: DeadLetterStatus, by: str
) -> bool:
    """Have a dead event replayed or discarded; False if it is not dead."""
    done: str = await connection.execute(
        """UPDATE dead_letter
              SET status = $3, settled_by = $4, settled_at = CASE $3 WHEN 'discarded' THEN now() END
            WHERE program_id = $1 AND dead_letter_id = $2 AND status = 'dead'""",
        program_id,
        dead_letter_id,
        status,
        by,
    )
    return done != "UPDATE 0"


async def count_dead(connection: Connection) -> dict[str, int]:
    """How many events wait for somebody to decide, by consumer."""
    rows = await connection.fetch(
        "SELECT consumer, count(*) FROM dead_letter WHERE status = 'dead' GROUP BY consumer"
    )
    return dict(map(tuple, rows))


def _dead_letter(row: Any) -> DeadLetter:
    found = DeadLetter._make(row[:-1])
    return found._replace(kind=DeadLetterKind(found.kind), status=DeadLetterStatus(found.status))
