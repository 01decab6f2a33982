"""A worker that can't start says why, and what to do."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

import migrations
from server.domain.deliveries import Delivery
from server.serving import StartError
from server.store.database import Database
from tests.support.programs import settings_for, worker_settings_for
from workers.main import Process
from workers.means import Means, Send
from workers.settings import WorkerSettings


@pytest.fixture
async def administrator(postgres: Callable[[str], str]) -> AsyncIterator[Database]:
    opened = await Database.open(postgres("postgres"), connections=1)
    yield opened
    await opened.close()


@pytest.fixture
async def name(administrator: Database) -> AsyncIterator[str]:
    """A database that was never migrated."""
    made = f"laurel_bare_{uuid4().hex}"
    async with administrator.connection() as connection:
        await connection.execute(f"CREATE DATABASE {made}")
    yield made
    await drop(administrator, made)


async def drop(administrator: Database, name: str) -> None:
    async with administrator.connection() as connection:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def settings(name: str, postgres: Callable[[str], str], redis_url: str, secrets_file: Path) -> WorkerSettings:
    """Of a worker on that database."""
    return worker_settings_for(settings_for(postgres(name), redis_url, secrets_file))


async def test_before_the_first_migration_it_says_what_to_run(settings: WorkerSettings) -> None:
    with pytest.raises(StartError, match="run `laurel migrate`"):
        await Process(settings).start()


async def test_a_database_of_the_release_before_is_left_alone(
    database: Database, database_url: str, redis_url: str, secrets_file: Path
) -> None:
    settings = worker_settings_for(settings_for(database_url, redis_url, secrets_file))
    last = max(migrations.ids())
    async with database.connection() as connection:
        await connection.execute("DELETE FROM migration WHERE app_name = 'laurel' AND name = $1", last)
    with pytest.raises(StartError, match="run `laurel migrate`"):
        await Process(settings).start()
    async with database.connection() as connection:
        await connection.execute("INSERT INTO migration (app_name, name) VALUES ('laurel', $1)", last)
        assert await connection.fetch("SELECT FROM subscription") == []


async def test_a_database_that_goes_away_amid_the_start_is_named(
    settings: WorkerSettings, administrator: Database, name: str
) -> None:
    @asynccontextmanager
    async def last_straw(_: Means) -> AsyncIterator[Send]:
        async def send(_: Delivery) -> None:
            return None

        await drop(administrator, name)
        yield send

    with pytest.raises(StartError, match="LAUREL_DATABASE_URL doesn't answer any more"):
        await Process(settings, channels={"pigeon": last_straw}).start()
