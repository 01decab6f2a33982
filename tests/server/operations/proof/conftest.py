"""A shop whose ledger is tampered with, a customer who did everything once, and a file for checkpoints."""

from pathlib import Path

import pytest

from tests.support.servers import Laurel
from tests.support.tampering import Customer, new_customer, open_shop


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    return await open_shop(laurel)


@pytest.fixture
async def customer(shop: Laurel) -> Customer:
    return await new_customer(shop)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's checkpoints go."""
    return tmp_path / "checkpoints.jsonl"
