"""Hints through Redis that something changed. Nobody depends on one arriving."""

import json
from uuid import UUID

from redis.asyncio import Redis

# {"program_id": ..., "revision": ...}: another rule set is in force.
RULES_CHANNEL = "laurel:rules"


async def rules_changed(redis: Redis, program_id: UUID, revision: int) -> None:
    """Tell every process to load the program's rules soon. Raises RedisError or OSError."""
    hint = {"program_id": str(program_id), "revision": revision}
    await redis.publish(RULES_CHANNEL, json.dumps(hint))
