"""Points: who is meant, what is committed, and what stands in the books."""

from dataclasses import dataclass
from uuid import UUID

from server.domain.books import MemberState
from server.domain.commands import Command, Outcome
from server.domain.errors import NotFound
from server.domain.ledger import Lot, Transaction
from server.domain.members import Identifier
from server.domain.program import Program
from server.operations.committer import Committer
from server.operations.programs import Programs
from server.store import ledger as store
from server.store import members as member_store
from server.store.database import Connection, Database
from server.store.sealing import Sealer
from server.store.together import ask


@dataclass(frozen=True, slots=True)
class Explained:
    """A row of the ledger and the lots it filled or drew from, each with the points it moved there."""

    transaction: Transaction
    lots: list[tuple[Lot, int]]


class Points:
    """What can be done with points."""

    def __init__(self, database: Database, sealer: Sealer, programs: Programs, committer: Committer) -> None:
        self._database = database
        self._sealer = sealer
        self._programs = programs
        self._committer = committer

    async def who(self, program_id: UUID, named: UUID | Identifier) -> tuple[UUID, str]:
        """The member, and how the caller named it: part of what makes a retry the same request.

        An identifier stands there as its blind index: request hashes are stored, and a
        plain hash of an email is soon guessed. Raises NotFound for an unknown identifier;
        an unknown member_id is the committer's to refuse.
        """
        if isinstance(named, UUID):
            return named, str(named)
        lookup = member_store.lookup(self._sealer, program_id, named)
        async with self._database.connection() as connection:
            found = await member_store.resolve(connection, program_id, [lookup])
        if lookup not in found:
            raise _no_member()
        return found[lookup], f"{lookup[0]}:{lookup[1].hex()}"

    async def commit(self, command: Command, deadline: float) -> Outcome:
        """Earn or redeem; see Committer.submit for what it raises."""
        return await self._committer.submit(command, deadline)

    async def balance(self, program_id: UUID, member_id: UUID) -> tuple[Program, MemberState]:
        """The member's wallets and tier, and the program whose terms they follow. Raises NotFound."""
        async with self._database.connection() as connection:
            program = await self._program(connection, program_id)
            main = {program_id: program.main_point_type}
            (found,) = await ask(connection, store.members_known([(program_id, member_id)], main))
        member = found.get((program_id, member_id))
        if member is None:
            raise _no_member()
        return program, member

    async def transaction(self, program_id: UUID, transaction_id: UUID) -> Transaction:
        """One row of the ledger. Raises NotFound."""
        async with self._database.connection() as connection:
            return await _transaction(connection, program_id, transaction_id)

    async def history(
        self, program_id: UUID, member_id: UUID, size: int, *, before: UUID | None, point_type: str
    ) -> tuple[list[Transaction], bool]:
        """A member's rows before ``before``, newest first; whether there are more. Raises NotFound."""
        async with self._database.connection() as connection:
            rows = await store.list_transactions(
                connection, program_id, member_id, size + 1, before=before, point_type=point_type
            )
            if not rows and not await member_store.exists(connection, program_id, member_id):
                raise _no_member()
        return rows[:size], len(rows) > size

    async def explain(self, program_id: UUID, transaction_id: UUID) -> Explained:
        """A row with all that led to it. Raises NotFound."""
        async with self._database.connection() as connection:
            row = await _transaction(connection, program_id, transaction_id)
            return Explained(row, await store.lots_of(connection, row))

    async def _program(self, connection: Connection, program_id: UUID) -> Program:
        # Wallets and tiers don't change with the rules, so a stale snapshot will do.
        known = self._programs.known(program_id)
        return (known or await self._programs.current(connection, program_id)).program


async def _transaction(connection: Connection, program_id: UUID, transaction_id: UUID) -> Transaction:
    row = await store.get_transaction(connection, program_id, transaction_id)
    if row is None:
        raise NotFound("TRANSACTION_NOT_FOUND", "no such transaction in this program")
    return row


def _no_member() -> NotFound:
    return NotFound("MEMBER_NOT_FOUND", "no such member in this program")
