"""Real servers for tests: PostgreSQL, Redis, and Laurel in this process.

With LAUREL_DATABASE_URL and LAUREL_REDIS_URL set, the servers they name are used, and
databases of our own are made in that PostgreSQL and dropped again.
"""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import hypothesis
import pytest

from laurel.stack.postgres import EmbeddedPostgres
from laurel.stack.redis import EmbeddedRedis
from migrations import migrate
from server import secrets
from server.settings import Settings
from server.store.database import Database
from tests.support.programs import settings_for

if TYPE_CHECKING:
    from tests.support.servers import Laurel

# How long an example takes says how busy the machine is, nothing about Laurel.
hypothesis.settings.register_profile(
    "laurel", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("laurel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: what begins last is what all other processes wait for at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A short path that another account can be let through to: PostgreSQL won't run as root."""
    path = Path(tempfile.mkdtemp(prefix="laurel-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(folder: Path) -> Iterator[Callable[[str], str]]:
    """A PostgreSQL: call it with a database's name for that database's URL."""
    given = os.environ.get("LAUREL_DATABASE_URL")
    if given:
        yield lambda name: urlunsplit(urlsplit(given)._replace(path=f"/{name}"))
        return
    embedded = EmbeddedPostgres(folder / "postgres", durable=False, notify=lambda line: None)
    embedded.start()
    yield embedded.url
    embedded.stop()


@pytest.fixture(scope="session")
def redis_url(folder: Path) -> Iterator[str]:
    """A Redis."""
    given = os.environ.get("LAUREL_REDIS_URL")
    if given:
        yield given
        return
    embedded = EmbeddedRedis(folder / "redis")
    embedded.start()
    yield embedded.url
    embedded.stop()


@pytest.fixture(scope="session")
async def template(postgres: Callable[[str], str]) -> AsyncIterator[str]:
    """The name of a migrated database to clone."""
    name = f"laurel_template_{uuid4().hex}"
    await migrate(postgres(name))
    yield name
    await _administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
async def database_url(postgres: Callable[[str], str], template: str) -> AsyncIterator[str]:
    """A database of the test module's own, migrated and empty."""
    name = f"laurel_test_{uuid4().hex}"
    await _administer(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres(name)
    await _administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    """Connections to the module's database."""
    opened = await Database.open(database_url, connections=4)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def secrets_file(folder: Path) -> Path:
    """Fresh keys of a server."""
    path = folder / "secrets.json"
    secrets.generate(path)
    return path


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str, secrets_file: Path) -> Settings:
    """Settings of a server on the module's database."""
    return settings_for(database_url, redis_url, secrets_file)


@pytest.fixture(scope="module")
async def laurel(settings: Settings, database: Database) -> AsyncIterator["Laurel"]:
    """A running server with a program and a caller of each kind."""
    # Here, so that tests of a part don't need the whole.
    from tests.support.servers import started

    async with started(settings, database) as running:
        yield running


async def _administer(postgres: Callable[[str], str], command: str) -> None:
    connection = await asyncpg.connect(postgres("postgres"))
    try:
        await connection.execute(command)
    finally:
        await connection.close()
