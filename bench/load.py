"""The load: one method, N calls in flight, for so many seconds; the figures as JSON.

    echo '{"address": ..., "key": ..., "method": ..., "members": [...], "calls": 64, "seconds": 6}' \
        | python -m bench.load

Requests are made and serialised before the clock starts.
"""

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import grpc
import uvloop
from google.protobuf.message import Message
from google.type import money_pb2
from loyalty.v1 import points_pb2 as pb

CHANNELS = 2
WARM_UP_SECONDS = 1.0
# More than any server here answers; a run that uses them up fails rather than repeat a request.
MOST_CALLS_PER_SECOND = 10_000


def request(method: str, member_id: str) -> Message:
    """A request that was never made before."""
    if method == "Accrue":
        return pb.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=uuid4().hex,
            store="pune-1",
            channel="pos",
            amount=money_pb2.Money(currency_code="INR", units=500),
        )
    if method == "Redeem":
        return pb.RedeemRequest(
            request_id=uuid4().hex, member_id=member_id, points=1, order_reference=uuid4().hex
        )
    return pb.GetBalanceRequest(member_id=member_id)


async def run(order: dict[str, Any]) -> dict[str, Any]:
    """Warm up, measure, and say what was seen; latencies in milliseconds."""
    amount = int((WARM_UP_SECONDS + order["seconds"]) * MOST_CALLS_PER_SECOND)
    members = itertools.islice(itertools.cycle(order["members"]), amount)
    supply = iter([request(order["method"], member_id).SerializeToString() for member_id in members])
    # Channels with the same options share a connection unless told not to.
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(order["address"], options=options) for _ in range(CHANNELS)]
    try:
        await _saturate(channels, order, supply, WARM_UP_SECONDS)
        started = time.perf_counter()
        latencies = await _saturate(channels, order, supply, order["seconds"])
        elapsed = time.perf_counter() - started
    finally:
        for channel in channels:
            await channel.close()
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "rate": len(latencies) / elapsed,
        "p50": cuts[49] * 1000,
        "p95": cuts[94] * 1000,
        "p99": cuts[98] * 1000,
    }


async def _saturate(
    channels: Sequence[grpc.aio.Channel], order: dict[str, Any], supply: Iterator[bytes], seconds: float
) -> list[float]:
    path = f"/loyalty.v1.PointsService/{order['method']}"
    metadata = (("authorization", f"Bearer {order['key']}"),)
    stubs: list[Any] = [channel.unary_unary(path) for channel in channels]
    end = time.perf_counter() + seconds
    latencies: list[float] = []

    async def caller(number: int) -> None:
        call = stubs[number % len(stubs)]
        now = time.perf_counter()
        while now < end:
            await call(next(supply), metadata=metadata, timeout=20)
            before, now = now, time.perf_counter()
            latencies.append(now - before)

    await asyncio.gather(*(caller(number) for number in range(order["calls"])))
    return latencies


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        json.dump(runner.run(run(json.load(sys.stdin))), sys.stdout)
