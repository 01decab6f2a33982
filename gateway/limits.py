"""How much a client may ask for at once. Sizes in bytes, times in seconds."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
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


class Slots:
    """Counts what is open, in all and by caller."""

    def __init__(self, limits: Limits) -> None:
        self.open = 0
        self._by_caller: Counter[str] = Counter()
        self._interruptions: set[Interruption] = set()
        # Whose last words to the client come when their place is free again.
        self._telling: set[asyncio.Task[object]] = set()
        self._stopping = False
        self._limits = limits

    async def end_all(self, seconds: float) -> None:
        """End every stream, and let nobody open another: the process stops.

        Returns when all clients have been told why, or after so many seconds.
        """
        self._stopping = True
        for interruption in list(self._interruptions):
            interruption.strike(_stopping())
        if self._telling:
            await asyncio.wait(self._telling, timeout=seconds)

    @contextmanager
    def taken(self, callers: Sequence[str]) -> Iterator[Interruption]:
        """One place for as long as the block lasts, which others can end. Raises Refused if there is none.

        ``callers`` are the names under which it counts.
        """
        if self._stopping:
            raise _stopping()
        if self.open >= self._limits.streams:
            raise _full("this process has no more room for streams", self._limits.streams)
        for caller in callers:
            if self._by_caller[caller] >= self._limits.streams_per_caller:
                raise _full("this caller has too many streams open", self._limits.streams_per_caller)
        if (task := asyncio.current_task()) is not None:
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        self.open += 1
        self._by_caller.update(callers)
        interruption = Interruption()
        self._interruptions.add(interruption)
        try:
            with interruption:
                yield interruption
        finally:
            self._interruptions.discard(interruption)
            self.open -= 1
            self._by_caller.subtract(callers)
            for caller in callers:
                if not self._by_caller[caller]:
                    del self._by_caller[caller]


def _stopping() -> Refused:
    return Refused(503, code_pb2.UNAVAILABLE, "SERVER_UNAVAILABLE", "the server stops; come back")


def _full(message: str, limit: int) -> Refused:
    return Refused(
        429, code_pb2.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message, metadata={"limit": str(limit)}
    )
