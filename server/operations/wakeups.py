"""Waking those who read the event log, after commits and beside them: many commits make one wake-up."""

import asyncio

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.store.wakeups import Sender

REST_SECONDS = 0.02
RETRY_SECONDS = 1.0

log = structlog.get_logger()


class WakeUps:
    """Tells the workers soon that something was committed. What fails is left to their own looking."""

    def __init__(self, redis: Redis) -> None:
        self._sender = Sender(redis)
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Something was committed."""
        self._rung.set()

    async def run(self) -> None:
        """Send a wake-up for whatever was committed since the last, until cancelled."""
        while True:
            await self._rung.wait()
            self._rung.clear()
            try:
                await self._sender.send()
            except (RedisError, OSError) as error:
                log.debug("wake_up_lost", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(REST_SECONDS)
