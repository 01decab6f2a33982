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
from server.store import log as event_log
from server.store.database import Connection
from server.store.figures import PROJECTION
from server.store.log import BEGINNING, LoggedEvent, Position

ROWS = 500
# As much is caught up with while nobody follows the log; more is done before.
LAST_STRETCHES = 4
DROPPED_AT_ONCE = 5000


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


class Build:
    """A generation that is counted from the beginning of the log, up to where the other one is."""

    name = PROJECTION

    def __init__(self) -> None:
        self._place = BEGINNING
        self._passed_over: set[Position] = set()

    async def begin(self, connection: Connection, building: UUID) -> int:
        """How many events there are to count."""
        live = await projections.place(connection, PROJECTION)
        return await projections.events_up_to(connection, live)

    async def step(self, connection: Connection, building: UUID) -> int:
        """Count some events, in the caller's transaction; how many rows of the log that was, 0 at the end."""
        # In this order: of what came before the place, dead letters are there to be seen.
        live = await projections.place(connection, PROJECTION)
        stretch = await event_log.read(connection, self._place, domain.EVENT_TYPES, ROWS)
        end = min(stretch.end, live)
        if end <= self._place:
            return 0
        dead = await projections.dead(connection, PROJECTION, self._place, end)
        events = [e for e in stretch.events if e.place <= end and e.place not in dead]
        await _count(connection, building, events)
        self._passed_over |= dead
        self._place = end
        return ROWS if stretch.more else len(stretch.events)

    async def finish(self, connection: Connection, building: UUID) -> bool:
        """Count what is left while nobody follows; False if that is still too much."""
        for _ in range(LAST_STRETCHES):
            if not await self.step(connection, building):
                break
        else:
            return False
        left = await projections.still_dead(connection, PROJECTION, self._passed_over)
        for place in self._passed_over - left:
            event = await event_log.at(connection, place)
            assert event is not None
            await _count(connection, building, [event])
        return True

    async def drop(self, connection: Connection, generation: UUID) -> bool:
        """Forget some of a generation; whether there is more."""
        return await figures.drop(connection, generation, DROPPED_AT_ONCE)
