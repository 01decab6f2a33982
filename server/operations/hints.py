"""Following hints, so that a purchase rarely has to wait for rules to be loaded and compiled."""

import asyncio

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.domain.errors import Refused
from server.operations.programs import Programs
from server.store.database import Database
from server.store.hints import rule_changes

RETRY_SECONDS = 2.0

log = structlog.get_logger()


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
