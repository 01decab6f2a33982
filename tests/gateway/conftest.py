from collections.abc import AsyncIterator

import pytest

from gateway.contract import Contract
from tests.gateway.world import World, compiled, opened


@pytest.fixture(scope="session")
def contract() -> Contract:
    """The contract of everything.proto."""
    return Contract(compiled())


@pytest.fixture(scope="module")
async def world(contract: Contract) -> AsyncIterator[World]:
    """A server, a shim and a client, for the tests of a module."""
    async with opened(contract) as opened_world:
        yield opened_world
