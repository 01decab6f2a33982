"""History: the timelines of all members, noted from the event log.

What is noted of an event is whose timeline it is in, where and how, in the transaction that moves on in
the log. The log says it all, also who sat in a household then, so noting it again comes to the same.
"""

from collections.abc import Sequence
from uuid import UUID

from server.domain import timeline as domain
from server.store import projections, timeline
from server.store.database import Connection
from server.store.log import LoggedEvent
from server.store.timeline import PROJECTION
from workers.projections.from_log import FromLog


async def handle(connection: Connection, events: Sequence[LoggedEvent]) -> None:
    """Note what happened."""
    generations = await projections.following(connection, PROJECTION)
    await _note(connection, generations.current, events)


async def _note(connection: Connection, generation: UUID, events: Sequence[LoggedEvent]) -> None:
    seats = await timeline.seats(connection, {(e.program_id, e.member_id) for e in events})
    await timeline.add(connection, generation, domain.entries(events, domain.pools(seats)))


class Build(FromLog):
    """A generation that is noted again."""

    name = PROJECTION
    event_types = domain.EVENT_TYPES

    async def take(self, connection: Connection, generation: UUID, events: Sequence[LoggedEvent]) -> None:
        """Note them."""
        await _note(connection, generation, events)

    async def forget(self, connection: Connection, generation: UUID, most: int) -> bool:
        """Forget some entries."""
        return await timeline.drop(connection, generation, most)
