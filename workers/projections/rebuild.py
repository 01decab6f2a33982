"""Making a read model again while everything goes on: beside the one that is read, then in its place."""

from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol
from uuid import UUID, uuid4

from server.store import projections
from server.store.database import Connection, Database

# Who has not come on for so long will not come back.
ABANDONED_SECONDS = 30.0


class Build(Protocol):
    """A generation that is being made. ``building`` is its name; every call is within a transaction."""

    name: str

    async def begin(self, connection: Connection, building: UUID) -> int:
        """Prepare it, while nobody follows the log; how much there is to do."""

    async def step(self, connection: Connection, building: UUID) -> int:
        """Do some of it; how much that was, 0 if there was nothing left."""

    async def finish(self, connection: Connection, building: UUID) -> bool:
        """Make it whole, while nobody follows the log; False if there is too much left for that."""

    async def drop(self, connection: Connection, generation: UUID) -> None:
        """Forget a generation."""


class Progress(NamedTuple):
    """How far a build has come: of about ``total`` events or members."""

    done: int
    total: int


class UnderWay(Exception):  # noqa: N818 - that is an answer, not a fault
    """Somebody builds it at the moment."""


async def rebuild(database: Database, build: Build) -> AsyncGenerator[Progress, None]:
    """Build a generation and read it from then on, telling how far it has come.

    What is built is seen by nobody before it is whole; if this ends before, the old generation stays.
    Raises UnderWay, Superseded, Unavailable.
    """
    building = uuid4()
    async with database.transaction() as connection:
        before = await projections.alone(connection, build.name)
        standing = await projections.standing(connection, build.name)
        if standing.idle_seconds is not None and standing.idle_seconds < ABANDONED_SECONDS:
            raise UnderWay(build.name)
        total = await build.begin(connection, building)
        await projections.begin(connection, build.name, building, total)
    if before.building is not None:
        async with database.transaction() as connection:
            await build.drop(connection, before.building)
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
    async with database.transaction() as connection:
        await build.drop(connection, before.current)
    yield Progress(done, done)
