"""How long those who share a batch wait for each other.

Replies that leave together bring their callers back together: where many call, the next batch is
twice as large a moment later. Each call then costs less here, in gRPC and in the database. Where
few call, nobody waits.
"""

import asyncio
from collections.abc import Sized

TICK_SECONDS = 0.001
MOST_TICKS = 5
# So many more within a tick are worth another one.
MANY = 2


async def gathered(waiting: Sized, enough: int, before: int) -> None:
    """Wait while many more come to those ``waiting``, until they are ``enough``: a few milliseconds.

    ``before``: how many the batch before had. After a single one nobody waits.
    """
    if before < MANY:
        return
    for _ in range(MOST_TICKS):
        came = -len(waiting)
        if -came >= enough:
            return
        await asyncio.sleep(TICK_SECONDS)
        came += len(waiting)
        if came < MANY:
            return
