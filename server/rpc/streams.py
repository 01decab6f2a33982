"""Calls in which either side sends any number of messages: how they are read, and how they end."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol
from uuid import UUID

from google.protobuf.message import Message

from server.domain.errors import (
    DeadlineExceeded,
    PermissionDenied,
    Refused,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

RETRY_AFTER_SECONDS = 1.0

# A message, or why there is none to be read from its bytes.
Decode = Callable[[bytes], Message | Refused]


class Endable(Protocol):
    """A stream that others can end."""

    def end(self, why: Refused) -> None:
        """Nothing more is said on it; the first reason counts."""


class Inbox:
    """A client's messages as they come, until it has no more to say or ``end`` is called.

    Iterating raises what ended it. One task reads; a message that was on its way at the
    end is not delivered.
    """

    def __init__(self, raws: AsyncIterator[bytes], decode: Decode, idle_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._raws = raws
        self._decode = decode
        self._idle_seconds = idle_seconds
        self._reader: asyncio.Task[object] | None = None
        self._since = self._loop.time()
        self._end: Refused | None = None
        self._timer = self._loop.call_later(idle_seconds, self._look)

    def __aiter__(self) -> "Inbox":
        return self

    async def __anext__(self) -> Message | Refused:
        if self._end is not None:
            raise self._end
        self._reader = reader = asyncio.current_task()
        self._since = self._loop.time()
        try:
            raw = await anext(self._raws)
        except asyncio.CancelledError:
            if self._end is None or reader is None or reader.uncancel() > 0:
                raise
            raise self._end from None
        finally:
            self._reader = None
        return self._decode(raw)

    def end(self, why: Refused) -> None:
        """Nothing more is read; the first reason counts."""
        if self._end is None:
            self._end = why
            if self._reader is not None:
                self._reader.cancel()

    def close(self) -> None:
        """Watch it no longer."""
        self._timer.cancel()

    def _look(self) -> None:
        """End it if it has been waited for a message for too long; else look again when that may be."""
        left = self._idle_seconds
        if self._reader is not None:
            left -= self._loop.time() - self._since
        if left <= 0:
            self.end(_idle(self._idle_seconds))
        else:
            self._timer = self._loop.call_later(left, self._look)


class Outbox:
    """A stream to the client, which lasts as long as the block and can be ended by others.

    What ends it is raised where the block ends. Every ``seconds`` or a little sooner ``check`` is asked
    whether the caller may still listen; it ends the stream by raising Unauthenticated or PermissionDenied.
    """

    __slots__ = ("_check", "_checking", "_end", "_seconds", "_task", "_timer")

    def __init__(self, check: Callable[[], Awaitable[None]], seconds: float) -> None:
        self._check = check
        self._seconds = seconds
        self._end: Refused | None = None
        self._task: asyncio.Task[object] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> "Outbox":
        self._task = asyncio.current_task()
        self._wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
        if self._checking is not None:
            self._checking.cancel()
        if self._end is not None and task is not None and task.uncancel() == 0:
            raise self._end from None

    def end(self, why: Refused) -> None:
        """Nothing more is sent; the first reason counts."""
        if self._end is None and self._task is not None:
            self._end = why
            self._task.cancel()

    def _wait(self) -> None:
        # Not all at once that began at once.
        seconds = self._seconds * random.uniform(0.75, 1)  # noqa: S311 - no secret
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._checking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        try:
            await self._check()
        except (Unauthenticated, PermissionDenied) as refusal:
            self.end(refusal)
        except Refused:
            # It could not be found out; the next time will tell.
            self._wait()
        else:
            self._wait()


class Streams:
    """Those that are open in a process: at most so many, and so many of one credential."""

    def __init__(
        self, *, idle_seconds: float = 300.0, most: int = 1000, most_of_a_credential: int = 50
    ) -> None:
        self.idle_seconds = idle_seconds
        self._most = most
        self._most_of_a_credential = most_of_a_credential
        self._open: set[Endable] = set()
        self._by_credential: Counter[UUID] = Counter()
        self._stopping = False
        self._none = asyncio.Event()
        self._none.set()

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    @contextmanager
    def opened(self, stream: Endable, credential_id: UUID) -> Iterator[None]:
        """A place for as long as the block lasts. Raises Unavailable, ResourceExhausted if there is none."""
        if self._stopping:
            raise _stopping()
        if len(self._open) >= self._most:
            raise _too_many("this process has no more room for streams", self._most)
        if self._by_credential[credential_id] >= self._most_of_a_credential:
            raise _too_many("this credential has too many streams open", self._most_of_a_credential)
        self._open.add(stream)
        self._by_credential[credential_id] += 1
        self._none.clear()
        try:
            yield
        finally:
            self._open.discard(stream)
            self._by_credential[credential_id] -= 1
            if not self._by_credential[credential_id]:
                del self._by_credential[credential_id]
            if not self._open:
                self._none.set()

    async def stop(self) -> None:
        """End every one, let nobody open another, and wait until what was read is answered."""
        self._stopping = True
        for stream in list(self._open):
            stream.end(_stopping())
        await self._none.wait()


def _idle(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        "STREAM_IDLE", f"nothing was said for {seconds:g} seconds", {"limit_seconds": f"{seconds:g}"}
    )


def _stopping() -> Unavailable:
    return Unavailable("SERVER_UNAVAILABLE", "the server stops; come back", None, RETRY_AFTER_SECONDS)


def _too_many(message: str, limit: int) -> ResourceExhausted:
    return ResourceExhausted("TOO_MANY_STREAMS", message, {"limit": str(limit)}, RETRY_AFTER_SECONDS)
