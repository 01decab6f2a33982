"""A process that follows hints has the rules before anybody asks for them."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from redis.asyncio import Redis

from server.domain.actor import Actor, CallerKind
from server.operations import hints
from server.operations.programs import Programs
from server.operations.rules import Change, Rules
from server.store.database import Database
from server.store.hints import RULES_CHANNEL
from tests.support.programs import new_program

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


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(5):
        while not await holds():  # noqa: ASYNC110 - it comes about in another process
            await asyncio.sleep(0.01)


async def listeners(redis: Redis) -> int:
    """How many are subscribed."""
    ((_, count),) = await redis.pubsub_numsub(RULES_CHANNEL)
    return int(count)
