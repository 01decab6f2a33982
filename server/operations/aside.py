"""Commands that are set aside: somebody else keeps a lock that they need.

A process that hangs within a transaction, or a person at a prompt, may keep a member's lock for as long
as PostgreSQL lets them. Only the commands about that member wait for it, until their deadlines;
whatever must not overtake them stands behind them here, and all others go on.
"""

import asyncio
from collections.abc import Hashable, Iterable
from itertools import chain

from server.operations.waiting import Waiting, due
from server.store.database import Blocked, overlong


class Aside:
    """At most ``most`` commands, in the order in which they were submitted."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._commands: dict[Waiting, None] = {}
        self._names: set[Hashable] = set()
        self._changed = asyncio.Event()
        self._closing = False

    def __len__(self) -> int:
        return len(self._commands)

    def add(self, commands: Iterable[Waiting]) -> None:
        """Set them aside. Where there is no room, their callers are told to come back."""
        now = asyncio.get_running_loop().time()
        for waiting in commands:
            if len(self._commands) < self._most:
                waiting.since = now
                self._commands[waiting] = None
                self._names |= waiting.names
            else:
                waiting.settle(overlong(Blocked))
        self._changed.set()

    def holds_up(self, waiting: Waiting) -> bool:
        """Whether it would overtake one of these."""
        return not self._names.isdisjoint(waiting.names)

    def remaining(self) -> list[Waiting]:
        """Those that are still to be begun, in order; the others are forgotten."""
        self._commands = dict.fromkeys(due(self._commands))
        self._names = set(chain.from_iterable(waiting.names for waiting in self._commands))
        return list(self._commands)

    async def some(self) -> bool:
        """Wait until there are any; False if there are none and none will come."""
        while not self._commands:
            if self._closing:
                return False
            self._changed.clear()
            await self._changed.wait()
        return True

    def close(self) -> None:
        """Nobody sets anything aside any more."""
        self._closing = True
        self._changed.set()
