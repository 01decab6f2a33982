"""Entries that wait for a person, as they stand in the books."""

from uuid import UUID

from server.domain.errors import NotFound
from server.domain.reviews import Review, ReviewStatus
from server.store import reviews as store
from server.store.database import Database


class Reviews:
    """What can be asked of them. They are put aside and decided by the committer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, program_id: UUID, review_id: UUID) -> Review:
        """The entry, whatever became of it. Raises NotFound."""
        async with self._database.connection() as connection:
            found = await store.get(connection, program_id, review_id)
        if found is None:
            raise NotFound("REVIEW_NOT_FOUND", "no such entry in this program")
        return found

    async def page(
        self,
        program_id: UUID,
        *,
        before: UUID | None,
        size: int,
        status: ReviewStatus | None,
        member_id: UUID | None,
    ) -> tuple[list[Review], bool]:
        """At most ``size`` before that id, newest first, and whether there are more."""
        async with self._database.connection() as connection:
            found = await store.page(
                connection, program_id, before=before, size=size + 1, status=status, member_id=member_id
            )
        return found[:size], len(found) > size
