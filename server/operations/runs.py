"""Runs: what the clock brings is done for those whom nobody calls about, in batches of members.

Decisions and reads see to what is due by themselves, so a run never changes what a member may
spend: it brings the books, the event log and the warnings up to date. It keeps no note of how far
it has come. The wallets say what is left to do, under the same locks that everybody takes: a run
that was killed goes on when the next one starts, and what two runs both find is done once.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import structlog

from server.domain.books import Books, Effects, Terms
from server.domain.due import caught_up, reviewed
from server.domain.errors import Unavailable
from server.domain.events import PointsExpiring, TierChanged
from server.domain.program import Program
from server.domain.warnings import Window, spans, warnings, windows
from server.operations.collisions import repeated
from server.operations.hints import Hints
from server.operations.programs import Programs
from server.operations.watch import MOVEMENTS, Commits
from server.secrets import Keyring
from server.store import due, events, ledger, locks
from server.store.database import Blocked, Connection, Database, Undone, overlong
from server.store.together import ask, write
from telemetry.metrics import Metrics

# Purchases of these members wait until the batch is committed, and all calls of a server while it is
# decided: 0.4 ms a member. Larger ones are hardly faster.
BATCH_SIZE = 25
PAGE_SIZE = 5000
WARNED, TIER = "warned", "tier"

log = structlog.get_logger()


@dataclass(slots=True)
class Done:
    """What runs did, or would do. By wallet and movement the points and the members that it concerned.

    Members who came into another tier are counted under its name and ``tier``.
    ``seen``: so many members were looked at. ``failed``: those that could not be done.
    """

    seen: int = 0
    points: Counter[tuple[str, str]] = field(default_factory=Counter)
    members: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: list[UUID] = field(default_factory=list)

    def add(self, other: "Done") -> None:
        """Count that in."""
        self.seen += other.seen
        self.points.update(other.points)
        self.members.update(other.members)
        self.failed += other.failed


Work = Callable[[Sequence[UUID]], Awaitable[Done]]


class Runs:
    """Runs over the members of one program.

    With ``dry_run`` the same is found and decided, and nothing is locked or written.
    """

    def __init__(
        self,
        database: Database,
        programs: Programs,
        ledger_keys: Keyring,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
        *,
        watch: Commits | None = None,
        hints: Hints | None = None,
        batch_size: int = BATCH_SIZE,
        dry_run: bool = False,
    ) -> None:
        self._database = database
        self._programs = programs
        self._keys = ledger_keys
        self._clock = clock
        self._new_id = new_id
        self._watch = watch or Commits(Metrics())
        self._hints = hints
        self._batch_size = batch_size
        self._dry_run = dry_run

    async def catch_up(self, program_id: UUID) -> AsyncGenerator[Done, None]:
        """Activate, release and expire what is due by now; yields what each batch did.

        Raises Unavailable if the database goes away.
        """
        until, place = self._clock(), due.BEGINNING

        async def work(members: Sequence[UUID]) -> Done:
            return await self._catch_up(program_id, members)

        while True:
            async with self._database.connection() as connection:
                found = await due.due_members(connection, program_id, until, place, self._batch_size)
            if not found:
                return
            place = found[-1]
            yield await self._surely([member_id for _, member_id in found], work)

    async def warn(self, program_id: UUID) -> AsyncGenerator[Done, None]:
        """Tell members of points that will expire, once a day; yields what each batch did.

        Raises Unavailable if the database goes away; the next pass then tells the rest.
        """
        async with self._database.connection() as connection:
            program = (await self._programs.current(connection, program_id)).program
            today = program.business_date(self._clock())
            wanted = windows(program, await due.warned_on(connection, program_id), today)
        if not wanted:
            return

        async def work(members: Sequence[UUID]) -> Done:
            return await self._warn(program_id, members, wanted)

        async for members in self._to_warn(program, wanted):
            yield await self._surely(members, work)
        if not self._dry_run:
            async with self._database.connection() as connection:
                await due.set_warned_on(connection, program_id, today)

    async def review(self, program_id: UUID) -> AsyncGenerator[Done, None]:
        """Put members into the tier that their lifetime reaches by now; yields what each batch did.

        Raises Unavailable if the database goes away.
        """
        async with self._database.connection() as connection:
            program = (await self._programs.current(connection, program_id)).program

        async def work(members: Sequence[UUID]) -> Done:
            return await self._review(program_id, members)

        place: UUID | None = UUID(int=0)
        while place is not None:
            async with self._database.connection() as connection:
                place, members = await due.misplaced(connection, program, place, PAGE_SIZE)
            for first in range(0, len(members), self._batch_size):
                yield await self._surely(members[first : first + self._batch_size], work)

    async def _to_warn(self, program: Program, wanted: Sequence[Window]) -> AsyncIterator[list[UUID]]:
        """Batches of members who have something to be told."""
        page: due.Page | None = due.FIRST_PAGE
        within = spans(program, wanted)
        while page is not None:
            async with self._database.connection() as connection:
                page, members = await due.to_warn(connection, program.program_id, within, page, PAGE_SIZE)
            for first in range(0, len(members), self._batch_size):
                yield members[first : first + self._batch_size]

    async def _surely(self, members: Sequence[UUID], work: Work) -> Done:
        """Do the work for all of them but those with whom it fails."""
        try:
            return await work(members)
        except Exception as fault:
            # Whatever it was, it ends with the member it is about, who is logged and counted as failed.
            if isinstance(fault, Unavailable) and not isinstance(fault, Blocked):
                raise
            if len(members) == 1:
                log.error("run_failed", member_id=str(members[0]), fault=type(fault).__name__)
                return Done(1, failed=list(members))
        half = len(members) // 2
        done = await self._surely(members[:half], work)
        done.add(await self._surely(members[half:], work))
        return done

    @repeated
    async def _catch_up(self, program_id: UUID, members: Sequence[UUID]) -> Done:
        async with self._holding(program_id, members) as connection:
            books, terms = await self._load(connection, program_id, members)
            effects = caught_up(books, terms)
            if effects.members and not self._dry_run:
                await write(connection, *ledger.save([(program_id, effects)]), events.append(effects.events))
        self._told(program_id, effects)
        return _moved(len(members), effects)

    @repeated
    async def _review(self, program_id: UUID, members: Sequence[UUID]) -> Done:
        async with self._holding(program_id, members) as connection:
            books, terms = await self._load(connection, program_id, members)
            effects = reviewed(books, terms)
            if effects.members and not self._dry_run:
                await write(connection, *ledger.save([(program_id, effects)]), events.append(effects.events))
        self._told(program_id, effects)
        return _moved(len(members), effects)

    def _told(self, program_id: UUID, effects: Effects) -> None:
        """Tell who listens what is in the books by now."""
        if self._dry_run:
            return
        self._watch.committed([(program_id, effects)], self._programs)
        if self._hints is not None:
            self._hints.committed([(program_id, effects)])

    @repeated
    async def _warn(self, program_id: UUID, members: Sequence[UUID], wanted: Sequence[Window]) -> Done:
        async with self._holding(program_id, members) as connection:
            books, terms = await self._load(connection, program_id, members, whole=True)
            owners = [(program_id, member_id) for member_id in books.members]
            today = terms.program.business_date(terms.now)
            (told,) = await ask(connection, due.told(owners, today))
            ahead = [
                warning
                for member_id, member in books.members.items()
                for warning in warnings(
                    member_id, member, wanted, told.get((program_id, member_id), ()), terms
                )
            ]
            if ahead and not self._dry_run:
                await write(connection, due.record_warnings(ahead), events.append(ahead))
        if self._hints is not None and not self._dry_run:
            for warning in ahead:
                self._hints.changed(program_id, warning.member_id, books.members[warning.member_id].version)
        return _warned(len(members), ahead)

    @asynccontextmanager
    async def _holding(self, program_id: UUID, members: Collection[UUID]) -> AsyncIterator[Connection]:
        """A transaction that holds the locks of these members, and of which there is one at a time.

        Raises Blocked if somebody else keeps the lock of one of them.
        """
        if self._dry_run:
            async with self._database.connection() as connection:
                yield connection
            return
        theirs = False
        try:
            async with self._database.transaction() as connection:
                await connection.execute(locks.taking([], shared=[locks.program_lock(program_id)]))
                await locks.take(connection, [locks.run_lock(program_id)])
                theirs = True
                await connection.execute(locks.SHORTLY)
                await locks.take(connection, sorted(locks.member_lock(member_id) for member_id in members))
                yield connection
        except Blocked:
            if theirs:
                raise
            raise overlong(Undone) from None  # by another run or a publication, which is nobody's among these

    async def _load(
        self, connection: Connection, program_id: UUID, members: Collection[UUID], *, whole: bool = False
    ) -> tuple[Books, Terms]:
        """The members with the open lots and holds of wallets in which something is due, or with all."""
        snapshot = await self._programs.current(connection, program_id)
        program, now = snapshot.program, self._clock()
        wallets = ledger.wallets_of({(program_id, member_id): whole for member_id in members}, now)
        states, lots, holds = await ask(
            connection,
            ledger.members_known(wallets, {program_id: program.main_point_type}),
            ledger.lots_open(wallets),
            ledger.holds_open(wallets),
        )
        found = {
            owner[1]: state._replace(lots=lots.get(owner, {}), holds=holds.get(owner, {}))
            for owner, state in states.items()
        }
        keys = self._keys
        terms = Terms(program, snapshot.rules, snapshot.revision, now, self._new_id, keys.current, keys.key)
        return Books(members=found), terms


def _moved(seen: int, effects: Effects) -> Done:
    points: Counter[tuple[str, str]] = Counter()
    members: defaultdict[tuple[str, str], set[UUID]] = defaultdict(set)
    for row, *_ in effects.movements:
        key = (row.point_type, MOVEMENTS[row.kind])
        points[key] += row.points
        members[key].add(row.member_id)
    for event in effects.events:
        if isinstance(event, TierChanged):
            members[event.after, TIER].add(event.member_id)
    return Done(seen, points, Counter({key: len(found) for key, found in members.items()}))


def _warned(seen: int, ahead: Sequence[PointsExpiring]) -> Done:
    points: Counter[tuple[str, str]] = Counter()
    members: defaultdict[tuple[str, str], set[UUID]] = defaultdict(set)
    for warning in ahead:
        points[warning.point_type, WARNED] += warning.points
        members[warning.point_type, WARNED].add(warning.member_id)
    return Done(seen, points, Counter({key: len(found) for key, found in members.items()}))
