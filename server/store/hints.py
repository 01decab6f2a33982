"""Hints through Redis that something changed. Nobody depends on one arriving."""

import json
from collections.abc import AsyncIterator, Mapping
from uuid import UUID

from redis.asyncio import Redis

from server.store.ledger import MemberOf

# {"program_id": ..., "revision": ...}: another rule set is in force.
RULES_CHANNEL = "laurel:rules"
# One line a member: program and member as 32 hexadecimal digits each, and the version that they have now.
MEMBERS_CHANNEL = "laurel:members"
WAIT_SECONDS = 10.0


async def rules_changed(redis: Redis, program_id: UUID, revision: int) -> None:
    """Tell every process to load the program's rules soon. Raises RedisError or OSError."""
    hint = {"program_id": str(program_id), "revision": revision}
    await redis.publish(RULES_CHANNEL, json.dumps(hint))


async def rule_changes(redis: Redis) -> AsyncIterator[UUID]:
    """The programs whose rules change from now on. Raises RedisError or OSError when Redis goes away."""
    async with redis.pubsub() as channel:
        await channel.subscribe(RULES_CHANNEL)
        while True:
            message = await channel.get_message(ignore_subscribe_messages=True, timeout=WAIT_SECONDS)
            program_id = None if message is None else _program_of(message["data"])
            if program_id is not None:
                yield program_id


async def members_changed(redis: Redis, versions: Mapping[MemberOf, int]) -> None:
    """Tell every process that these members changed, with one command. Raises RedisError or OSError."""
    lines = [f"{name_of(member)} {version}" for member, version in versions.items()]
    await redis.publish(MEMBERS_CHANNEL, "\n".join(lines))


def name_of(member: MemberOf) -> str:
    """What a hint calls a member."""
    return f"{member[0].hex} {member[1].hex}"


async def member_changes(redis: Redis) -> AsyncIterator[list[str]]:
    """The names of members that change from now on, as they come; first nobody's, as soon as it listens.

    Raises RedisError or OSError when Redis goes away.
    """
    async with redis.pubsub() as channel:
        await channel.subscribe(MEMBERS_CHANNEL)
        while True:
            message = await channel.get_message(timeout=WAIT_SECONDS)
            if message is None:
                continue
            if message["type"] == "message":
                yield [
                    line.rpartition(" ")[0] for line in message["data"].decode("ascii", "replace").split("\n")
                ]
            else:
                yield []


def _program_of(data: bytes) -> UUID | None:
    """The program that a hint names; None if it is no hint of ours."""
    try:
        return UUID(json.loads(data)["program_id"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
