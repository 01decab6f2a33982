"""Summaries of members in Redis: what each holds, at its latest version.

An event only says whose summary is to be written again; what is written is what PostgreSQL says then, with
its version, and never replaces a later one. So events may come twice, and a generation is built by
going through the members while it follows the log from where that began.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from datetime import datetime
from uuid import UUID

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server import logs
from server.domain.errors import Refused
from server.domain.members import Status
from server.domain.summary import summary_of
from server.operations.programs import Programs
from server.operations.wallets import members_as_due
from server.store import members, projections
from server.store.database import Connection, Database
from server.store.ledger import MemberOf
from server.store.log import LoggedEvent
from server.store.summaries import PROJECTION, Entry, SummaryStore, written
from workers.projections.rebuild import UnderWay, rebuild

PAGE = 500
NOBODY = UUID(int=0)
LOOK_SECONDS = 1.0
# After a rebuild, so that a Redis that keeps losing things is not all that a worker has to do.
REST_SECONDS = 5.0

log = structlog.get_logger()


class Lost(Exception):  # noqa: N818 - it reads as the sentence it is
    """Redis forgot what was being built."""


class MemberSummaries:
    """Writes summaries. ``clock`` tells the time, aware, in UTC."""

    def __init__(self, redis: Redis, clock: Callable[[], datetime]) -> None:
        self.store = SummaryStore(redis)
        self._clock = clock
        self._programs = Programs()

    async def handle(self, connection: Connection, events: Sequence[LoggedEvent]) -> None:
        """Write the summaries of whom something happened to."""
        generations = await projections.following(connection, PROJECTION)
        before = await projections.place(connection, PROJECTION)
        concerned = {(e.program_id, e.member_id) for e in events if e.member_id != NOBODY}
        entries = await self.entries(connection, concerned)
        for generation in generations:
            # One that lacks something is left alone: whoever keeps the projection finds it.
            if generation is not None:
                await self.store.put(generation, before, events[-1].place, entries)

    async def entries(self, connection: Connection, wanted: Collection[MemberOf]) -> dict[MemberOf, Entry]:
        """What is to be written of these members."""
        if not wanted:
            return {}
        await self._programs.all_current(connection, {program_id for program_id, _ in wanted})
        found = await members_as_due(connection, self._programs, wanted, self._clock())
        return {
            key: member.version if member.status == Status.MERGED else summary_of(member)
            for key, member in found.items()
        }

    async def keep(self, database: Database) -> None:
        """Build it again whenever it isn't whole, as after Redis lost something; until cancelled."""
        while True:
            pause = LOOK_SECONDS
            try:
                if not await self._whole(database) and not await self._whole(database):
                    log.info("projection_rebuilding", name=PROJECTION)
                    pause = REST_SECONDS
                    async with aclosing(rebuild(database, Build(self))) as steps:
                        async for _ in steps:
                            pass
                    log.info("projection_rebuilt", name=PROJECTION)
            except (UnderWay, projections.Superseded):
                pass
            except (Lost, Refused, RedisError, OSError, asyncpg.PostgresError) as error:
                log.warning("projection_interrupted", name=PROJECTION, **logs.describe(error))
            await asyncio.sleep(pause)

    async def _whole(self, database: Database) -> bool:
        """Whether what is read holds everything up to where the log has been followed."""
        # In this order: what is written is never behind what PostgreSQL knows to be written.
        async with database.connection() as connection:
            place = await projections.place(connection, PROJECTION)
            standing = await projections.standing(connection, PROJECTION)
        return await self.store.place(standing.generations.current) >= written(place)


class Build:
    """A generation made by going through all members. Raises Lost when Redis forgets it meanwhile."""

    name = PROJECTION

    def __init__(self, summaries: MemberSummaries) -> None:
        self._summaries = summaries
        self._after: MemberOf = (NOBODY, NOBODY)

    async def begin(self, connection: Connection, building: UUID) -> int:
        """How many members there are."""
        await self._summaries.store.begin(building, await projections.place(connection, PROJECTION))
        return await members.count(connection)

    async def step(self, connection: Connection, building: UUID) -> int:
        """Write the next members; how many."""
        page = await members.keys_after(connection, self._after, PAGE)
        if not page:
            return 0
        if not await self._summaries.store.add(building, await self._summaries.entries(connection, page)):
            raise Lost
        self._after = page[-1]
        return len(page)

    async def finish(self, connection: Connection, building: UUID) -> bool:
        """It is whole once all members are gone through: it has followed the log all along."""
        live = await projections.place(connection, PROJECTION)
        if await self._summaries.store.place(building) < written(live):
            raise Lost
        return True

    async def drop(self, _: Connection, generation: UUID) -> bool:
        """Forget a generation, all of it at once."""
        await self._summaries.store.drop(generation)
        return False
