"""What every test that breaks things starts from."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.shop import Shop, opened


@pytest.fixture
def shop(folder: Path) -> Iterator[Shop]:
    with opened(folder / f"shop-{uuid4().hex[:8]}") as shop:
        yield shop


@pytest.fixture
def seed() -> int:
    """LAUREL_FAULTS_SEED repeats a run as far as a race can be repeated."""
    return int(os.environ.get("LAUREL_FAULTS_SEED") or random.SystemRandom().randrange(2**32))
