"""The programs that this process serves, each with its rules compiled.

A snapshot is right as long as its revision is the program's. Every batch compares the
two under the program's shared lock, so no two processes ever pay by different rules; the
hint that publishing sends through Redis only means that the reload has mostly happened
before a purchase would have to wait for it.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from server.domain.errors import NotFound
from server.domain.program import Program
from server.domain.rules.compile import RuleSet
from server.store import programs as store
from server.store import rules as rule_store
from server.store.database import Connection, Database
from server.store.together import ask


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A program and its rules in force at one revision."""

    program: Program
    rules: RuleSet
    revision: int


class Programs:
    """Snapshots by program, reloaded when their revision is stale."""

    def __init__(self) -> None:
        self._snapshots: dict[UUID, Snapshot] = {}
        self._loading: dict[UUID, asyncio.Lock] = {}

    def known(self, program_id: UUID) -> Snapshot | None:
        """The snapshot at hand, possibly stale, without asking the database."""
        return self._snapshots.get(program_id)

    async def at_hand(self, database: Database, program_ids: Collection[UUID]) -> dict[UUID, Snapshot]:
        """Snapshots, possibly stale; asks only for programs never seen. Raises NotFound."""
        missing = {p for p in program_ids if p not in self._snapshots}
        if missing:
            async with database.connection() as connection:
                await self.all_current(connection, missing)
        return {p: self._snapshots[p] for p in program_ids}

    async def current(self, connection: Connection, program_id: UUID) -> Snapshot:
        """The snapshot of the revision that this connection's next statement sees."""
        return (await self.all_current(connection, {program_id}))[program_id]

    async def all_current(self, connection: Connection, program_ids: set[UUID]) -> dict[UUID, Snapshot]:
        """The same for several programs by one query, when none is stale."""
        (revisions,) = await ask(connection, store.revisions_of(list(program_ids)))
        found = {}
        for program_id in program_ids:
            revision = revisions.get(program_id)
            if revision is None:
                raise NotFound("PROGRAM_NOT_FOUND", "no such program")
            snapshot = self._snapshots.get(program_id)
            if snapshot is None or snapshot.revision != revision:
                snapshot = await self._load(connection, program_id, revision)
            found[program_id] = snapshot
        return found

    async def _load(self, connection: Connection, program_id: UUID, revision: int) -> Snapshot:
        # Compiling thousands of rules takes a while: once per revision, not once per batch,
        # and beside the event loop.
        async with self._loading.setdefault(program_id, asyncio.Lock()):
            snapshot = self._snapshots.get(program_id)
            if snapshot is not None and snapshot.revision == revision:
                return snapshot
            program = await store.get(connection, program_id)
            if program is None:
                raise NotFound("PROGRAM_NOT_FOUND", "no such program")
            definitions = await rule_store.active(connection, program_id)
            rules = await asyncio.to_thread(RuleSet.compile, program, definitions)
            snapshot = Snapshot(program, rules, revision)
            self._snapshots[program_id] = snapshot
            return snapshot
