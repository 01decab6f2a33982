"""Summaries of members, read from Redis where they are recent enough for who asks.

Nobody depends on them. Whatever is missing, too old, overdue or out of reach is None here, and read from
PostgreSQL then; while Redis fails it is left alone for a second at a time.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from uuid import UUID

from redis.exceptions import RedisError

from server.domain.summary import Summary
from server.operations.coalesced import Gathered
from server.store import projections, summaries
from server.store.database import Database
from server.store.ledger import MemberOf
from server.store.summaries import PROJECTION, SummaryStore

PATIENCE_SECONDS = 0.1
REST_SECONDS = 1.0
# For how long a process may believe that what is read is still the same generation.
GENERATION_SECONDS = 2.0


class Summaries:
    """The summaries that are read at the moment. ``clock`` tells the time, aware, in UTC."""

    def __init__(self, database: Database, store: SummaryStore, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._gathered = Gathered(self._find)
        self._generation = UUID(int=0)
        self._known_until = 0.0
        self._resting_until = 0.0

    async def get(self, program_id: UUID, member_id: UUID, version: int) -> Summary | None:
        """The member at that version or a later one, as it is now; None if that can't be told from here."""
        if time.monotonic() < self._resting_until:
            return None
        text = await self._gathered.get((program_id, member_id))
        if text is None or summaries.version_in(text) < version:
            return None
        summary = summaries.summary_in(text)
        return summary if summary is not None and summary.holds_at(self._clock()) else None

    async def _find(self, members: Collection[MemberOf]) -> Mapping[MemberOf, bytes]:
        found = None
        try:
            if time.monotonic() >= self._known_until:
                await self._look()
            async with asyncio.timeout(PATIENCE_SECONDS):
                found = await self._store.read(self._generation, members)
        except (RedisError, OSError, TimeoutError):
            pass
        if found is None:
            self._resting_until = time.monotonic() + REST_SECONDS
            self._known_until = 0.0
        return found or {}

    async def _look(self) -> None:
        async with self._database.connection() as connection:
            standing = await projections.standing(connection, PROJECTION)
        self._generation = standing.generations.current
        self._known_until = time.monotonic() + GENERATION_SECONDS
