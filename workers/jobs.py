"""ARQ's worker: it takes wake-ups from Redis, and starts anew whenever Redis was away.

A job here does nothing that would be missed if Redis forgot it: it tells somebody in this process to
look whether there is work.
"""

import asyncio
import json
import signal
from contextlib import suppress
from typing import Any

import structlog
from arq.worker import Worker, func
from redis.exceptions import RedisError

from server.store import wakeups
from workers.relay import Relay

POLL_SECONDS = 0.05
JOB_SECONDS = 5
HEALTH_SECONDS = 10
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0

log = structlog.get_logger()


async def wake(ctx: dict[Any, Any], *_: Any, **__: Any) -> None:
    """There may be something in the log for somebody."""
    relay: Relay = ctx["relay"]
    relay.wake()


class Jobs:
    """Works off ARQ's queue. ``answering`` says whether Redis let it do so the last time."""

    def __init__(self, redis_url: str, relay: Relay, completion_seconds: float) -> None:
        self.answering = False
        self._redis_url = redis_url
        self._context: dict[Any, Any] = {"relay": relay}
        self._completion_seconds = completion_seconds
        self._worker: Worker | None = None
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
        """Take no more jobs; what is under way has ``completion_seconds``."""
        self._stopping.set()
        if self._worker is not None:
            self._worker.handle_sig_wait_for_completion(signal.SIGTERM)

    async def _work(self) -> None:
        """Until Redis goes away or somebody asks to stop."""
        redis = wakeups.client(self._redis_url)
        self._worker = worker = Worker(
            [func(wake, name=wakeups.WAKE)],
            queue_name=wakeups.QUEUE,
            redis_pool=redis,
            handle_signals=False,
            ctx=self._context,
            job_completion_wait=int(self._completion_seconds),
            poll_delay=POLL_SECONDS,
            job_timeout=JOB_SECONDS,
            keep_result=0,
            health_check_interval=HEALTH_SECONDS,
            job_serializer=wakeups.serialize,
            job_deserializer=json.loads,
            log_results=False,
        )
        working = asyncio.create_task(worker.async_run())
        self.answering = True
        try:
            await asyncio.wait([working])
        finally:
            self.answering = False
            working.cancel()
            await asyncio.gather(working, *worker.tasks.values(), return_exceptions=True)
            self._worker = None
            with suppress(RedisError, OSError):
                await redis.delete(worker.health_check_key)
            await redis.aclose(close_connection_pool=True)
        fault = None if working.cancelled() else working.exception()
        if isinstance(fault, RedisError | OSError):
            log.warning("redis_unreachable", error=type(fault).__name__)
        elif fault is not None:
            raise fault
