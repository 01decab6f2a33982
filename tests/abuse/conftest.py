"""One shop for a file of tests, entered through every door."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.settings import Settings
from server.store.database import Database
from tests.abuse.shop import Shop, shop
from tests.support.doors import Door
from tests.support.issuers import (
    Loopback,
    loopback,
)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Loopback]:
    with loopback() as running:
        yield running


@pytest.fixture(scope="module")
async def here(settings: Settings, database: Database, folder: Path, issuer: Loopback) -> AsyncIterator[Shop]:
    async with shop(settings, database, folder, issuer) as opened:
        yield opened


@pytest.fixture(params=["grpc", "rest", "shim"])
def door(here: Shop, request: pytest.FixtureRequest) -> Door:
    return here.ways[request.param]
