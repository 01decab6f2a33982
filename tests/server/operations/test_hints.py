"""Hints: rules are there before anybody asks for them, and changes of members are told after the commit."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from google.type import money_pb2
from loyalty.v1 import member_pb2, points_pb2
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from server.domain.actor import Actor, CallerKind
from server.operations import hints
from server.operations.hints import MOST_WAITING, Hints
from server.operations.programs import Programs
from server.operations.rules import Change, Rules
from server.store.database import Database
from server.store.hints import MEMBERS_CHANNEL, RULES_CHANNEL
from tests.support.programs import new_program
from tests.support.servers import Laurel

BASE = {"rule": "base", "then": [{"fixed": {"points": 1}}]}


@pytest.mark.parametrize("noise", [None, b"no json", b"5", b'{"program_id": 1}'])
async def test_rules_published_elsewhere_are_loaded_at_once(
    database: Database, redis_url: str, noise: bytes | None
) -> None:
    program = await new_program(database)
    here = Programs()
    async with database.connection() as connection:
        assert (await here.current(connection, program.program_id)).rules.rules == ()
    actor = Actor(CallerKind.SERVICE, program.program_id, UUID(int=7), "test", "test", frozenset())
    async with Redis.from_url(redis_url, socket_timeout=0.5) as redis:
        following = asyncio.create_task(hints.follow(redis, database, here))
        elsewhere = Rules(database, redis, Programs(), lambda: datetime.now(UTC))
        await until(lambda: listeners(redis))
        if noise is not None:
            await redis.publish(RULES_CHANNEL, noise)
        stored = await elsewhere.create(actor, BASE)
        revision, _ = await elsewhere.publish(actor, Change({"base": stored.version}, frozenset()))

        async def loaded() -> bool:
            snapshot = here.known(program.program_id)
            return snapshot is not None and snapshot.revision == revision

        await until(loaded)
        following.cancel()
    snapshot = here.known(program.program_id)
    assert snapshot is not None
    assert [rule.name for rule in snapshot.rules.rules] == ["base"]


async def test_whoever_listens_is_told_of_each_change_of_a_member(laurel: Laurel, redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, redis.pubsub() as channel:
        await channel.subscribe(MEMBERS_CHANNEL)
        assert (await anext(channel.listen()))["type"] == "subscribe"
        member_id = await laurel.register()
        assert await told(channel, laurel, member_id) == 1
        await laurel.terminal.points.Accrue(
            points_pb2.AccrueRequest(
                request_id=uuid4().hex,
                member_id=member_id,
                order_reference=uuid4().hex,
                amount=money_pb2.Money(currency_code="INR", units=100),
            )
        )
        assert await told(channel, laurel, member_id) == 2
        suspend = member_pb2.SuspendMemberRequest(request_id=uuid4().hex, member_id=member_id, reason="test")
        suspended = await laurel.service.members.SuspendMember(suspend)
        assert await told(channel, laurel, member_id) == suspended.member.version == 3
        # Once more changes nothing, so there is nothing to tell: what comes next is the next change.
        await laurel.service.members.SuspendMember(suspend)
        reactivate = member_pb2.ReactivateMemberRequest(request_id=uuid4().hex, member_id=member_id)
        await laurel.service.members.ReactivateMember(reactivate)
        assert await told(channel, laurel, member_id) == 4


async def test_a_redis_that_hangs_takes_neither_time_nor_memory_of_who_commits() -> None:
    tried: asyncio.Queue[None] = asyncio.Queue()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tried.put_nowait(None)
        while await reader.read(65536):
            pass
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    redis = Redis(port=port, socket_timeout=0.5, socket_connect_timeout=0.5)
    hints = Hints(redis)
    program_id = uuid4()
    for _ in range(3 * MOST_WAITING):
        hints.changed(program_id, uuid4(), 1)
    assert hints.waiting == MOST_WAITING
    # Twice it is tried in vain, while others come.
    for _ in range(2):
        async with asyncio.timeout(30):
            await tried.get()
        hints.changed(program_id, uuid4(), 1)
    assert hints.waiting <= MOST_WAITING
    await hints.close()
    assert hints.waiting == MOST_WAITING
    await redis.aclose()
    server.close()


async def told(channel: PubSub, laurel: Laurel, member_id: str) -> int:
    """The version that the next hint about the member tells."""
    wanted = f"{laurel.program.program_id.hex} {UUID(member_id).hex} "
    async with asyncio.timeout(30):
        async for message in channel.listen():
            if message["type"] == "message":
                for line in message["data"].decode().splitlines():
                    if line.startswith(wanted):
                        return int(line.removeprefix(wanted))
    raise AssertionError("the channel ended")


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110 - it comes about in another process
            await asyncio.sleep(0.01)


async def listeners(redis: Redis) -> int:
    """How many are subscribed."""
    ((_, count),) = await redis.pubsub_numsub(RULES_CHANNEL)
    return int(count)
