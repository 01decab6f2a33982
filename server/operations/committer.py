"""The committer: the one way to change a wallet.

Commands that wait at the same moment share one database transaction, so the cost of
locks, round trips and the disk's flush is shared too. With nothing waiting, a lone
command commits at once. Replies are given after COMMIT, never before.

    lock    the program's rules (shared), members, request and business keys; in order
    load    in later statements, so that what is read is what is locked
    decide  the domain, one command after the other, each seeing its neighbours' effects
    save    one set-based statement a table

A merge of two members is a batch by itself. A batch that names the one that is over is begun again
as a whole, about the one that lives on, so that its commands keep their order.

What the domain refuses never reaches SQL. A database error splits the batch until the
culprit stands by itself; its neighbours commit. When the connection breaks, at COMMIT
too, the same commands run again: their request keys tell what had been done.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog

from server.domain.books import Decision, Prepared
from server.domain.commands import Command, Merge, Outcome
from server.domain.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from server.domain.members import Status
from server.domain.points import decide
from server.operations.batch import Ledger, load, locking, prepared, save, sharing
from server.operations.collisions import ATTEMPTS, pause
from server.operations.hints import Hints
from server.operations.lines import Turn
from server.operations.programs import Programs
from server.operations.watch import Commit, Commits, begun
from server.secrets import Keyring
from server.store import merges
from server.store.database import Collided, Database
from server.store.ledger import MemberOf
from telemetry.metrics import Metrics

OUTAGE_PATIENCE_SECONDS = 2.0
OUTAGE_PAUSE_SECONDS = 0.1
RETRY_AFTER_SECONDS = 0.5
# How often those who wait for room in the queue look for it.
ROOM_PAUSE_SECONDS = 0.02

log = structlog.get_logger()


class Replayed(NamedTuple):
    """The outcome of a request that was on record before."""

    outcome: Outcome


Result = Outcome | Replayed | BaseException


@dataclass(slots=True, eq=False)
class Waiting:
    """A command, until when it is worth deciding (event-loop time), and who waits for it."""

    command: Command
    deadline: float
    reply: asyncio.Future[Outcome]
    turn: Turn | None = None
    trace: Commit | None = None

    def settle(self, result: Result) -> None:
        """Tell the caller, if there still is one, and the others in its line."""
        if isinstance(result, BaseException) and self.turn is not None:
            self.turn.failed(result)
        if self.reply.done():
            return
        if isinstance(result, BaseException):
            self.reply.set_exception(result)
            return
        if isinstance(result, Replayed):
            if self.turn is not None:
                self.turn.replayed = True
            result = result.outcome
        self.reply.set_result(result)

    def over(self, now: float) -> BaseException | None:
        """Why it needn't be begun any more; None if it must be."""
        if self.deadline <= now:
            return DeadlineExceeded("DEADLINE_EXCEEDED", "the call's time was over before the work began")
        return None if self.turn is None else self.turn.fault


class Committer:
    """Gathers commands and commits them in batches, ``lanes`` transactions at a time.

    One lane makes batches about twice as large as two do, so a command costs less CPU; the price
    is that a batch that waits for another transaction's lock holds up the next. With one lane
    commands also take effect in the order in which they were submitted, however their batch is
    split or repeated; what stands in a ``Line`` relies on that.
    """

    def __init__(
        self,
        database: Database,
        programs: Programs,
        ledger_keys: Keyring,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
        batch_size: int = 128,
        queue_size: int = 4096,
        lanes: int = 1,
        watch: Commits | None = None,
        hints: Hints | None = None,
    ) -> None:
        self._database = database
        self._programs = programs
        self._keys = ledger_keys
        self._clock = clock
        self._new_id = new_id
        self._batch_size = batch_size
        self._queue_size = queue_size
        self._queue: deque[Waiting] = deque()
        self._wake = asyncio.Semaphore(0)
        self._closing = False
        self._watch = watch or Commits(Metrics())
        self._watch.queue(self._queue.__len__)
        self._hints = hints
        # Programs in which members share pools. Where nobody does, no purchase looks for any to lock.
        self._sharing: set[UUID] = set()
        self._lanes = [asyncio.create_task(self._lane(), name=f"committer-{n}") for n in range(lanes)]

    async def submit(self, command: Command, deadline: float, turn: Turn | None = None) -> Outcome:
        """Decide and commit; returns after COMMIT.

        ``deadline`` is a time of the event loop. A caller that goes away takes its
        command along only while it still waits: a commit under way is finished. ``turn`` is
        the command's place among others that must take effect before and after it.
        Raises Refused: what the domain refuses, OVERLOADED when too many wait,
        DEADLINE_EXCEEDED when the time was over before the work began,
        STORAGE_UNAVAILABLE when the database stayed away, the outcome then unknown;
        CONTENTION when it met others again and again.
        """
        if turn is not None:
            await turn.come()
        while len(self._queue) >= self._queue_size and not self._closing:
            if turn is None or not turn.patient:
                raise ResourceExhausted(
                    "OVERLOADED", "too many commands are waiting", None, RETRY_AFTER_SECONDS
                )
            await asyncio.sleep(ROOM_PAUSE_SECONDS)
        if self._closing:
            raise Unavailable("STORAGE_UNAVAILABLE", "the server is stopping", None, RETRY_AFTER_SECONDS)
        waiting = Waiting(command, deadline, asyncio.get_running_loop().create_future(), turn)
        waiting.trace = begun(waiting.reply)
        self._queue.append(waiting)
        if turn is not None:
            turn.leave()
        self._wake.release()
        return await waiting.reply

    async def close(self) -> None:
        """Finish what waits, then stop."""
        self._closing = True
        for _ in self._lanes:
            self._wake.release()
        await asyncio.gather(*self._lanes)

    async def _lane(self) -> None:
        while True:
            await self._wake.acquire()
            batch = self._gather()
            if batch:
                await self._run(batch)
            elif self._closing and not self._queue:
                return

    def _gather(self) -> list[Waiting]:
        now = asyncio.get_running_loop().time()
        batch: list[Waiting] = []
        while self._queue and len(batch) < self._batch_size:
            if isinstance(self._queue[0].command, Merge) and batch:
                break
            waiting = self._queue.popleft()
            if waiting.reply.done():
                continue
            if (why := waiting.over(now)) is not None:
                waiting.settle(why)
                continue
            batch.append(waiting)
            if isinstance(waiting.command, Merge):
                break
        return batch

    async def _run(self, batch: Sequence[Waiting]) -> None:
        """Commit the batch, or find out which command it is that can't be."""
        if not batch:
            return
        try:
            with self._watch.batch([w.trace for w in batch]):
                results = await self._persist([w.command for w in batch])
        except Exception as fault:  # noqa: BLE001 - whatever it was, it ends with the command that caused it
            away = isinstance(fault, Unavailable) and not isinstance(fault, Collided)
            if away or len(batch) == 1:
                for waiting in batch:
                    waiting.settle(fault)
                return
            log.warning("batch_split", commands=len(batch), fault=type(fault).__name__)
            self._watch.splits.add()
            half = len(batch) // 2
            await self._run(batch[:half])
            await self._run(_still_standing(batch[half:]))
        else:
            for waiting, result in zip(batch, results, strict=True):
                waiting.settle(result)

    async def _persist(self, commands: Sequence[Command]) -> list[Result]:
        """Commit, again after a collision, and again while the database comes back."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + OUTAGE_PATIENCE_SECONDS
        collisions = 0
        while True:
            try:
                return await self._commit(commands)
            except Collided:
                collisions += 1
                if collisions == ATTEMPTS:
                    raise
                self._watch.retries.add("collision")
                await pause(collisions)
            except Unavailable:
                if loop.time() >= patience:
                    raise
                self._watch.retries.add("outage")
                await asyncio.sleep(OUTAGE_PAUSE_SECONDS)

    async def _commit(self, commands: Sequence[Command]) -> list[Result]:
        program_ids = {c.actor.program_id for c in commands}
        snapshots = await self._programs.at_hand(self._database, program_ids)
        batch = prepared(commands, snapshots)
        async with self._database.transaction(locking(batch, self._sharing)) as connection:
            now = self._clock()
            batch, ledger = await load(
                connection, self._programs, snapshots, batch, now, self._new_id, self._keys
            )
            merged = _merged(batch, ledger)
            survivors = await merges.survivors(connection, merged) if merged else {}
            newly = sharing(ledger) - self._sharing
            if not survivors and not newly:
                results, decisions = _decided(batch, ledger)
                if decisions:
                    await save(connection, decisions, now)
        if survivors or newly:
            # Their locks, or those of their pools, come first, so all begins anew; nothing was decided.
            self._sharing |= newly
            return await self._commit([_following(command, survivors) for command in commands])
        self._watch.committed(decisions, self._programs)
        if self._hints is not None:
            self._hints.committed(decisions)
        return results


def _still_standing(batch: Sequence[Waiting]) -> list[Waiting]:
    """Those whose line goes on, now that what stood before them has been tried."""
    standing = []
    for waiting in batch:
        if waiting.turn is not None and (why := waiting.turn.fault) is not None:
            waiting.settle(why)
        else:
            standing.append(waiting)
    return standing


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


def _decided(batch: Sequence[Prepared], ledger: Ledger) -> tuple[list[Result], list[tuple[UUID, Decision]]]:
    """What each command is told, and what there is to save."""
    results: list[Result] = []
    decisions: list[tuple[UUID, Decision]] = []
    for entry in batch:
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
