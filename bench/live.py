"""How soon what happens to a member is known, while others buy at a steady rate.

A purchase: from when a terminal begins the call until an open WebSocket of the member shows it. An event:
from when a service begins to submit it until the reply that says what it brought, which comes after COMMIT.
"""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf import json_format
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2, points_pb2_grpc, rules_pb2
from websockets.asyncio.client import connect

from bench.load import Target
from laurel.client import Client

# So many members are looked at, each again after a pause: two dozen looks a second among the load.
WATCHED = 20
PAUSE_SECONDS = 0.8
PATIENCE_SECONDS = 20.0
EVENT_TYPE = "REVIEW_SUBMITTED"
REWARD = {"rule": "review", "when": {"event": EVENT_TYPE}, "then": [{"fixed": {"points": 50}}]}


@dataclass(frozen=True, slots=True)
class Delays:
    """Milliseconds, of so many looks."""

    p50: float
    p95: float
    looks: int


def shown(target: Target, members: Sequence[str], warm_up: float, seconds: float) -> Delays:
    """From the purchase to the WebSocket."""
    return asyncio.run(_delays(target, members, warm_up, seconds, _until_shown))


def rewarded(target: Target, members: Sequence[str], warm_up: float, seconds: float) -> Delays:
    """From the event to its reward; the rule must be in force."""
    return asyncio.run(_delays(target, members, warm_up, seconds, _until_rewarded))


@contextmanager
def reward_in_force(target: Target) -> Iterator[None]:
    """Reviews bring points as long as the block lasts."""
    with grpc.insecure_channel(target.address) as channel:
        client = Client(channel, target.key)
        request = rules_pb2.CreateRuleRequest()
        json_format.ParseDict(REWARD, request.definition)
        event_type = rules_pb2.EventType(name=EVENT_TYPE, attributes={"rating": "number"})
        client.call(client.rules.CreateEventType, rules_pb2.CreateEventTypeRequest(event_type=event_type))
        rule = client.call(client.rules.CreateRule, request).rule
        version = rules_pb2.RuleVersion(name=rule.name, version=rule.version)
        client.call(client.rules.PublishRules, rules_pb2.PublishRulesRequest(publish=[version]))
        yield
        client.call(client.rules.PublishRules, rules_pb2.PublishRulesRequest(retire=[rule.name]))


Look = Callable[[], Awaitable[float]]
Looking = Callable[[Target, Any, str, Callable[[Look], Awaitable[None]]], Awaitable[None]]


async def _delays(
    target: Target, members: Sequence[str], warm_up: float, seconds: float, looking: Looking
) -> Delays:
    began = time.monotonic()
    delays: list[float] = []

    async def again(look: Look) -> None:
        await asyncio.sleep(random.uniform(0, PAUSE_SECONDS))  # noqa: S311 - not all at the same moment
        while (now := time.monotonic()) < began + warm_up + seconds:
            async with asyncio.timeout(PATIENCE_SECONDS):
                delay = await look()
            if now >= began + warm_up:
                delays.append(1000 * delay)
            await asyncio.sleep(PAUSE_SECONDS)

    async with grpc.aio.insecure_channel(target.address) as channel:
        points = points_pb2_grpc.PointsServiceStub(channel)
        await asyncio.gather(*(looking(target, points, member_id, again) for member_id in members[:WATCHED]))
    cuts = statistics.quantiles(delays, n=20)
    return Delays(cuts[9], cuts[18], len(delays))


async def _until_shown(
    target: Target, points: Any, member_id: str, again: Callable[[Look], Awaitable[None]]
) -> None:
    place = f"ws://{target.http}/members/{member_id}:watch"
    async with connect(place, proxy=None, additional_headers=dict(_metadata(target))) as socket:
        await socket.recv()  # how the member stands

        async def look() -> float:
            order = uuid4().hex
            request = points_pb2.AccrueRequest(
                request_id=order,
                member_id=member_id,
                order_reference=order,
                amount=Money(currency_code="INR", units=500),
            )
            began = time.perf_counter()
            buying = asyncio.create_task(_made(points.Accrue(request, metadata=_metadata(target))))
            # The member may be among those who make the load.
            while json.loads(await socket.recv())["result"].get("points", {}).get("orderReference") != order:
                pass
            delay = time.perf_counter() - began
            await buying
            return delay

        await again(look)


async def _until_rewarded(
    target: Target, points: Any, member_id: str, again: Callable[[Look], Awaitable[None]]
) -> None:
    async def look() -> float:
        request = points_pb2.SubmitEventRequest(
            request_id=uuid4().hex, member_id=member_id, event_type=EVENT_TYPE, reference=uuid4().hex
        )
        request.attributes["rating"] = 5
        began = time.perf_counter()
        reply = await points.SubmitEvent(request, metadata=_metadata(target))
        delay = time.perf_counter() - began
        assert reply.points == REWARD["then"][0]["fixed"]["points"], reply  # type: ignore[index]
        return delay

    await again(look)


async def _made(call: Awaitable[Any]) -> None:
    await call


def _metadata(target: Target) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {target.key}"),)
