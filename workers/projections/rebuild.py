"""Making a read model again while everything goes on: beside the one that is read, then in its place."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import NamedTuple, Protocol
from uuid import UUID, uuid4

import asyncpg

from server.domain.errors import Refused
from server.store import projections
from server.store.database import Connection, Database

# Who has not come on for so long will not come back.
ABANDONED_SECONDS = 30.0
# The same where nobody waits to build it instead.
GIVEN_UP_SECONDS = 300.0


class Build(Protocol):
    """A generation that is being made. ``building`` is its name; every call is within a transaction."""

    name: str

    async def begin(self, connection: Connection, building: UUID) -> int:
        """Prepare it, while nobody follows the log; how much there is to do."""

    async def step(self, connection: Connection, building: UUID) -> int:
        """Do some of it; how much that was, 0 if there was nothing left."""

    async def finish(self, connection: Connection, building: UUID) -> bool:
        """Make it whole, while nobody follows the log; False if there is too much left for that."""

    async def drop(self, connection: Connection, generation: UUID) -> bool:
        """Forget some of a generation that nobody reads; whether there is more."""


class Progress(NamedTuple):
    """How far a build has come: of about ``total`` events or members."""

    done: int
    total: int


class UnderWay(Exception):  # noqa: N818 - that is an answer, not a fault
    """Somebody builds it at the moment."""


async def rebuild(database: Database, build: Build) -> AsyncGenerator[Progress, None]:
    """Build a generation and read it from then on, telling how far it has come.

    What is built is seen by nobody before it is whole; if this ends before, it is given up and the old
    generation stays. Raises UnderWay, Superseded, Unavailable.
    """
    building = uuid4()
    async with database.transaction() as connection:
        await projections.alone(connection, build.name)
        standing = await projections.standing(connection, build.name)
        if standing.idle_seconds is not None and standing.idle_seconds < ABANDONED_SECONDS:
            raise UnderWay(build.name)
        total = await build.begin(connection, building)
        await projections.begin(connection, build.name, building, total)
    try:
        async with aclosing(_made(database, build, building, total)) as steps:
            async for progress in steps:
                yield progress
    except BaseException:
        # Also if nobody wants to see the end of it, as after Ctrl-C. Where this fails, `sweep` finds it.
        with suppress(Refused, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            async with database.transaction() as connection:
                await projections.give_up(connection, build.name, building=building)
        raise
    await _drop(database, build)


async def sweep(database: Database, build: Build) -> int:
    """Give up what was left lying half-built, and remove what nobody reads; how many generations that was.

    Whoever is killed leaves both to this.
    """
    async with database.transaction() as connection:
        await projections.give_up(connection, build.name, idle_seconds=GIVEN_UP_SECONDS)
    return await _drop(database, build)


async def _made(
    database: Database, build: Build, building: UUID, total: int
) -> AsyncGenerator[Progress, None]:
    done = 0
    whole = False
    while not whole:
        step = 1
        while step:
            yield Progress(done, max(total, done))
            async with database.transaction() as connection:
                step = await build.step(connection, building)
                done += step
                await projections.came_on(connection, build.name, building, done)
        async with database.transaction() as connection:
            await projections.alone(connection, build.name)
            whole = await build.finish(connection, building)
            if whole:
                await projections.take_over(connection, build.name, building)
    yield Progress(done, done)


async def _drop(database: Database, build: Build) -> int:
    async with database.connection() as connection:
        dropped = await projections.dropped(connection, build.name)
    for generation in dropped:
        more = True
        while more:
            async with database.transaction() as connection:
                more = await build.drop(connection, generation)
        async with database.connection() as connection:
            await projections.gone(connection, build.name, generation)
    return len(dropped)
