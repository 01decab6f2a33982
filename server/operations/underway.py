"""A batch under way, while the one before it may still be on its way to the disk.

Deciding is this process's work and writing the database's, so where full batches wait one is
decided while the other is written. It is written only when the other has been committed and its
callers have been told. If the other fails, it is given up with nothing done, and begins anew
behind it; so commands take effect in the order in which they were submitted.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import Any, Optional

from server.domain.commands import Merge
from server.operations.waiting import Waiting


class GivenUp(Exception):  # noqa: N818 - no error, but an end
    """What stands before the batch failed. Nothing of the batch was done, and it has to begin anew."""


Run = Callable[[Sequence[Waiting], "UnderWay"], Coroutine[Any, Any, set[Waiting]]]


class UnderWay:
    """A batch that ``run`` commits; ``before``: the batch that has to be committed before it.

    ``held``: what ``run`` returns in the end, or GivenUp.
    """

    def __init__(self, batch: Sequence[Waiting], run: Run, before: Optional["UnderWay"] = None) -> None:
        self.batch = batch
        self._before = before
        self._decided = asyncio.Event()
        self._committed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.held = asyncio.create_task(run(batch, self), name="batch")
        self.held.add_done_callback(lambda _: self._end(committed=False))

    @property
    def members(self) -> set[Hashable]:
        """Whom it is about."""
        return {member for waiting in self.batch for member in waiting.members}

    @property
    def joinable(self) -> bool:
        """Whether another batch may be decided beside it."""
        return not self._committed.done() and not isinstance(self.batch[0].command, Merge)

    async def turn(self) -> None:
        """It has been decided; returns when it may be written. Raises GivenUp."""
        await self._behind()
        self._decided.set()

    async def decided(self) -> None:
        """Wait until it may be written, or has ended."""
        await self._decided.wait()

    def committed(self) -> None:
        """It is in the books, and its callers know."""
        self._end(committed=True)

    async def failed(self) -> None:
        """It met a fault: who stands behind gives way. Returns once nobody is before it. Raises GivenUp."""
        self._end(committed=False)
        await self._behind()

    async def _behind(self) -> None:
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
