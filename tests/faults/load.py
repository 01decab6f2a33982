"""Tills that sell and redeem without pause, and never forget what they asked for."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

import grpc
from grpc_status import rpc_status
from loyalty.v1 import holds_pb2_grpc, points_pb2_grpc

from tests.faults.apart import Apart
from tests.support.refusals import Refusal, read
from tests.support.servers import WithKey

CALL_SECONDS = 5.0
PROBE_SECONDS = 15.0
PROBE_PAUSE_SECONDS = 0.05
# On a busy machine a server may take long to come back; who is patient passes sooner where all is well.
PATIENCE_SECONDS = 120.0
SETTLE_SECONDS = 300.0
# What leaves open whether the request was carried out, by the contracts.
OPEN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
# A channel must find a restarted server again soon.
RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@dataclass
class Sale:
    """One request, what became of it, and the codes of the tries that left it open, with their words.

    ``replied``: when the reply came, by the machine's monotonic clock.
    """

    method: str
    request: Any
    server: int
    reply: Any = None
    replied: float = 0.0
    refusal: str = ""
    unanswered: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def transaction_ids(self) -> list[str]:
        """The rows that the reply names."""
        if self.reply is None:
            return []
        if self.method == "Accrue":
            return [award.transaction_id for award in self.reply.awards]
        return [self.reply.transaction_id]


@dataclass(frozen=True)
class Probe:
    """One call that was not repeated: how long it took, in seconds, and its refusal."""

    method: str
    server: int
    took: float
    refusal: Refusal | None


class Tills(Apart):
    """Callers who each take the next sale and send it until it is answered.

    With one request_id, to one server and the other. A call that takes longer than ``call_seconds`` is
    given up.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        key: str,
        count: int,
        seed: int,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        super().__init__(_Line, addresses, key, count, seed, call_seconds)

    def sell(self, sales: Sequence[Sale]) -> None:
        """Put these in the line."""
        self.ask("sell", sales)

    def settled(self, seconds: float = SETTLE_SECONDS) -> list[Sale]:
        """Every sale there was, in order, once all are settled."""
        return cast("list[Sale]", self.ask("settled", seconds=seconds))

    def until_left(self, count: int, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until no more than so many sales stand in the line, all tills being busy."""
        self.ask("until_left", count, seconds=seconds)

    def repeated(self, seconds: float = SETTLE_SECONDS) -> list[Any]:
        """What each acknowledged sale, in order, is answered when the other server gets it once more."""
        return cast("list[Any]", self.ask("repeated", seconds=seconds))

    def answers(self, calls: Sequence[tuple[str, Any]], seconds: float = SETTLE_SECONDS) -> list[Any]:
        """What each call, in order, is answered by one server or the other."""
        return cast("list[Any]", self.ask("answers", calls, seconds=seconds))

    def probed(self, calls: Sequence[tuple[str, Any]], during: float) -> list[Probe]:
        """Calls to each server, again and again with request_ids of their own, for so many seconds."""
        return cast("list[Probe]", self.ask("probed", calls, during, seconds=during + 60.0))


class _Line:
    """The line of sales and the tills that it leads to."""

    def __init__(
        self, addresses: Sequence[str], key: str, count: int, seed: int, call_seconds: float
    ) -> None:
        self._call_seconds = call_seconds
        self._channels = [
            grpc.aio.insecure_channel(address, options=RECONNECT, interceptors=[WithKey(key)])
            for address in addresses
        ]
        self._stubs: list[list[Any]] = [
            [points_pb2_grpc.PointsServiceStub(channel), holds_pb2_grpc.HoldServiceStub(channel)]
            for channel in self._channels
        ]
        self._count = count
        self._random = random.Random(seed)
        self._sales: list[Sale] = []
        self._line: asyncio.Queue[Sale] = asyncio.Queue()
        self._tills = [asyncio.create_task(self._till()) for _ in range(count)]

    async def close(self) -> None:
        for till in self._tills:
            till.cancel()
        await asyncio.gather(*self._tills, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    async def sell(self, sales: Sequence[Sale]) -> None:
        self._sales += sales
        for sale in sales:
            self._line.put_nowait(sale)

    async def settled(self) -> list[Sale]:
        await self._line.join()
        return self._sales

    async def until_left(self, count: int) -> None:
        while self._line.qsize() > count:  # noqa: ASYNC110 - a queue tells nobody that it has become shorter
            await asyncio.sleep(0.001)

    async def repeated(self) -> list[Any]:
        acknowledged = [sale for sale in self._sales if sale.reply is not None]
        return await self._replies([Sale(s.method, s.request, 1 - s.server) for s in acknowledged])

    async def answers(self, calls: Sequence[tuple[str, Any]]) -> list[Any]:
        return await self._replies([Sale(*call, n % len(self._stubs)) for n, call in enumerate(calls)])

    async def _replies(self, sales: Sequence[Sale]) -> list[Any]:
        free = asyncio.Semaphore(self._count)

        async def reply(sale: Sale) -> Any:
            async with free:
                # A server that was just started again may need a moment.
                await self._settle(sale)
            return sale.reply

        return await asyncio.gather(*map(reply, sales))

    async def probed(self, calls: Sequence[tuple[str, Any]], during: float) -> list[Probe]:
        until = time.monotonic() + during

        async def probe(server: int, method: str, request: Any) -> list[Probe]:
            probes = []
            while time.monotonic() < until:
                own = type(request)()
                own.CopyFrom(request)
                if method != "GetBalance":
                    own.request_id = f"probe-{uuid4().hex}"
                probes.append(await self._probe(server, method, own))
                await asyncio.sleep(PROBE_PAUSE_SECONDS)
            return probes

        servers = range(len(self._stubs))
        each = await asyncio.gather(*(probe(server, *call) for server in servers for call in calls))
        return [probe for probes in each for probe in probes]

    async def _probe(self, server: int, method: str, request: Any) -> Probe:
        # Time enough for the server to give up by itself.
        began, refusal = time.monotonic(), None
        try:
            await self._call(method, request, server, PROBE_SECONDS)
        except grpc.aio.AioRpcError as error:
            refusal = read(error)
        return Probe(method, server, time.monotonic() - began, refusal)

    async def _call(self, method: str, request: Any, server: int, seconds: float) -> Any:
        stub = next(stub for stub in self._stubs[server] if hasattr(stub, method))
        return await getattr(stub, method)(request, timeout=seconds)

    async def _till(self) -> None:
        while True:
            sale = await self._line.get()
            try:
                await self._settle(sale)
            except Exception as fault:  # noqa: BLE001 - the test is told instead of the till standing still
                sale.refusal = repr(fault)
            finally:
                self._line.task_done()

    async def _settle(self, sale: Sale) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            try:
                sale.reply = await self._call(sale.method, sale.request, sale.server, self._call_seconds)
                sale.replied = time.monotonic()
                return
            except grpc.aio.AioRpcError as error:
                if not _leaves_open(error):
                    sale.refusal = read(error).reason
                    return
                sale.unanswered.append(error.code().name)
                sale.words.append(error.details() or "")
            sale.server = 1 - sale.server
            await asyncio.sleep(self._random.uniform(0.02, 0.3))
        sale.refusal = f"no answer in {PATIENCE_SECONDS:.0f} s"


def _leaves_open(error: grpc.aio.AioRpcError) -> bool:
    """Also what gRPC itself says of a broken connection, without our details, in codes of its own."""
    return error.code() in OPEN or rpc_status.from_call(error) is None
