"""Keeping the record of what staff looked at."""

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from server.domain.actor import Actor
from server.ids import new_id
from server.store import audit
from server.store.database import Database


class Audit:
    """Writes access records, each durable on return."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def record(self, actor: Actor, method: str, member_ids: Sequence[UUID]) -> None:
        """That ``actor`` sees these members through ``method``. Raises Unavailable."""
        async with self._database.connection() as connection:
            await audit.insert(
                connection, new_id(), actor, method=method, member_ids=member_ids, recorded_at=self._clock()
            )
