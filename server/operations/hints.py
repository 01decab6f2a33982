"""Hints: what one process knows and others want to hear of at once. None of them must arrive.

``Hints`` tells after a commit which members it changed. ``follow`` listens for rules, so that a purchase
rarely has to wait for them to be loaded and compiled.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from itertools import islice
from uuid import UUID

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.domain.books import Effects
from server.domain.errors import Refused
from server.ending import ended
from server.operations.programs import Programs
from server.store.database import Database
from server.store.hints import members_changed, rule_changes
from server.store.ledger import MemberOf

RETRY_SECONDS = 2.0
# Between two commands to Redis: one costs as much as a hundred hints in it. A lone hint goes out at once.
GATHER_SECONDS = 0.05
# With one command. Of more than MOST_WAITING the rest is dropped, about 300 bytes each: nobody depends on it.
MOST_AT_ONCE = 1000
MOST_WAITING = 10_000
# A Redis that hangs is given up for this time.
PATIENCE_SECONDS = 0.5

log = structlog.get_logger()


class Hints:
    """Tells all processes, soon after a commit, which members it changed.

    Only noting that down happens on the path of a purchase. Telling Redis is a task of its own: many
    members with one command, the latest version of each; again, if Redis doesn't take it. What goes missing
    all the same is found by those who look for themselves once in a while, as everybody who listens does.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._versions: dict[MemberOf, int] = {}
        self._some = asyncio.Event()
        self._telling = asyncio.create_task(self._tell_for_ever())

    @property
    def waiting(self) -> int:
        """Members noted and not told of yet."""
        return len(self._versions)

    def committed(self, effects: Sequence[tuple[UUID, Effects]]) -> None:
        """These are in the books, by program. Never waits, never fails."""
        versions = self._versions
        for program_id, effect in effects:
            if len(versions) < MOST_WAITING:
                for member_id, state in effect.members.items():
                    versions[program_id, member_id] = state.version
        if versions:
            self._some.set()

    def changed(self, program_id: UUID, member_id: UUID, version: int) -> None:
        """The member has that version now, and events that tell why. Never waits, never fails."""
        if len(self._versions) < MOST_WAITING:
            self._versions[program_id, member_id] = version
        self._some.set()

    async def close(self) -> None:
        """Tell what is left, if Redis takes it, and no more."""
        await ended([self._telling])
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._tell()

    async def _tell_for_ever(self) -> None:
        while True:
            await self._some.wait()
            try:
                await self._tell()
                await asyncio.sleep(GATHER_SECONDS)
            except (RedisError, OSError, TimeoutError) as error:
                log.debug("hints_wait", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def _tell(self) -> None:
        """Tell what has been noted by now. Raises RedisError, OSError or TimeoutError."""
        self._some.clear()
        noted, self._versions = self._versions, {}
        left = iter(noted.items())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while some := dict(islice(left, MOST_AT_ONCE)):
                    await members_changed(self._redis, some)
        except BaseException:
            self._keep(noted)
            raise

    def _keep(self, noted: Mapping[MemberOf, int]) -> None:
        """Note again what may not have been told, as far as there is room."""
        for member, version in noted.items():
            if len(self._versions) >= MOST_WAITING:
                return
            self._versions.setdefault(member, version)
        self._some.set()


async def follow(redis: Redis, database: Database, programs: Programs) -> None:
    """Load what changed of the programs this process serves, until cancelled.

    What is missed while Redis or the database is away costs a wait later, nothing else.
    """
    while True:
        try:
            async for program_id in rule_changes(redis):
                if programs.known(program_id) is not None:
                    async with database.connection() as connection:
                        await programs.current(connection, program_id)
        except (RedisError, OSError, Refused, asyncpg.PostgresError) as error:
            log.debug("hints_interrupted", error=type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)
