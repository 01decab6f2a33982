"""A client of WatchMember over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal
from uuid import uuid4

import grpc
from google.type.money_pb2 import Money
from loyalty.v1 import member_pb2 as pb
from loyalty.v1 import member_pb2_grpc, points_pb2

from tests.support.servers import Caller

Kind = Literal["standing", "points", "tier", "status", "message"]
PATIENCE_SECONDS = 60.0


class Watching:
    """A stream of updates. ``event_id`` is that of the last one."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.event_id = ""

    async def next(self, *kinds: Kind) -> Any:
        """The next update, which must be of one of these kinds. Signs of life are passed over."""
        while True:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reply = await self._call.read()
            assert isinstance(reply, pb.WatchMemberResponse), (
                f"the stream ended: {await self._call.details()}"
            )
            self.event_id = reply.event_id
            found = reply.WhichOneof("update")
            if found != "heartbeat":
                assert found in kinds, reply
                return getattr(reply, found)

    async def end(self) -> grpc.StatusCode:
        """The code with which it ends, whatever it tells before."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(grpc.aio.AioRpcError):
                while await self._call.read() is not grpc.aio.EOF:
                    pass
            code: grpc.StatusCode = await self._call.code()
            return code


@asynccontextmanager
async def watching(
    address: str, key: str, member_id: str, last_event_id: str = ""
) -> AsyncIterator[Watching]:
    """A stream on a connection of its own."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = member_pb2_grpc.MemberServiceStub(channel).WatchMember(
            pb.WatchMemberRequest(member_id=member_id, last_event_id=last_event_id),
            metadata=(("authorization", f"Bearer {key}"),),
        )
        try:
            yield Watching(call)
        finally:
            call.cancel()


async def buy(caller: Caller, member_id: str, rupees: int = 100) -> points_pb2.AccrueResponse:
    """A purchase at a terminal."""
    reply: points_pb2.AccrueResponse = await caller.points.Accrue(
        points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=uuid4().hex,
            store="mumbai-1",
            amount=Money(currency_code="INR", units=rupees),
        )
    )
    return reply
