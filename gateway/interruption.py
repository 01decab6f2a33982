"""Ending a call from outside, because the client went away or sent something wrong."""

import asyncio
from types import TracebackType

from gateway.bodies import Disconnected, Receive


class Interruption:
    """A block that others can end: what strikes it is raised where the block ends."""

    def __init__(self) -> None:
        self._cause: Exception | None = None
        self._task: asyncio.Task[object] | None = None
        self._watching: asyncio.Task[object] | None = None

    def __enter__(self) -> "Interruption":
        self._task = asyncio.current_task()
        return self

    def watch(self, receive: Receive) -> None:
        """End the block when the client goes away. Nothing else may be received meanwhile."""
        self._watching = asyncio.ensure_future(receive())
        self._watching.add_done_callback(self._left)

    def strike(self, cause: Exception) -> None:
        """End the block with an exception; the first counts."""
        if self._cause is None and self._task is not None:
            self._cause = cause
            self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._watching is not None:
            self._watching.cancel()
        cause = self._cause
        if cause is not None and task is not None and task.uncancel() == 0:
            raise cause from None

    def _left(self, watching: "asyncio.Task[object]") -> None:
        if not watching.cancelled():
            self.strike(Disconnected())
