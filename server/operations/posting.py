"""Commands posted to the ledger: one transaction for all of them, repeated where that helps.

    lock    the program's rules (shared), members, request and business keys; in order
    load    in later statements, so that what is read is what is locked
    decide  the domain, one command after the other, each seeing its neighbours' effects; of many with
            pauses, so that the database's replies to other batches are heard
    save    one set-based statement a table

What the domain refuses never reaches SQL. A batch that names a member who is merged into another
is begun again as a whole, about the one that lives on, so that its commands keep their order.
When the connection breaks, at COMMIT too, the same commands run again: their request keys tell
what had been done.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from server.domain.books import Decision, Prepared
from server.domain.commands import Command, Merge
from server.domain.errors import Unavailable
from server.domain.members import Status
from server.domain.points import decide
from server.operations.batch import Ledger, changes, load, needs, prepared, sharing
from server.operations.collisions import ATTEMPTS, pause
from server.operations.hints import Hints
from server.operations.programs import Programs
from server.operations.underway import UnderWay
from server.operations.waiting import Replayed, Result
from server.operations.watch import Commits
from server.secrets import Keyring
from server.store import locks, merges
from server.store.database import Collided, Database, Undone
from server.store.ledger import MemberOf
from server.store.together import BY_KEY, write

OUTAGE_PATIENCE_SECONDS = 2.0
OUTAGE_PAUSE_SECONDS = 0.1
# Deciding so many takes 5 ms, and so many a third of one. To hear an answer and send what is next takes
# several turns of the event loop, and each of those as long as what is decided meanwhile.
MANY = 64
AT_ONCE = 4


class Posting:
    """Posts commands of any programs to their books."""

    def __init__(
        self,
        database: Database,
        programs: Programs,
        ledger_keys: Keyring,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
        watch: Commits,
        hints: Hints | None,
    ) -> None:
        self._database = database
        self._programs = programs
        self._keys = ledger_keys
        self._clock = clock
        self._new_id = new_id
        self._watch = watch
        self._hints = hints
        # Programs in which members share pools. Where nobody does, no purchase looks for any to lock.
        self._sharing: set[UUID] = set()

    async def post(self, commands: Sequence[Command], under_way: UnderWay | None = None) -> list[Result]:
        """Commit them; again after a collision, and again while the database comes back.

        Returns what each is told, in order. Raises GivenUp if what is before them ``under_way`` failed;
        Blocked if others keep locks that they need; Collided, Undone, Unavailable or what the database
        says if they can't be committed together.
        """
        loop = asyncio.get_running_loop()
        patience: float | None = None
        collisions = 0
        while True:
            try:
                return await self._commit(commands, under_way)
            except Exception as fault:
                if under_way is not None:
                    await under_way.failed()
                if isinstance(fault, Collided):
                    collisions += 1
                    if collisions == ATTEMPTS:
                        raise
                    self._watch.retries.add("collision")
                    await pause(collisions)
                elif isinstance(fault, Unavailable) and not isinstance(fault, Undone):
                    # From here: it may have waited for its turn until its connection was closed.
                    patience = patience or loop.time() + OUTAGE_PATIENCE_SECONDS
                    if loop.time() >= patience:
                        raise
                    self._watch.retries.add("outage")
                    await asyncio.sleep(OUTAGE_PAUSE_SECONDS)
                else:
                    raise

    async def held(self, commands: Sequence[Command]) -> list[bool]:
        """Of each, whether somebody else holds a lock that it needs, at this moment."""
        program_ids = {c.actor.program_id for c in commands}
        snapshots = await self._programs.at_hand(self._database, program_ids)
        needed = [needs([entry], self._sharing) for entry in prepared(commands, snapshots)]
        async with self._database.connection() as connection:
            return await locks.held(connection, needed)

    async def _commit(self, commands: Sequence[Command], under_way: UnderWay | None = None) -> list[Result]:
        program_ids = {c.actor.program_id for c in commands}
        snapshots = await self._programs.at_hand(self._database, program_ids)
        batch = prepared(commands, snapshots)
        # Another batch may find out more before this one looks.
        shared = frozenset(self._sharing)
        locking = locks.taking_all(needs(batch, shared))
        async with self._database.transaction(f"{BY_KEY}; {locks.SHORTLY}; {locking}") as connection:
            now = self._clock()
            batch, ledger = await load(
                connection, self._programs, snapshots, batch, now, self._new_id, self._keys
            )
            merged = _merged(batch, ledger)
            survivors = await merges.survivors(connection, merged) if merged else {}
            newly = sharing(ledger) - shared
            if not survivors and not newly:
                if under_way is not None:
                    await under_way.loaded()
                results, decisions = await _decided(batch, ledger)
                to_write = changes(decisions, now) if decisions else []
                if under_way is not None:
                    await under_way.turn()
                await write(connection, *to_write)
        if survivors or newly:
            # Their locks, or those of their pools, come first, so all begins anew; nothing was decided.
            self._sharing |= newly
            return await self._commit([_following(command, survivors) for command in commands], under_way)
        self._watch.committed(decisions, self._programs)
        if self._hints is not None:
            self._hints.committed(decisions)
        return results


def _merged(batch: Sequence[Prepared], ledger: Ledger) -> set[MemberOf]:
    """Members whom commands name and who are one with others by now."""
    return {
        (program_id, member_id)
        for program_id, command in ((p.command.actor.program_id, p.command) for p in batch)
        if not isinstance(command, Merge)
        for member_id in command.members
        if (member := ledger[program_id][0].members.get(member_id)) and member.status == Status.MERGED
    }


def _following(command: Command, survivors: Mapping[MemberOf, UUID]) -> Command:
    """The same request, as its caller put it, about who lives on; a merge is about those that it names."""
    if isinstance(command, Merge):
        return command
    program_id = command.actor.program_id
    return command.following({member: into for (p, member), into in survivors.items() if p == program_id})


async def _decided(
    batch: Sequence[Prepared], ledger: Ledger
) -> tuple[list[Result], list[tuple[UUID, Decision]]]:
    """What each command is told, and what there is to save. Waits for nothing."""
    results: list[Result] = []
    decisions: list[tuple[UUID, Decision]] = []
    pausing = len(batch) > MANY
    for place, entry in enumerate(batch):
        if pausing and place % AT_ONCE == 0:
            await asyncio.sleep(0)
        program_id = entry.command.actor.program_id
        books, terms = ledger[program_id]
        try:
            decided = decide(books, entry, terms)
        except Exception as refusal:  # noqa: BLE001 - a refusal, or a fault of ours in this one command
            results.append(refusal)
            continue
        if isinstance(decided, Decision):
            books.apply(decided)
            decisions.append((program_id, decided))
            results.append(decided.outcome)
        else:
            results.append(Replayed(decided))
    return results, decisions
