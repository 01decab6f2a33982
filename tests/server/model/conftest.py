"""What the tests of the model share: a loop that outlives an example, and a database to try histories in."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import secrets
from server.secrets import Keyring
from server.store.database import Database
from tests.server.model.database import InDatabase


@pytest.fixture(scope="module")
def keys(secrets_file: Path) -> Keyring:
    """The keys of the ledger."""
    return secrets.load(secrets_file).ledger


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """A loop for all examples."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def in_database(loop: asyncio.Runner, database_url: str, keys: Keyring) -> Iterator[InDatabase]:
    """The module's database."""
    opened = loop.run(Database.open(database_url, 3))
    yield InDatabase(opened, keys)
    loop.run(opened.close())
