"""Members who watch what happens to them, and come back whenever they are cut off."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from loyalty.v1 import member_pb2, member_pb2_grpc

from tests.faults.apart import Apart
from tests.faults.load import RECONNECT

OPEN_SECONDS = 120.0


@dataclass
class Watched:
    """What one was told: orders, and when by the machine's monotonic clock; and how streams ended.

    ``standings``: how often the stream began with how the member stands. ``ends`` are the codes of streams
    on which something had been told.
    """

    orders: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    standings: int = 0
    ends: list[str] = field(default_factory=list)


class Watchers(Apart):
    """A stream for each of the members, at one server or the other."""

    def __init__(self, addresses: Sequence[str], key: str, members: Sequence[str]) -> None:
        super().__init__(_Watch, addresses, key, members)

    def until_open(self) -> None:
        """Wait until each has been told how their member stands."""
        self.ask("until_open", seconds=OPEN_SECONDS)

    def watched(self) -> dict[str, Watched]:
        """What each member was told so far."""
        found: dict[str, Watched] = self.ask("watched")
        return found


class _Watch:
    def __init__(self, addresses: Sequence[str], key: str, members: Sequence[str]) -> None:
        self._stubs: list[Any] = [
            member_pb2_grpc.MemberServiceStub(grpc.aio.insecure_channel(address, options=RECONNECT))
            for address in addresses
        ]
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._found = {member: Watched() for member in members}
        self._tasks = [
            asyncio.create_task(self._follow(member, number)) for number, member in enumerate(members)
        ]

    async def until_open(self) -> None:
        while not all(found.standings for found in self._found.values()):  # noqa: ASYNC110 - rarely asked
            await asyncio.sleep(0.01)

    async def watched(self) -> dict[str, Watched]:
        return self._found

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, member: str, server: int) -> None:
        found, last = self._found[member], ""
        while True:
            request = member_pb2.WatchMemberRequest(member_id=member, last_event_id=last)
            stub = self._stubs[server % len(self._stubs)]
            told = False
            try:
                async for update in stub.WatchMember(request, metadata=self._metadata):
                    last, told = update.event_id, True
                    if update.HasField("points"):
                        found.orders.append(update.points.order_reference)
                        found.times.append(time.monotonic())
                    found.standings += update.HasField("standing")
            except grpc.aio.AioRpcError as error:
                if told:
                    found.ends.append(error.code().name)
            server += 1
            await asyncio.sleep(random.uniform(0.05, 0.2))
