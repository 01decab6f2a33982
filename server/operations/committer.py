"""The committer: the one way to change a wallet.

Commands that wait at the same moment share one database transaction (``posting``), so the
cost of locks, round trips and the disk's flush is shared too. With nothing waiting, a lone
command commits at once; where many call, the next batch begins a moment after the last; and
where full batches wait, one is written, one decided and one loaded at the same time (``underway``).
Where this process would idle, two halves of those who call take turns (``alternating``).
Replies are given after COMMIT, never before.

A merge of two members is a batch by itself. A database error splits the batch until the
culprit stands by itself; its neighbours commit.

A batch waits but shortly for a lock. Commands whose locks somebody else keeps are set aside, and a
lane of their own tries them until their deadlines; the others commit.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from uuid import UUID

import structlog

from server import logs
from server.domain.commands import Command, Merge, Outcome
from server.domain.errors import ResourceExhausted, Unavailable
from server.operations.alternating import Alternating
from server.operations.aside import Aside
from server.operations.gathering import gathered
from server.operations.hints import Hints
from server.operations.lines import Turn
from server.operations.posting import Posting
from server.operations.programs import Programs
from server.operations.underway import GivenUp, UnderWay
from server.operations.waiting import Waiting, due, foremost, parted
from server.operations.watch import Commits, begun
from server.secrets import Keyring
from server.store.database import Blocked, Database, Undone
from telemetry.metrics import Metrics

RETRY_AFTER_SECONDS = 0.5
# Between two looks at what is set aside.
ASIDE_PAUSE_SECONDS = 0.05
# One is written, one decided, and one has its locks taken and its questions asked.
MOST_UNDER_WAY = 3
# After so many, one waits for its locks, though the locks of others were free.
ROUNDS_OF_TRYING = 4
# How often those who wait for room in the queue look for it.
ROOM_PAUSE_SECONDS = 0.02

log = structlog.get_logger()


class Committer:
    """Gathers commands and commits them in batches of at most ``batch_size``.

    Commands of a member take effect in the order in which they were submitted, however their batch is
    split, repeated or set aside; what stands in a ``Line`` relies on that. A batch begins behind others
    only if it is about full, or this process would idle otherwise (``alternating``). A batch that waits for
    another transaction's lock holds up the next, for as long as ``locks.SHORTLY`` says.
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
        watch: Commits | None = None,
        hints: Hints | None = None,
        alternating: Alternating | None = None,
    ) -> None:
        self._batch_size = batch_size
        self._queue_size = queue_size
        self._queue: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._alternating = alternating or Alternating()
        # How many have to wait for a batch to begin behind others.
        self._enough = batch_size
        self._closing = False
        self._watch = watch or Commits(Metrics())
        self._aside = Aside(most=queue_size)
        self._watch.queue(lambda: len(self._queue) + len(self._aside))
        self._posting = Posting(database, programs, ledger_keys, clock, new_id, self._watch, hints)
        self._lane = asyncio.create_task(self._serve(), name="committer")
        self._lane_aside = asyncio.create_task(self._try_again(), name="committer-aside")
        # Set when a lane ended by a fault of ours: then the process is to end, and be started anew.
        self.broken = asyncio.Event()
        for lane in (self._lane, self._lane_aside):
            lane.add_done_callback(self._break)

    async def submit(self, command: Command, deadline: float, turn: Turn | None = None) -> Outcome:
        """Decide and commit; returns after COMMIT.

        ``deadline`` is a time of the event loop. A caller that goes away takes its
        command along only while it still waits: a commit under way is finished. ``turn`` is
        the command's place among others that must take effect before and after it.
        Raises Refused: what the domain refuses, OVERLOADED when too many wait,
        DEADLINE_EXCEEDED when the time was over before the work began,
        STORAGE_UNAVAILABLE when the database stayed away, the outcome then unknown;
        CONTENTION when it met others again and again, or too many wait for locks that others keep.
        """
        if turn is not None:
            await turn.come()
        while len(self._queue) >= self._queue_size and not self._closing and not self._ended():
            if turn is None or not turn.patient:
                raise ResourceExhausted(
                    "OVERLOADED", "too many commands are waiting", None, RETRY_AFTER_SECONDS
                )
            await asyncio.sleep(ROOM_PAUSE_SECONDS)
        if self._closing or self._ended():
            raise _stopping()
        waiting = Waiting(command, deadline, asyncio.get_running_loop().create_future(), turn)
        waiting.trace = begun(waiting.reply)
        self._queue.append(waiting)
        if turn is not None:
            turn.leave()
        if len(self._queue) in (1, self._enough):
            self._wake.set()
        return await waiting.reply

    async def check(self) -> str:
        """What keeps it from committing, "" if nothing does."""
        return "ended by a fault of ours; start this process again" if self._ended() else ""

    def _ended(self) -> bool:
        """Whether a lane ended by itself: nobody would commit what waits for it."""
        return not self._closing and (self._lane.done() or self._lane_aside.done())

    def _break(self, lane: asyncio.Task[None]) -> None:
        if self._closing:
            return
        fault = None if lane.cancelled() else lane.exception()
        log.error("committer_broken", lane=lane.get_name(), **({} if fault is None else logs.describe(fault)))
        for waiting in (*self._queue, *self._aside.remaining()):
            waiting.settle(_stopping())
        self.broken.set()

    async def close(self) -> None:
        """Finish what waits, then stop."""
        self._closing = True
        self._wake.set()
        await asyncio.wait([self._lane])
        self._aside.close()
        await asyncio.wait([self._lane_aside])

    async def _serve(self) -> None:
        while self._queue or not self._closing:
            waiting = len(self._queue)
            batch = self._gather(waiting if self._aside else self._alternating.most(waiting))
            if batch:
                await (self._past_those_aside(batch) if self._aside else self._overlapping(batch))
                await gathered(self._queue, self._batch_size, len(batch))
            elif not self._closing:
                self._wake.clear()
                await self._wake.wait()

    async def _overlapping(self, batch: Sequence[Waiting]) -> None:
        """Commit the batch, and those that begin behind it while enough wait."""
        under_way = deque([self._begun(batch)])
        given_up: list[Waiting] = []
        try:
            while under_way:
                self._wake.clear()
                if under_way[0].held.done():
                    first = under_way[0]
                    try:
                        self._set_aside(first.batch, first.held.result())
                    except GivenUp:
                        given_up += first.batch
                    under_way.popleft()
                elif (following := self._next(under_way)) is not None:
                    under_way.append(following)
                else:
                    await self._wake.wait()
        finally:
            # By a fault of ours some are still under way: they are told with those who wait.
            given_up += [waiting for other in under_way for waiting in other.batch]
            self._queue.extendleft(reversed(given_up))

    def _begun(self, batch: Sequence[Waiting], before: UnderWay | None = None) -> UnderWay:
        self._alternating.begun(len(batch))
        return UnderWay(batch, self._run, self._wake.set, before)

    def _next(self, under_way: Sequence[UnderWay]) -> UnderWay | None:
        """The next batch, if enough go along though it overtakes nothing that is under way."""
        last = under_way[-1]
        if self._aside or not last.joinable or len(under_way) == MOST_UNDER_WAY:
            return None
        self._enough = min(self._alternating.enough(len(last.batch)) or self._batch_size, self._batch_size)
        if len(self._queue) < self._enough:
            return None
        batch = self._gather(self._batch_size)
        members = set().union(*(other.members for other in under_way))
        meeting = [not members.isdisjoint(waiting.members) for waiting in batch]
        going, staying = parted(batch, meeting) if any(meeting) else (batch, [])
        if 2 * len(going) < self._enough or isinstance(batch[0].command, Merge):
            going, staying = [], batch
            self._alternating.stop()
        self._queue.extendleft(reversed(staying))
        return self._begun(going, last) if going else None

    async def _past_those_aside(self, batch: Sequence[Waiting]) -> None:
        ahead = await self._ahead(batch)
        held = await self._run(ahead)
        # Not before: they may stand behind what has just been committed.
        held.update(set(batch).difference(ahead))
        self._set_aside(batch, held)

    def _set_aside(self, batch: Sequence[Waiting], held: Collection[Waiting]) -> None:
        if held:
            self._aside.add(waiting for waiting in batch if waiting in held)

    def _gather(self, most: int) -> list[Waiting]:
        now = asyncio.get_running_loop().time()
        batch: list[Waiting] = []
        while self._queue and len(batch) < min(most, self._batch_size):
            if isinstance(self._queue[0].command, Merge) and batch:
                break
            waiting = self._queue.popleft()
            if not waiting.begins(now):
                continue
            batch.append(waiting)
            if isinstance(waiting.command, Merge):
                break
        return batch

    async def _ahead(self, batch: Sequence[Waiting]) -> list[Waiting]:
        """Those that neither overtake what is aside nor, as far as is known, belong there.

        Nothing that shares a name with one of them is aside, so the two lanes never have commands of a member
        under way at the same moment.
        """
        ahead, _ = parted(batch, [self._aside.holds_up(waiting) for waiting in batch])
        # Somebody keeps locks: whoever meets one more of them shall not hold up the others.
        free, _ = await self._apart(ahead)
        return free

    async def _try_again(self) -> None:
        """The lane of those that are set aside: all whose locks are free, and now and then one that waits."""
        rounds = 0
        while await self._aside.some():
            rounds += 1
            held: set[Waiting] = set()
            begun = False
            for batch in _batches(self._aside.remaining(), self._batch_size):
                # A line may have ended with the batch before.
                ahead, behind = parted(due(batch), behind=held)
                free, still = await self._apart(ahead)
                begun |= bool(free)
                held.update(behind, still, await self._run(free))
            remaining = self._aside.remaining()
            if held and remaining and (not begun or rounds % ROUNDS_OF_TRYING == 0):
                await self._wait(remaining)
                self._aside.remaining()
            if held:
                await asyncio.sleep(ASIDE_PAUSE_SECONDS)

    async def _wait(self, remaining: Sequence[Waiting]) -> None:
        """Let one of them, and its like, wait for its locks: the one that has only tried for the longest.

        Whoever only tries never gets a lock for which others wait.
        """
        first = min(foremost(remaining), key=lambda waiting: waiting.since)
        first.since = asyncio.get_running_loop().time()
        names = first.names
        alike, _ = parted(remaining, [not waiting.names <= names for waiting in remaining])
        await self._run(next(_batches(alike, self._batch_size)))

    async def _apart(self, batch: Sequence[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
        """Those whose locks nobody holds at this moment; the others, and those that stand behind them."""
        if not batch:
            return [], []
        try:
            held = await self._posting.held([waiting.command for waiting in batch])
        except Exception as fault:  # noqa: BLE001 - whoever commits them meets it again, and knows what to do
            log.warning("locks_unknown", commands=len(batch), fault=type(fault).__name__)
            return list(batch), []
        return parted(batch, held)

    async def _run(self, batch: Sequence[Waiting], under_way: UnderWay | None = None) -> set[Waiting]:
        """Commit the batch, or find out which command it is that can't be.

        Returns those for whose locks somebody is to be waited for, and those behind them. Raises GivenUp if
        it has to begin anew ``under_way``, behind another batch.
        """
        if not batch:
            return set()
        try:
            with self._watch.batch([w.trace for w in batch]):
                results = await self._posting.post([w.command for w in batch], under_way)
        except GivenUp:
            raise
        except Blocked:
            free, held = await self._apart(batch)
            log.warning("batch_blocked", commands=len(batch), held=len(held))
            self._watch.retries.add("lock")
            if held or len(batch) == 1:
                return {*held, *await self._run(free)} if held else set(batch)
        except Exception as fault:  # noqa: BLE001 - whatever it was, it ends with the command that caused it
            away = isinstance(fault, Unavailable) and not isinstance(fault, Undone)
            if away or len(batch) == 1:
                for waiting in batch:
                    waiting.settle(fault)
                return set()
            log.warning("batch_split", commands=len(batch), fault=type(fault).__name__)
        else:
            for waiting, result in zip(batch, results, strict=True):
                waiting.settle(result)
            if under_way is not None:
                under_way.committed()
            return set()
        return await self._halved(batch)

    async def _halved(self, batch: Sequence[Waiting]) -> set[Waiting]:
        self._watch.splits.add()
        half = len(batch) // 2
        held = await self._run(batch[:half])
        # Of the others those whose time or whose line has ended meanwhile are told so.
        free, behind = parted(due(batch[half:]), behind=held)
        return {*held, *behind, *await self._run(free)}


def _stopping() -> Unavailable:
    return Unavailable("STORAGE_UNAVAILABLE", "the server is stopping", None, RETRY_AFTER_SECONDS)


def _batches(commands: Sequence[Waiting], size: int) -> Iterator[list[Waiting]]:
    """The same in order, at most so many together, and each merge by itself."""
    batch: list[Waiting] = []
    for waiting in commands:
        alone = isinstance(waiting.command, Merge)
        if batch and (alone or len(batch) == size or isinstance(batch[-1].command, Merge)):
            yield batch
            batch = []
        batch.append(waiting)
    if batch:
        yield batch
