"""Adjustments that take a second person, as they stand in the books."""

from uuid import UUID

from server.domain.adjustments import Adjustment, AdjustmentStatus
from server.domain.errors import NotFound
from server.store import adjustments as store
from server.store.database import Database


class Adjustments:
    """What can be asked of them. They are made and decided by the committer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, program_id: UUID, adjustment_id: UUID) -> Adjustment:
        """The adjustment, whatever became of it. Raises NotFound."""
        async with self._database.connection() as connection:
            found = await store.get(connection, program_id, adjustment_id)
        if found is None:
            raise NotFound("ADJUSTMENT_NOT_FOUND", "no such adjustment in this program")
        return found

    async def page(
        self,
        program_id: UUID,
        *,
        before: UUID | None,
        size: int,
        status: AdjustmentStatus | None,
        member_id: UUID | None,
    ) -> tuple[list[Adjustment], bool]:
        """At most ``size`` before that id, newest first, and whether there are more."""
        async with self._database.connection() as connection:
            found = await store.page(
                connection, program_id, before=before, size=size + 1, status=status, member_id=member_id
            )
        return found[:size], len(found) > size
