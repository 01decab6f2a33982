"""A read model in PostgreSQL that is made from the event log alone, and how it is made again."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from uuid import UUID

from server.store import log as event_log
from server.store import projections
from server.store.database import Connection
from server.store.log import BEGINNING, LoggedEvent, Position

ROWS = 500
# As much is caught up with while nobody follows the log; more is done before.
LAST_STRETCHES = 4
DROPPED_AT_ONCE = 5000


class FromLog(ABC):
    """A generation that is made from the beginning of the log, up to where the other one is.

    ``event_types``: those that it follows.
    """

    name: str
    event_types: Collection[str]

    def __init__(self) -> None:
        self._place = BEGINNING
        self._passed_over: set[Position] = set()

    @abstractmethod
    async def take(self, connection: Connection, generation: UUID, events: Sequence[LoggedEvent]) -> None:
        """Take these in, as whoever follows the log does. Those of one member come in their order."""

    @abstractmethod
    async def forget(self, connection: Connection, generation: UUID, most: int) -> bool:
        """Forget at most so many rows of a generation; whether there are more."""

    async def begin(self, connection: Connection, building: UUID) -> int:
        """How many events there are to take."""
        live = await projections.place(connection, self.name)
        return await projections.events_up_to(connection, live)

    async def step(self, connection: Connection, building: UUID) -> int:
        """Take some events, in the caller's transaction; how many rows of the log that was, 0 at the end."""
        # In this order: of what came before the place, dead letters are there to be seen.
        live = await projections.place(connection, self.name)
        stretch = await event_log.read(connection, self._place, self.event_types, ROWS)
        end = min(stretch.end, live)
        if end <= self._place:
            return 0
        dead = await projections.dead(connection, self.name, self._place, end)
        events = [e for e in stretch.events if e.place <= end and e.place not in dead]
        await self.take(connection, building, events)
        self._passed_over |= dead
        self._place = end
        return ROWS if stretch.more else len(stretch.events)

    async def finish(self, connection: Connection, building: UUID) -> bool:
        """Take what is left while nobody follows; False if that is still too much."""
        for _ in range(LAST_STRETCHES):
            if not await self.step(connection, building):
                break
        else:
            return False
        left = await projections.still_dead(connection, self.name, self._passed_over)
        for place in self._passed_over - left:
            event = await event_log.at(connection, place)
            assert event is not None
            await self.take(connection, building, [event])
        return True

    async def drop(self, connection: Connection, generation: UUID) -> bool:
        """Forget some of a generation; whether there is more."""
        return await self.forget(connection, generation, DROPPED_AT_ONCE)
