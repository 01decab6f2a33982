"""Members who watch what happens to them, in every way there is, and come back whenever they are cut off."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from google.rpc import code_pb2

from tests.faults.apart import Apart
from tests.support.streams import BROKEN, Stream, calls, events, frames

OPEN_SECONDS = 120.0
BROKE_OFF = "BROKEN"


@dataclass
class Watched:
    """What one was told: orders, and when by the machine's monotonic clock; and how streams ended.

    ``unlocked``: when each tier was, in the words it was told with. ``standings``: how often the stream began
    with how the member stands. ``ends`` are the codes of streams on which something had been told, BROKE_OFF
    of those that ended without one.
    """

    way: str
    orders: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    unlocked: dict[str, float] = field(default_factory=dict)
    standings: int = 0
    ends: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Door:
    """Where streams are to be had: host and port of gRPC, and those of REST."""

    grpc: str
    rest: str


class Watchers(Apart):
    """A stream for each of the members, at one door or the other, by turns over gRPC, SSE and WebSocket."""

    def __init__(self, doors: Sequence[Door], key: str, members: Sequence[str]) -> None:
        super().__init__(_Watch, doors, key, members)

    def until_open(self) -> None:
        """Wait until each has been told how their member stands."""
        self.ask("until_open", seconds=OPEN_SECONDS)

    def watched(self) -> dict[str, Watched]:
        """What each member was told so far."""
        found: dict[str, Watched] = self.ask("watched")
        return found


class _Watch:
    def __init__(self, doors: Sequence[Door], key: str, members: Sequence[str]) -> None:
        self._key = key
        grpc, rest = [door.grpc for door in doors], [door.rest for door in doors]
        ways: list[tuple[Callable[..., AbstractAsyncContextManager[Stream]], list[str]]] = [
            (calls, grpc),
            (events, rest),
            (frames, rest),
        ]
        self._found: dict[str, Watched] = {}
        self._tasks = []
        for number, member in enumerate(members):
            opened, places = ways[number % len(ways)]
            self._found[member] = Watched(opened.__name__)
            turned = [places[(number + turn) % len(places)] for turn in range(len(places))]
            self._tasks.append(asyncio.create_task(self._follow(member, opened, turned)))

    async def until_open(self) -> None:
        while not all(found.standings for found in self._found.values()):  # noqa: ASYNC110 - rarely asked
            await asyncio.sleep(0.01)

    async def watched(self) -> dict[str, Watched]:
        for task in self._tasks:
            if task.done():
                task.result()  # a stream that ended as none should
        return self._found

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(
        self, member: str, opened: Callable[..., AbstractAsyncContextManager[Stream]], places: Sequence[str]
    ) -> None:
        """One place after the other, each time from the last event on."""
        found, last = self._found[member], ""
        while True:
            for place in places:
                came, end = last, BROKE_OFF
                try:
                    async with opened(place, self._key, member, last) as stream:
                        while "error" not in (told := await stream.read())[1]:
                            last = told[0]
                            _note(found, told[1])
                        end = code_pb2.Code.Name(told[1]["error"]["code"])
                except BROKEN:
                    pass
                if last != came:
                    found.ends.append(end)
                await asyncio.sleep(random.uniform(0.05, 0.2))


def _note(found: Watched, update: dict[str, Any]) -> None:
    now = time.monotonic()
    found.standings += "standing" in update
    if (points := update.get("points")) is not None:
        found.orders.append(points["orderReference"])
        found.times.append(now)
    if (tier := update.get("tier")) is not None:
        found.unlocked[tier["message"]] = now
