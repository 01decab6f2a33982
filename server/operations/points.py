"""Points: who is meant, what is committed, and what stands in the books."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from server.domain.books import MemberState
from server.domain.commands import Command, Outcome
from server.domain.errors import FailedPrecondition, NotFound
from server.domain.ledger import Hold, Lot, Transaction, Wallet
from server.domain.members import Identifier, Status
from server.domain.program import Program
from server.domain.summary import Summary, summary_of
from server.operations.coalesced import Coalesced
from server.operations.committer import Committer
from server.operations.lines import Turn
from server.operations.programs import Programs
from server.operations.summaries import Summaries
from server.operations.wallets import members_as_due
from server.store import as_of, keys, merges, receipts, statements
from server.store import ledger as store
from server.store import members as member_store
from server.store.database import Connection, Database
from server.store.keys import NamedPurchase
from server.store.ledger import MemberOf
from server.store.sealing import Sealer

MAX_HOLDS = 500
MAX_RECEIPTS = 500


class Named(NamedTuple):
    """How a caller names a member: by its id, or by an identifier.

    An identifier stands there as its blind index: request hashes are stored, and a plain hash of an
    email is soon guessed.
    """

    program_id: UUID
    member_id: UUID | None
    kind: str = ""
    blind: bytes = b""

    @property
    def given(self) -> str:
        """Part of what makes a retry the same request."""
        return str(self.member_id) if self.member_id is not None else f"{self.kind}:{self.blind.hex()}"


class Seen(NamedTuple):
    """A state that a caller was told of: a member at a version, or later."""

    member_id: UUID
    version: int


@dataclass(frozen=True, slots=True)
class Statement:
    """A page of a statement; ``bounds`` are where chains ended when its first page was made."""

    opening: list[Wallet]
    rows: list[Transaction]
    closing: list[Wallet]
    bounds: Mapping[str, int]
    more: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """A row of the ledger and the lots it filled or drew from, each with the points it moved there."""

    transaction: Transaction
    lots: list[tuple[Lot, int]]


class Points:
    """What can be done with points. ``clock`` tells the time, aware, in UTC."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        programs: Programs,
        committer: Committer,
        summaries: Summaries,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._programs = programs
        self._committer = committer
        self._summaries = summaries
        self._clock = clock
        self._owners = Coalesced(database, member_store.owners)
        self._members = Coalesced(database, self._read_members)

    def named(self, program_id: UUID, name: UUID | Identifier) -> Named:
        """How the caller names a member, before anybody looks up whom that means."""
        if isinstance(name, UUID):
            return Named(program_id, name)
        return Named(program_id, None, *member_store.lookup(self._sealer, program_id, name))

    async def member(self, named: Named) -> UUID:
        """Whom that means. Raises NotFound for an unknown identifier; an unknown id the committer refuses."""
        if named.member_id is not None:
            return named.member_id
        member_id = await self._owners.get((named.program_id, named.kind, named.blind))
        if member_id is None:
            raise _no_member()
        return member_id

    async def commit(self, command: Command, deadline: float, turn: Turn | None = None) -> Outcome:
        """Earn or redeem; see Committer.submit for what it raises."""
        return await self._committer.submit(command, deadline, turn)

    async def purchase(self, program_id: UUID, receipt: NamedPurchase) -> tuple[UUID, UUID]:
        """Member and event of the one purchase with that receipt.

        Raises NotFound, FailedPrecondition (PURCHASE_AMBIGUOUS).
        """
        async with self._database.connection() as connection:
            found = await keys.purchases(connection, program_id, receipt)
        if not found:
            raise NotFound("PURCHASE_NOT_FOUND", "no purchase with that receipt number")
        if len(found) > 1:
            differ = keys.differing([purchase.key for purchase in found])
            raise FailedPrecondition(
                "PURCHASE_AMBIGUOUS",
                f"{len(found)} purchases have that receipt number; name the one by {', '.join(differ)}",
                {"purchases": str(len(found)), "differ": ",".join(differ)},
            )
        return found[0].member_id, found[0].event_id

    async def hold(self, program_id: UUID, hold_id: UUID) -> tuple[UUID, Hold]:
        """The member and the hold, as a decision taken now would find it. Raises NotFound."""
        async with self._database.connection() as connection:
            found = await store.get_hold(connection, program_id, hold_id)
        if found is None:
            raise NotFound("HOLD_NOT_FOUND", "no such hold in this program")
        return found

    async def holds(self, program_id: UUID, member_id: UUID) -> list[Hold]:
        """A member's open holds, the soonest to end first. Raises NotFound."""
        async with self._database.connection() as connection:
            found = await store.list_holds(connection, program_id, member_id, MAX_HOLDS)
            if not found and not await member_store.exists(connection, program_id, member_id):
                raise _no_member()
        return found

    async def balance(
        self, program_id: UUID, member_id: UUID, seen: Seen | None = None
    ) -> tuple[UUID, Program, Summary]:
        """The member, what it holds now, and the program whose terms that follows.

        For a member who was merged into another one, all this is of the one that lives on. The latest state;
        with ``seen`` one that is not older than that is enough. Raises NotFound.
        """
        if seen is not None and seen.member_id == member_id:
            summary = await self._summaries.get(program_id, *seen)
            if summary is not None:
                return member_id, await self._program(program_id), summary
        member = await self._members.get((program_id, member_id))
        while member is not None and member.status == Status.MERGED:
            async with self._database.connection() as connection:
                [member_id] = (await merges.survivors(connection, [(program_id, member_id)])).values()
            member = await self._members.get((program_id, member_id))
        if member is None:
            raise _no_member()
        return member_id, await self._program(program_id), summary_of(member)

    async def balance_as_of(
        self, program_id: UUID, member_id: UUID, moment: datetime
    ) -> tuple[Program, as_of.Held]:
        """What the ledger said at a moment that the member held, and the program. Raises NotFound."""
        async with self._database.connection() as connection:
            if not await member_store.exists(connection, program_id, member_id):
                raise _no_member()
            found = await as_of.held(connection, program_id, member_id, moment)
        return (await self._programs.at_hand(self._database, [program_id]))[program_id].program, found

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

    async def statement(
        self,
        program_id: UUID,
        member_id: UUID,
        since: datetime,
        until: datetime,
        size: int,
        *,
        bounds: Mapping[str, int] | None,
        after: statements.Position | None,
    ) -> Statement:
        """What a member had, what happened from ``since`` until before ``until``, and what was left.

        ``bounds`` and ``after`` are where the page before ended, None for the first. Raises NotFound.
        """
        program = (await self._programs.at_hand(self._database, [program_id]))[program_id].program
        async with self._database.connection() as connection:
            if not await member_store.exists(connection, program_id, member_id):
                raise _no_member()
            if bounds is None:
                bounds = await statements.bounds(connection, program_id, member_id)
            own = (connection, program_id, member_id, bounds)
            opening = await statements.figures_at(*own, since)
            rows = await statements.rows_between(*own, since, until, after, size + 1)
            closing = await statements.figures_at(*own, until)
        return Statement(
            [opening.get(t, Wallet(t)) for t in program.point_types],
            rows[:size],
            [closing.get(t, Wallet(t)) for t in program.point_types],
            bounds,
            len(rows) > size,
        )

    async def receipts(
        self, program_id: UUID, order_reference: str, store: str
    ) -> tuple[list[receipts.Receipt], bool]:
        """What is recorded under a receipt's number, latest first; whether there is more. "" is any store."""
        async with self._database.connection() as connection:
            found = await receipts.find(connection, program_id, order_reference, store, MAX_RECEIPTS + 1)
        return found[:MAX_RECEIPTS], len(found) > MAX_RECEIPTS

    async def explain(self, program_id: UUID, transaction_id: UUID) -> Explained:
        """A row with all that led to it. Raises NotFound."""
        async with self._database.connection() as connection:
            row = await _transaction(connection, program_id, transaction_id)
            return Explained(row, await store.lots_of(connection, row))

    async def _program(self, program_id: UUID) -> Program:
        # Wallets and tiers don't change with the rules, so a stale snapshot will do.
        return (await self._programs.at_hand(self._database, [program_id]))[program_id].program

    async def _read_members(
        self, connection: Connection, wanted: Collection[MemberOf]
    ) -> Mapping[MemberOf, MemberState]:
        return await members_as_due(connection, self._programs, wanted, self._clock())


async def _transaction(connection: Connection, program_id: UUID, transaction_id: UUID) -> Transaction:
    row = await store.get_transaction(connection, program_id, transaction_id)
    if row is None:
        raise NotFound("TRANSACTION_NOT_FOUND", "no such transaction in this program")
    return row


def _no_member() -> NotFound:
    return NotFound("MEMBER_NOT_FOUND", "no such member in this program")
