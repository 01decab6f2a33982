"""The database's tables, forward only: `laurel migrate` brings a database up to date.

To add one: a file in migrations/sql, and a module in migrations/steps that names it.
"""

import contextlib
import importlib
import io
import os
import pkgutil
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

# Held while migrations run, so that two `laurel migrate` take turns. Any constant will do.
LOCK = 0x6C617572656C
CONNECT_SECONDS = 10.0
ID = re.compile(r'^ID = "(.+)"$', re.MULTILINE)
# As Piccolo makes it, so that its own commands understand it.
RECORDS = """CREATE TABLE IF NOT EXISTS migration (
    id       serial PRIMARY KEY,
    name     varchar(200) NOT NULL DEFAULT '',
    app_name varchar(200) NOT NULL DEFAULT '',
    ran_on   timestamp NOT NULL DEFAULT current_timestamp
)"""

# Whatever the role is bound by otherwise. Not every PostgreSQL has all of these.
UNHURRIED = """SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"""


class MigrationError(Exception):
    """The database can't be brought up to date; the message says why."""


@dataclass(frozen=True, slots=True)
class State:
    """Ids of migrations. ``unknown``: applied to the database by a newer Laurel than this one."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]
    unknown: tuple[str, ...]


async def migrate(url: str, report: Callable[[str], None] = lambda line: None) -> list[str]:
    """Apply what is missing, each migration in a transaction of its own; returns their ids.

    Creates the database if it is missing and the user may. Safe to run twice at once.
    ``report`` gets a line for each. Raises MigrationError, and what asyncpg raises.
    """
    if await _create_database(url):
        report(f"created the database {_database_name(url)}")
    async with _connected(url) as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        state = await _state(connection)
        if state.unknown:
            raise MigrationError(
                f"the database is ahead of this Laurel: it has {', '.join(state.unknown)}; use a newer Laurel"
            )
        if state.pending:
            steps = _steps()
            with _engine_for(url) as engine:
                for migration_id in state.pending:
                    await _apply(engine, steps[migration_id], report)
    return list(state.pending)


async def pending(url: str) -> list[str]:
    """Ids of the migrations that the database lacks."""
    return list((await state(url)).pending)


async def state(url: str) -> State:
    """Where the database stands. Changes nothing."""
    async with _connected(url) as connection:
        return await _state(connection)


async def _state(connection: Any) -> State:
    exists = await connection.fetchval("SELECT to_regclass('migration') IS NOT NULL")
    rows = (
        await connection.fetch("SELECT name FROM migration WHERE app_name = 'laurel' ORDER BY name")
        if exists
        else []
    )
    applied = [row["name"] for row in rows]
    known = _steps()
    return State(
        applied=tuple(applied),
        pending=tuple(i for i in known if i not in applied),
        unknown=tuple(i for i in applied if i not in known),
    )


async def _apply(engine: Any, step: Any, report: Callable[[str], None]) -> None:
    started = time.monotonic()
    # Piccolo records a migration after its transaction; a crash between the two would
    # run it twice. So both happen in one. It also prints, which is not its place here.
    with contextlib.redirect_stdout(io.StringIO()):
        async with engine.transaction() as transaction:
            await transaction.connection.execute(UNHURRIED)
            await transaction.connection.execute(RECORDS)
            manager = await step.forwards()
            await manager.run()
            await transaction.connection.execute(
                "INSERT INTO migration (name, app_name) VALUES ($1, 'laurel')", step.ID
            )
    report(f"{step.DESCRIPTION} ({(time.monotonic() - started) * 1000:.0f} ms)")


def ids() -> list[str]:
    """The ids of all migrations in their order, without importing what running them takes."""
    from migrations import steps

    sources = [
        Path(folder, f"{m.name}.py") for folder in steps.__path__ for m in pkgutil.iter_modules([folder])
    ]
    return sorted(found[1] for source in sources if (found := ID.search(source.read_text())))


def _steps() -> dict[str, Any]:
    from migrations import steps

    modules = [
        importlib.import_module(f"migrations.steps.{m.name}") for m in pkgutil.iter_modules(steps.__path__)
    ]
    return {module.ID: module for module in sorted(modules, key=lambda module: str(module.ID))}


@contextlib.contextmanager
def _engine_for(url: str) -> Iterator[Any]:
    """Piccolo finds its engine through the module that PICCOLO_CONF names; there it is this one."""
    from piccolo.engine.postgres import PostgresEngine

    os.environ.setdefault("PICCOLO_CONF", "migrations.piccolo_conf")
    from migrations import piccolo_conf

    engine = PostgresEngine({"dsn": url, "timeout": CONNECT_SECONDS})
    before = piccolo_conf.chosen.set(engine)
    try:
        yield engine
    finally:
        piccolo_conf.chosen.reset(before)


@contextlib.asynccontextmanager
async def _connected(url: str, **settings: Any) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS, **settings)
    try:
        yield connection
    finally:
        await connection.close()


async def _create_database(url: str) -> bool:
    try:
        async with _connected(url):
            return False
    except asyncpg.InvalidCatalogNameError:
        pass
    name = _database_name(url)
    try:
        async with _connected(url, database="postgres") as connection:
            await connection.execute('CREATE DATABASE "{}"'.format(name.replace('"', '""')))
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        return False  # another `laurel migrate` was faster
    except asyncpg.InsufficientPrivilegeError:
        raise MigrationError(f"there is no database {name}, and the user may not create one") from None
    return True


def _database_name(url: str) -> str:
    return unquote(urlsplit(url).path.lstrip("/"))
