"""Dead letters: events with which a consumer failed by themselves, kept until somebody has them replayed."""

from uuid import UUID

from server.store.database import Connection
from server.store.log import LoggedEvent, Position


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
