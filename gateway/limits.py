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
    one address for callers without. A stream on which nothing is said for
    ``idle_seconds`` is ended; ``keep_alive_seconds`` is how often an SSE stream says that
    it is still there.
    """

    body: int = 4 * 1024 * 1024
    depth: int = 64
    max_deadline: float = 60.0
    streams: int = 1000
    streams_per_caller: int = 50
    idle_seconds: float = 300.0
    keep_alive_seconds: float = 15.0

    @property
    def strangers(self) -> int:
        """Streams of one address that the server has not let in yet: never all there is room for.

        Half of it, because all clients may come back at once, by way of one proxy.
        """
        return (self.streams + 1) // 2


class Place(Interruption):
    """A stream's place among those that are open. ``unknown`` until the server has let the caller in."""

    def __init__(self, strangers: Counter[str], address: str) -> None:
        super().__init__()
        self.unknown = True
        self._strangers = strangers
        self._address = address
        strangers[address] += 1

    def admitted(self) -> None:
        """The server let the caller in, or the stream is over."""
        if self.unknown:
            self.unknown = False
            _less(self._strangers, (self._address,))


class Slots:
    """Counts what is open, in all and by caller."""

    def __init__(self, limits: Limits) -> None:
        self._by_caller: Counter[str] = Counter()
        # By address: credentials that nobody has looked at bound nobody.
        self._strangers: Counter[str] = Counter()
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
        return self._strangers.total()

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

        ``callers`` are the names under which it counts; under ``address`` it does until the
        place is told that the server has let them in.
        """
        if self._stopping:
            raise _stopping()
        if self.open >= self._limits.streams:
            raise _full("this process has no more room for streams", self._limits.streams)
        if self._strangers[address] >= self._limits.strangers:
            raise _full("too many streams from this address wait to be let in", self._limits.strangers)
        for caller in callers:
            if self._by_caller[caller] >= self._limits.streams_per_caller:
                raise _full("this caller has too many streams open", self._limits.streams_per_caller)
        if (task := asyncio.current_task()) is not None:
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        place = Place(self._strangers, address)
        self._places.add(place)
        self._by_caller.update(callers)
        try:
            with place:
                yield place
        finally:
            self._places.discard(place)
            place.admitted()
            _less(self._by_caller, callers)


def _less(counts: Counter[str], names: Iterable[str]) -> None:
    counts.subtract(names)
    for name in names:
        if not counts[name]:
            del counts[name]


def _stopping() -> Refused:
    return Refused(503, code_pb2.UNAVAILABLE, "SERVER_UNAVAILABLE", "the server stops; come back")


def _full(message: str, limit: int) -> Refused:
    return Refused(
        429, code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message, metadata={"limit": str(limit)}
    )
