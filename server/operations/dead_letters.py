"""Dead letters: looked at, replayed, discarded. What replays them are workers."""

from typing import Any
from uuid import UUID

from server.domain.dead_letters import OPEN, DeadLetter, DeadLetterKind, DeadLetterStatus
from server.domain.errors import FailedPrecondition, NotFound
from server.store import dead_letters as store
from server.store import deliveries
from server.store.database import Connection, Database

# What a dead letter may be already for the same to be asked again.
REPLAYS = frozenset({DeadLetterStatus.REPLAYING, DeadLetterStatus.REPLAYED})
DISCARDS = frozenset({DeadLetterStatus.DISCARDED})


class DeadLetters:
    """What died in a program, of every kind."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, program_id: UUID, dead_letter_id: UUID) -> tuple[DeadLetter, dict[str, Any]]:
        """A dead letter and what it is about. Raises NotFound."""
        async with self._database.connection() as connection:
            return await _get(connection, program_id, dead_letter_id)

    async def page(
        self,
        program_id: UUID,
        *,
        before: UUID | None,
        size: int,
        status: DeadLetterStatus | None,
        consumer: str,
    ) -> tuple[list[DeadLetter], bool]:
        """At most ``size`` before that id, newest first, and whether there are more.

        Without a status those that are dead or being replayed.
        """
        statuses = OPEN if status is None else (status,)
        async with self._database.connection() as connection:
            found = await store.page(
                connection, program_id, before=before, size=size + 1, statuses=statuses, consumer=consumer
            )
        return found[:size], len(found) > size

    async def replay(self, program_id: UUID, dead_letter_id: UUID, by: str) -> DeadLetter:
        """Have it tried again soon. Raises NotFound, and FailedPrecondition if it was discarded."""
        async with self._database.transaction() as connection:
            found, _ = await _get(connection, program_id, dead_letter_id)
            if found.status is DeadLetterStatus.DEAD:
                if found.kind is DeadLetterKind.DELIVERY:
                    await deliveries.replay(connection, program_id, dead_letter_id)
                else:
                    status = DeadLetterStatus.REPLAYING
                    await store.settle(connection, program_id, dead_letter_id, status, by)
            return await _settled(connection, program_id, dead_letter_id, REPLAYS)

    async def discard(self, program_id: UUID, dead_letter_id: UUID, by: str) -> DeadLetter:
        """Leave it at that. Raises NotFound, and FailedPrecondition if it is being replayed or was."""
        async with self._database.transaction() as connection:
            found, _ = await _get(connection, program_id, dead_letter_id)
            if found.status is DeadLetterStatus.DEAD:
                if found.kind is DeadLetterKind.DELIVERY:
                    await deliveries.discard(connection, program_id, dead_letter_id)
                else:
                    status = DeadLetterStatus.DISCARDED
                    await store.settle(connection, program_id, dead_letter_id, status, by)
            return await _settled(connection, program_id, dead_letter_id, DISCARDS)


async def _get(
    connection: Connection, program_id: UUID, dead_letter_id: UUID
) -> tuple[DeadLetter, dict[str, Any]]:
    found = await store.get(connection, program_id, dead_letter_id)
    if found is None:
        raise NotFound("DEAD_LETTER_NOT_FOUND", "no such dead letter in this program")
    return found


async def _settled(
    connection: Connection, program_id: UUID, dead_letter_id: UUID, expected: frozenset[DeadLetterStatus]
) -> DeadLetter:
    """It as it is now. Of two who decide at once, the one who comes second may find it decided otherwise."""
    found, _ = await _get(connection, program_id, dead_letter_id)
    if found.status not in expected:
        raise FailedPrecondition(
            "DEAD_LETTER_SETTLED", f"the dead letter is {found.status} already", {"status": found.status}
        )
    return found
