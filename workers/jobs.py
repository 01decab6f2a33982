"""ARQ's worker: it takes wake-ups from Redis, and starts anew whenever Redis was away.

A job here does nothing that would be missed if Redis forgot it: it tells somebody in this process to
look whether there is work.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any

import structlog
from arq.worker import Worker, func
from redis.exceptions import RedisError

from server.ending import ended
from server.store import wakeups
from workers.relay import Relay

POLL_SECONDS = 0.05
JOB_SECONDS = 5
HEALTH_SECONDS = 10
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0
CANCEL_SECONDS = 0.25

log = structlog.get_logger()


async def wake(ctx: dict[Any, Any], *_: Any, **__: Any) -> None:
    """There may be something in the log for somebody."""
    relay: Relay = ctx["relay"]
    relay.wake()


class Jobs:
    """Works off ARQ's queue. ``answering`` says whether Redis let it do so the last time."""

    def __init__(self, redis_url: str, relay: Relay) -> None:
        self.answering = False
        self._redis_url = redis_url
        self._context: dict[Any, Any] = {"relay": relay}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Work until ``stop``, with pauses while Redis is away."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            began = asyncio.get_running_loop().time()
            await self._work()
            if asyncio.get_running_loop().time() - began > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def stop(self) -> None:
        """Take no more jobs; ``run`` returns when those that have begun are over."""
        self._stopping.set()

    async def _work(self) -> None:
        """Until Redis goes away or somebody asks to stop."""
        redis = wakeups.client(self._redis_url)
        worker = Worker(
            [func(wake, name=wakeups.WAKE)],
            queue_name=wakeups.QUEUE,
            redis_pool=redis,
            handle_signals=False,
            ctx=self._context,
            poll_delay=POLL_SECONDS,
            job_timeout=JOB_SECONDS,
            keep_result=0,
            health_check_interval=HEALTH_SECONDS,
            job_serializer=wakeups.serialize,
            job_deserializer=json.loads,
            log_results=False,
        )
        working = asyncio.create_task(worker.async_run())
        asked = asyncio.create_task(self._stopping.wait())
        self.answering = True
        try:
            await asyncio.wait([working, asked], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.answering = False
            # Not by ARQ's own way to stop, which cancels its loop once and leaves it at that.
            await ended([working, asked], CANCEL_SECONDS)
            await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
            with suppress(RedisError, OSError):
                await redis.delete(worker.health_check_key)
            await redis.aclose(close_connection_pool=True)
        fault = None if working.cancelled() else working.exception()
        if isinstance(fault, RedisError | OSError):
            log.warning("redis_unreachable", error=type(fault).__name__)
        elif fault is not None:
            raise fault
