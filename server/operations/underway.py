"""A batch under way, while those before it are still decided or on their way to the disk.

Deciding is this process's work, locking, reading and writing the database's. So where full batches
wait, one is written, one is decided, and one takes its locks and asks its questions, all at the same
time. They are decided one after the other, and each is written only when the one before has been
committed and its callers have been told. If one fails, those behind it are given up with nothing done,
and begin anew behind it; so commands take effect in the order in which they were submitted.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Optional

from server.domain.commands import Merge
from server.operations.waiting import Waiting


class GivenUp(Exception):  # noqa: N818 - no error, but an end
    """What stands before the batch failed. Nothing of the batch was done, and it has to begin anew."""


Run = Callable[[Sequence[Waiting], "UnderWay"], Coroutine[Any, Any, set[Waiting]]]


class UnderWay:
    """A batch that ``run`` commits; ``before``: the batch that has to be committed before it.

    ``moved`` is called when another may begin behind it, and when it has ended. ``held``: what ``run``
    returns in the end, or GivenUp.
    """

    def __init__(
        self,
        batch: Sequence[Waiting],
        run: Run,
        moved: Callable[[], None],
        before: Optional["UnderWay"] = None,
    ) -> None:
        self.batch = batch
        self.members = {member for waiting in batch for member in waiting.members}
        self._moved = moved
        self._before = before
        self._behind: UnderWay | None = None
        self._loaded = False
        self._decided = asyncio.Event()
        self._committed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if before is not None:
            before._behind = self
        self.held = asyncio.create_task(run(batch, self), name="batch")
        self.held.add_done_callback(self._done)

    @property
    def joinable(self) -> bool:
        """Whether another batch may begin behind it: it waits for no lock, and none before it has failed."""
        return self._loaded and not self._committed.done() and not isinstance(self.batch[0].command, Merge)

    async def loaded(self) -> None:
        """It has its locks and all that it looks at; returns when it may be decided. Raises GivenUp."""
        self._loaded = True
        self._moved()
        before = self._before
        if before is not None:
            await before._decided.wait()
            if self._committed.done():
                raise GivenUp

    async def turn(self) -> None:
        """It has been decided; returns when it may be written. Raises GivenUp."""
        self._decided.set()
        await self._follow()

    def committed(self) -> None:
        """It is in the books, and its callers know."""
        self._end(committed=True)

    async def failed(self) -> None:
        """It met a fault: who stands behind gives way. Returns once nobody is before it. Raises GivenUp."""
        self._end(committed=False)
        await self._follow()

    async def _follow(self) -> None:
        """Wait for the batch before, once. So nobody stands behind one that is given up."""
        before, self._before = self._before, None
        if before is None:
            return
        committed = await asyncio.shield(before._committed)
        # Meanwhile a line may have ended.
        if not committed or any(waiting.turn is not None and waiting.turn.fault for waiting in self.batch):
            raise GivenUp

    def _end(self, *, committed: bool) -> None:
        self._decided.set()
        if not self._committed.done():
            self._committed.set_result(committed)
            if self._behind is not None and not committed:
                # Whatever it is about to do, it won't be written; so nobody is to begin behind it.
                self._behind._end(committed=False)

    def _done(self, _: asyncio.Task[set[Waiting]]) -> None:
        self._end(committed=False)
        self._moved()
