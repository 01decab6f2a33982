"""Wake-ups for those who read the event log, as jobs of ARQ. Nobody depends on one arriving.

ARQ drops a job whose id is queued or running, which bounds the queue while nobody works it off. So
each process has a few ids and takes them in turn: when one comes round again its job is over.
"""

import json
from typing import Any
from uuid import uuid4

from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool, Redis

QUEUE = "laurel:jobs"
WAKE = "wake"
IDS = 16
SOCKET_SECONDS = 0.5


def client(url: str) -> ArqRedis:
    """ARQ's client of this Redis, with JSON for what stands in its jobs. Raises ValueError for no URL."""
    return _speaking(
        ConnectionPool.from_url(url, socket_timeout=SOCKET_SECONDS, socket_connect_timeout=SOCKET_SECONDS)
    )


def serialize(job: dict[str, Any]) -> bytes:
    """A job as ARQ keeps it."""
    return json.dumps(job, default=str).encode()


class Sender:
    """Sends the wake-ups of one process."""

    def __init__(self, redis: Redis) -> None:
        self._redis = _speaking(redis.connection_pool)
        self._name = uuid4().hex[:8]
        self._sent = 0

    async def send(self) -> None:
        """Tell the workers that there may be something to do. Raises RedisError or OSError."""
        self._sent += 1
        await self._redis.enqueue_job(WAKE, _job_id=f"wake-{self._name}-{self._sent % IDS}")


def _speaking(pool: ConnectionPool) -> ArqRedis:
    return ArqRedis(
        pool_or_conn=pool, job_serializer=serialize, job_deserializer=json.loads, default_queue_name=QUEUE
    )
