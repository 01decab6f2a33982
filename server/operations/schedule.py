"""What a server process does by the clock: runs for every program, time and again.

Every process tries, and one batch of a program is under way at a time, so more processes make
nothing twice and nothing faster; when one dies, another goes on.
"""

import asyncio
import random
from contextlib import aclosing
from uuid import UUID

import asyncpg
import structlog

from server import logs
from server.domain.errors import Refused, Unavailable
from server.operations.runs import Busy, Done, Runs
from server.operations.watch import Lag
from server.store import due
from server.store import programs as program_store
from server.store.database import Database

log = structlog.get_logger()


async def attend(runs: Runs, database: Database, lag: Lag, seconds: float) -> None:
    """Catch up and warn about every ``seconds``, until cancelled."""
    while True:
        # Apart from each other, so that processes started together don't all come at once.
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        try:
            await once(runs, database, lag)
        except (Refused, OSError, asyncpg.PostgresError) as error:
            log.warning("runs_interrupted", error=type(error).__name__)


async def once(runs: Runs, database: Database, lag: Lag) -> None:
    """One run over every program. Programs in which somebody else is at it are left to them.

    Raises Unavailable if the database goes away; the lag then grows from where it was.
    """
    async with database.connection() as connection:
        programs = await program_store.every(connection)
    for program in programs:
        try:
            await _program(runs, program.program_id, program.name)
        except Busy:
            log.debug("run_elsewhere", program=program.name)
        except Unavailable:
            raise
        except Exception as fault:  # noqa: BLE001 - the other programs go on, and the lag tells
            log.error("runs_failed", program=program.name, **logs.describe(fault))
    async with database.connection() as connection:
        lag.first_due = await due.first_due(connection)


async def _program(runs: Runs, program_id: UUID, name: str) -> None:
    total, clock = Done(), asyncio.get_running_loop().time
    for steps in (runs.catch_up(program_id), runs.warn(program_id)):
        async with aclosing(steps):
            began = clock()
            async for done in steps:
                total.add(done)
                # Half of the time at most is for what can wait.
                await asyncio.sleep(clock() - began)
                began = clock()
    if total.points or total.failed:
        moved = {f"{movement} {wallet}": points for (wallet, movement), points in total.points.items()}
        log.info("run", program=name, members=total.seen, failed=len(total.failed), points=moved)
