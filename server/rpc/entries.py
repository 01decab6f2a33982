"""The entries of a journal on their way: begun as they come, answered in their order.

Many are under way at once, so that they share batches. Each passes the gate by itself and
takes its turn at the committer, so that those of one member take effect in order.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextvars import Context, copy_context
from typing import NamedTuple

from google.protobuf.message import Message
from loyalty.v1 import journal_pb2 as pb

from server.domain.errors import Refused
from server.operations.lines import PASSING, Line, Turn
from server.rpc.errors import status_of
from telemetry.traces import Trace, current

# Under way for one call at once; enough that every batch finds some. In bytes, too, because
# an entry may have a thousand lines.
MOST_WAITING = 256
MOST_BYTES = 8 * 1024 * 1024

# An entry as it came, or why it can't be read.
Item = pb.JournalEntry | Refused
# What answers an entry: a result without its place.
Answer = Callable[[pb.JournalEntry, Turn], Awaitable[pb.JournalResult]]


class Done(NamedTuple):
    """A result.

    ``replayed``: it was on record before. ``fault``: why it, and all behind it, must be sent again.
    """

    result: pb.JournalResult
    replayed: bool
    fault: Refused | None


class UnderWay(NamedTuple):
    """An entry that is not answered yet. ``size`` in bytes; ``sold``: its order, if it is a purchase."""

    task: "asyncio.Task[Done]"
    size: int
    sold: str


Results = AsyncGenerator[Done, None]


class Entries:
    """Those of one call."""

    def __init__(self, answer: Answer, *, patient: bool) -> None:
        self._answer = answer
        self._line = Line(patient=patient)
        self._begun: deque[UnderWay] = deque()
        self._bytes = 0
        self._count = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._all_begun = False
        self._end: Exception | None = None
        self._context = _quiet()

    async def answered(self, items: AsyncIterator[Item]) -> Results:
        """The results, in order. Raises what ended ``items``, once all before it are answered."""
        reading = asyncio.create_task(self._read(items))
        try:
            while await self._one_begun():
                task, size, _ = self._begun[0]
                # Not awaited itself: a cancellation must reach all at the same moment, or one
                # might be committed without another before it.
                if not task.done():
                    await asyncio.wait((task,))
                self._begun.popleft()
                self._bytes -= size
                self._room.set()
                yield task.result()
            if self._end is not None:
                raise self._end
        finally:
            left = [begun.task for begun in self._begun]
            for under_way in (*left, reading):
                under_way.cancel()
            await asyncio.gather(*left, reading, return_exceptions=True)

    async def _one_begun(self) -> bool:
        """Wait for an entry to be begun; False if there are no more."""
        while not self._begun:
            if self._all_begun:
                return False
            self._changed.clear()
            await self._changed.wait()
        return True

    async def _read(self, items: AsyncIterator[Item]) -> None:
        try:
            async for item in items:
                size = 0 if isinstance(item, Refused) else item.ByteSize()
                await self._room_for(size)
                self._begin(item, size)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the end of the call
            self._end = error
        finally:
            self._all_begun = True
            self._changed.set()

    async def _room_for(self, size: int) -> None:
        while self._begun and (len(self._begun) >= MOST_WAITING or self._bytes + size > MOST_BYTES):
            self._room.clear()
            await self._room.wait()

    def _begin(self, item: Item, size: int) -> None:
        # One trace that leads to the statements will do for all.
        context = self._context if self._count else None
        wanted = returned_from(item)
        first = [begun.task for begun in self._begun if begun.sold == wanted] if wanted else []
        task = asyncio.create_task(self._done(self._count, item, self._line.join(), first), context=context)
        self._begun.append(UnderWay(task, size, sold_as(item)))
        self._bytes += size
        self._count += 1
        self._changed.set()

    async def _done(
        self, index: int, item: Item, turn: Turn, first: Collection["asyncio.Task[Done]"]
    ) -> Done:
        fault = None
        try:
            if first:
                # What it names by an order is looked up before its turn, and isn't there until these are.
                await asyncio.wait(first)
            if isinstance(item, Refused):
                result = refused(item)
            else:
                result = await self._answer(item, turn)
        except Exception as error:  # noqa: BLE001 - it is the answer to this one entry
            turn.failed(error)
            fault = error if isinstance(error, PASSING) else None
            result = refused(error)
            if not isinstance(item, Refused):
                result.request_id = request_id(item)
        finally:
            turn.leave()
        result.index = index
        return Done(result, turn.replayed, fault)


def refused(error: Exception) -> pb.JournalResult:
    """The result of an entry that ended so."""
    return pb.JournalResult(error=status_of(error))


def request_id(entry: pb.JournalEntry) -> str:
    """The entry's own, "" if it has none that is fit to be repeated."""
    kind = entry.WhichOneof("entry")
    said: str = "" if kind is None else getattr(entry, kind).request_id
    return said if len(said) <= 64 and said.isascii() and said.isprintable() else ""


def sold_as(item: Item) -> str:
    """The order that a purchase is recorded under; empty for any other entry."""
    return "" if isinstance(item, Refused) else item.accrue.order_reference


def returned_from(item: Item) -> str:
    """The order by which a return names its purchase; empty for any other entry."""
    return "" if isinstance(item, Refused) else item.return_purchase.order.order_reference


async def given(entries: Iterable[pb.JournalEntry]) -> AsyncIterator[Item]:
    """Entries that are all there."""
    for entry in entries:
        yield entry


async def sent(requests: AsyncIterator[Message | Refused]) -> AsyncIterator[Item]:
    """The entries of requests that have one each."""
    async for request in requests:
        yield request if isinstance(request, Refused) else request.entry  # type: ignore[attr-defined]


def _quiet() -> Context:
    """This context, for work whose trace isn't sampled."""
    context = copy_context()
    trace = current.get()
    if trace is not None and trace.span is not None:
        context.run(current.set, Trace(trace))
    return context
