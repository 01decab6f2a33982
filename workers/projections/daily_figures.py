"""Daily figures by day, store and rule, counted from the event log.

What is counted is in PostgreSQL, in the transaction that moves on in the log: each event once. What an
event moved stands in the rows of the ledger that it names, which never change; so counting again from the
beginning comes to the same.
"""

from collections.abc import Sequence
from uuid import UUID

from server.domain import figures as domain
from server.domain.figures import Happened
from server.store import figures, projections
from server.store.database import Connection
from server.store.figures import PROJECTION
from server.store.log import LoggedEvent
from workers.projections.from_log import FromLog


async def handle(connection: Connection, events: Sequence[LoggedEvent]) -> None:
    """Count what happened."""
    generations = await projections.following(connection, PROJECTION)
    await _count(connection, generations.current, events)


async def _count(connection: Connection, generation: UUID, events: Sequence[LoggedEvent]) -> None:
    named = [
        (e.program_id, e.member_id, transaction_id)
        for e in events
        for transaction_id in domain.transaction_ids(e.payload)
    ]
    rows = await figures.rows(connection, named)
    zones = await figures.zones(connection, {e.program_id for e in events})
    happened = [
        Happened(
            e.event_type,
            e.program_id,
            e.occurred_at.astimezone(zones[e.program_id]).date(),
            e.payload,
            tuple(rows[transaction_id] for transaction_id in domain.transaction_ids(e.payload)),
        )
        for e in events
    ]
    await figures.add(connection, generation, domain.figures(happened))


class Build(FromLog):
    """A generation that is counted again."""

    name = PROJECTION
    event_types = domain.EVENT_TYPES

    async def take(self, connection: Connection, generation: UUID, events: Sequence[LoggedEvent]) -> None:
        """Count them."""
        await _count(connection, generation, events)

    async def forget(self, connection: Connection, generation: UUID, most: int) -> bool:
        """Forget some figures."""
        return await figures.drop(connection, generation, most)
