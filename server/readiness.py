"""Whether calls should be sent to this process, and why not."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import structlog

import migrations
from server import logs
from server.domain.errors import Refused, Unavailable
from server.operations.programs import Programs
from server.store import migrations as migration_store
from server.store import programs as program_store
from server.store.database import Database

RETRY_SECONDS = 1.0
# Who serves more programs than this loads the rest when they are first asked for.
MOST_PROGRAMS = 200

log = structlog.get_logger()


class Readiness:
    """The checks of ``/readyz``.

    ``serving`` says whether calls are taken yet, ``draining`` whether they still should
    be sent. Others that share the process add theirs to ``checks``.
    """

    def __init__(self, database: Database, programs: Programs) -> None:
        self.serving = False
        self.draining = False
        self.checks: dict[str, Callable[[], Awaitable[str]]] = {
            "serving": self._serving,
            "database": self._database_answers,
            "migrations": self._migrations,
            "rules": self._rules,
        }
        self._database = database
        self._programs = programs
        self._migrated = False
        self._loaded = False

    async def load_rules(self) -> None:
        """Load and compile what is in force before the first purchase would have to wait for it."""
        while not self._loaded:
            try:
                async with self._database.connection() as connection:
                    found = await program_store.every(connection)
                for program in found[:MOST_PROGRAMS]:
                    await self._load(program.program_id)
                self._loaded = True
            except (Refused, asyncpg.PostgresError):
                await asyncio.sleep(RETRY_SECONDS)

    async def _load(self, program_id: UUID) -> None:
        """A program whose rules can't be loaded must not keep the others from being served."""
        try:
            async with self._database.connection() as connection:
                await self._programs.current(connection, program_id)
        except Unavailable:
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, the calls of that program will tell
            log.error("rules_not_loaded", program_id=str(program_id), **logs.describe(fault))

    async def _serving(self) -> str:
        if self.draining:
            return "stopping"
        return "" if self.serving else "starting"

    async def _database_answers(self) -> str:
        try:
            async with self._database.connection() as connection:
                await connection.execute("SELECT 1")
        except (Refused, asyncpg.PostgresError):
            return "can't be reached"
        return ""

    async def _migrations(self) -> str:
        # Forward only: what was applied stays applied. What is there beyond ours was made
        # for servers that are about to replace this one, and leaves it working.
        if self._migrated:
            return ""
        try:
            async with self._database.connection() as connection:
                applied = await migration_store.applied(connection)
        except (Refused, asyncpg.PostgresError):
            return "not known, the database can't be reached"
        missing = [migration_id for migration_id in migrations.ids() if migration_id not in applied]
        self._migrated = not missing
        return f"missing: {', '.join(missing)}; run `laurel migrate`" if missing else ""

    async def _rules(self) -> str:
        return "" if self._loaded else "being loaded"
