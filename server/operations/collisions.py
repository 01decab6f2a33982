"""Doing a piece of work again when its transaction met another one."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from server.store.database import Collided

ATTEMPTS = 6

Given = ParamSpec("Given")
Result = TypeVar("Result")


def repeated(work: Callable[Given, Awaitable[Result]]) -> Callable[Given, Awaitable[Result]]:
    """The same work, done again after a collision; in the end it raises Collided.

    Only for what leaves nothing behind but by its one transaction.
    """

    @wraps(work)
    async def repeatedly(*given: Given.args, **named: Given.kwargs) -> Result:
        for attempt in range(1, ATTEMPTS):
            try:
                return await work(*given, **named)
            except Collided:
                await pause(attempt)
        return await work(*given, **named)

    return repeatedly


async def pause(collisions: int) -> None:
    """Let the other one finish; longer after each of ``collisions``."""
    await asyncio.sleep(random.uniform(0, 0.01 * 2**collisions))  # noqa: S311 - jitter
