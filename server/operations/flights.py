"""Work that many ask for at once and that is done once."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from server.ending import ended

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Flights(Generic[Key, Value]):
    """One piece of work per key at a time; whoever asks meanwhile waits for the same."""

    def __init__(self) -> None:
        self._under_way: dict[Key, asyncio.Task[Value]] = {}

    def join(self, key: Key, work: Callable[[], Coroutine[Any, Any, Value]]) -> "asyncio.Future[Value]":
        """The outcome of the work under way for ``key``, or of ``work``, begun now.

        Who gives up waiting doesn't end it for the others.
        """
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(work())
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return asyncio.shield(task)

    def busy(self, key: Key) -> bool:
        """Whether work for ``key`` is under way."""
        return key in self._under_way

    async def close(self) -> None:
        """End what nobody waits for any more."""
        await ended(list(self._under_way.values()))

    def _landed(self, key: Key, done: asyncio.Task[Value]) -> None:
        del self._under_way[key]
        if not done.cancelled():
            # Whoever waited has it; asyncio complains of an exception that nobody looked at.
            done.exception()
