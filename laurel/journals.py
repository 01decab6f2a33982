"""Journals of what tills did: read from JSON lines, sent until all are answered."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2
from loyalty.v1 import journal_pb2, journal_pb2_grpc

from gateway.channel import feed
from laurel.calls import ATTEMPTS, FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, PASSING
from laurel.failures import Failure, no_message

# Of those that were refused, so many are kept to be shown.
MOST_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """An entry that was not accepted. ``line`` is its place in the file, from 1."""

    line: int
    request_id: str
    reason: str
    message: str


@dataclass
class Tally:
    """What became of a journal. ``known`` were on record before, of the ``accepted``.

    ``put_aside``: by what a person who looks at them has decided, ``pending`` for those that wait.
    """

    entries: int = 0
    accepted: int = 0
    known: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    refused: list[RefusedEntry] = field(default_factory=list)
    put_aside: dict[str, int] = field(default_factory=dict)
    retries: int = 0

    def add(self, line: int, reply: journal_pb2.ExchangeResponse) -> None:
        """One more is answered."""
        result = reply.result
        self.entries += 1
        if result.HasField("review"):
            status = journal_pb2.ReviewStatus.Name(result.review.status)
            word = status.removeprefix("REVIEW_STATUS_").lower()
            self.put_aside[word] = self.put_aside.get(word, 0) + 1
            return
        if not result.HasField("error"):
            self.accepted += 1
            self.known += reply.replayed
            return
        info = error_details_pb2.ErrorInfo()
        for detail in result.error.details:
            if detail.Unpack(info):
                break
        self.reasons[info.reason] = self.reasons.get(info.reason, 0) + 1
        if len(self.refused) < MOST_SHOWN:
            self.refused.append(RefusedEntry(line, result.request_id, info.reason, result.error.message))


def read(path: Path) -> Iterator[tuple[int, journal_pb2.JournalEntry]]:
    """The entries of a file with their lines; blank lines don't count. Raises Failure for what is none."""
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                entry = json_format.Parse(raw.decode(), journal_pb2.JournalEntry())
            except (json_format.ParseError, UnicodeDecodeError) as error:
                raise Failure(f"{path}:{line}: {no_message(error)}") from None
            yield line, entry


def counted(path: Path) -> int:
    """How many entries a file has. Raises Failure unless all can be read."""
    return sum(1 for _ in read(path))


class Upload:
    """A file on its way to the server, by one stream after the other until all is answered."""

    def __init__(self, channel: grpc.aio.Channel, key: str, path: Path) -> None:
        self._stub: Any = journal_pb2_grpc.JournalServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._path = path
        self.tally = Tally()

    async def run(self, done: Callable[[], None]) -> None:
        """Send what is not answered yet, again after an outage; ``done`` is told of each answer.

        Raises grpc.RpcError when that goes on for too long, or is no outage.
        """
        wait, tries = FIRST_WAIT_SECONDS, 0
        while True:
            before = self.tally.entries
            try:
                await self._send(done)
            except grpc.aio.AioRpcError as error:
                if self.tally.entries > before:
                    wait, tries = FIRST_WAIT_SECONDS, 0
                tries += 1
                if error.code() not in PASSING or tries == ATTEMPTS:
                    raise
            else:
                return
            self.tally.retries += 1
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come back at once
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    async def _send(self, done: Callable[[], None]) -> None:
        lines: deque[int] = deque()
        skipped = self.tally.entries

        async def requests() -> AsyncIterator[bytes]:
            for place, (line, entry) in enumerate(read(self._path)):
                if place >= skipped:
                    lines.append(line)
                    yield journal_pb2.ExchangeRequest(entry=entry).SerializeToString()

        call = self._stub.Exchange(metadata=self._metadata)
        try:
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(feed(call, requests()))
                async for reply in call:
                    self.tally.add(lines.popleft(), reply)
                    done()
                feeding.cancel()
        except ExceptionGroup as failures:
            # Whoever asked wants why the stream ended, not a group of one.
            raise failures.exceptions[0] from None
        finally:
            call.cancel()
