"""Ending tasks for good."""

import asyncio
from collections.abc import Iterable
from typing import Any

# Longer than what a task does on its way out, so that it is not asked again in the middle of that.
AGAIN_SECONDS = 1.0


async def ended(tasks: Iterable[asyncio.Future[Any]], again_seconds: float = AGAIN_SECONDS) -> None:
    """Cancel them, and return when all are over; how each ended is not told.

    A task may lose a cancellation: redis-py looks for data under a time limit of zero before every
    command, and Python 3.11 takes both for the limit's if they meet there. So it is asked again.
    """
    going = {task for task in tasks if not task.done()}
    while going:
        for task in going:
            task.cancel()
        over, going = await asyncio.wait(going, timeout=again_seconds)
        for task in over:
            if not task.cancelled():
                # asyncio complains of an exception that nobody looked at.
                task.exception()
