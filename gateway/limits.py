"""How much a client may ask for at once. Sizes in bytes, times in seconds."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from google.rpc import code_pb2

from gateway.interruption import Interruption
from gateway.statuses import Refused


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a shim.

    ``depth`` counts objects and arrays within each other. ``streams`` are those open in
    the process, WebSockets among them, ``streams_per_caller`` those of one credential, or of
    one address for callers without, and those of one address that the server has not let in
    yet. A stream on which nothing is said for ``idle_seconds`` is ended;
    ``keep_alive_seconds`` is how often an SSE stream says that it is still there.
    """

    body: int = 4 * 1024 * 1024
    depth: int = 64
    max_deadline: float = 60.0
    streams: int = 1000
    streams_per_caller: int = 50
    idle_seconds: float = 300.0
    keep_alive_seconds: float = 15.0


# A caller, or an address and that nobody knows as yet who it is.
Name = tuple[str, bool]


class Place(Interruption):
    """A stream's place among those that are open."""

    def __init__(self, counts: Counter[Name], callers: Sequence[str], address: str) -> None:
        super().__init__()
        self.unknown = True
        self._counts = counts
        self._callers = callers
        self._address = address

    @property
    def names(self) -> list[Name]:
        """Under which it counts: the callers, and whoever comes from the address unknown as yet."""
        names: list[Name] = [(caller, False) for caller in self._callers]
        return [*names, (self._address, True)] if self.unknown else names

    def count(self) -> None:
        """Count from now on."""
        self._counts.update(self.names)

    def admitted(self) -> None:
        """The server let the caller in."""
        if self.unknown:
            self.unknown = False
            self._less([(self._address, True)])

    def leave(self) -> None:
        """Count no longer."""
        self._less(self.names)
        self.unknown = False

    def _less(self, names: Iterable[Name]) -> None:
        self._counts.subtract(names)
        for name in names:
            if not self._counts[name]:
                del self._counts[name]


class Slots:
    """Counts what is open, in all and by caller."""

    def __init__(self, limits: Limits) -> None:
        # Anybody can invent credentials, so they alone would bound nobody.
        self._counts: Counter[Name] = Counter()
        self._places: set[Place] = set()
        # Whose last words to the client come when their place is free again.
        self._telling: set[asyncio.Task[object]] = set()
        self._stopping = False
        self._limits = limits

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._places)

    @property
    def unknown(self) -> int:
        """How many of them the server has not let in yet."""
        return sum(place.unknown for place in self._places)

    async def end_all(self, seconds: float) -> None:
        """End every stream, and let nobody open another: the process stops.

        Returns when all clients have been told why, or after so many seconds.
        """
        self._stopping = True
        for place in list(self._places):
            place.strike(_stopping())
        if self._telling:
            await asyncio.wait(self._telling, timeout=seconds)

    @contextmanager
    def taken(self, callers: Sequence[str], address: str) -> Iterator[Place]:
        """One place for as long as the block lasts, which others can end. Raises Refused if there is none.

        It counts under the callers' names, and under the address until it is told of the
        place that the server has let them in.
        """
        if self._stopping:
            raise _stopping()
        if self.open >= self._limits.streams:
            raise _full("this process has no more room for streams", self._limits.streams)
        place = Place(self._counts, callers, address)
        if any(self._counts[name] >= self._limits.streams_per_caller for name in place.names):
            raise _full("this caller has too many streams open", self._limits.streams_per_caller)
        if (task := asyncio.current_task()) is not None:
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        place.count()
        self._places.add(place)
        try:
            with place:
                yield place
        finally:
            self._places.discard(place)
            place.leave()


def _stopping() -> Refused:
    return Refused(503, code_pb2.UNAVAILABLE, "SERVER_UNAVAILABLE", "the server stops; come back")


def _full(message: str, limit: int) -> Refused:
    return Refused(
        429, code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message, metadata={"limit": str(limit)}
    )
