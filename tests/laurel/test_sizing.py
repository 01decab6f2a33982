"""The embedded PostgreSQL gets more memory and log as its data grows, and never more than there is."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from laurel.probes import Room
from laurel.stack.postgres import EmbeddedPostgres
from laurel.stack.sizing import GB, MB, sized

BUFFERS = "SELECT pg_size_bytes(current_setting('shared_buffers'))"


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="laurel-test-"))
    path.chmod(0o755)  # its account has to get through
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("data", "memory", "free", "buffers", "log"),
    [
        (0, 24 * GB, 100 * GB, "256MB", "2048MB"),
        (2 * GB, 24 * GB, 100 * GB, "512MB", "2048MB"),
        (36 * GB, 24 * GB, 400 * GB, "8192MB", "32768MB"),
        (36 * GB, 64 * GB, 30 * GB, "9216MB", "10240MB"),
        # A small machine gets what it always got.
        (36 * GB, 512 * MB, 1 * GB, "256MB", "2048MB"),
    ],
)
def test_it_grows_with_its_data_within_what_the_machine_has(
    data: int, memory: int, free: int, buffers: str, log: str
) -> None:
    assert sized(data, memory, free) == {"shared_buffers": buffers, "max_wal_size": log}


async def test_the_next_start_has_what_the_data_calls_for_unless_somebody_says_otherwise(
    folder: Path,
) -> None:
    async def buffers(settings: dict[str, str] | None = None) -> int:
        postgres = EmbeddedPostgres(folder, settings, durable=False, notify=lambda line: None)
        postgres.start()
        try:
            connection = await asyncpg.connect(postgres.url("postgres"))
            try:
                return int(await connection.fetchval(BUFFERS))
            finally:
                await connection.close()
        finally:
            postgres.stop()

    assert await buffers() == 256 * MB
    with (folder / "data" / "base" / "as if it were much").open("wb") as file:
        file.truncate(3 * GB // 2)  # takes no room
    assert 384 * MB <= await buffers() < 400 * MB
    assert await buffers({"shared_buffers": "128MB"}) == 128 * MB


def test_doctor_tells_what_is_too_small_for_a_large_ledger_and_of_a_small_one_nothing() -> None:
    assert not list(Room(data=40 * GB, buffers=6 * GB, timed=90, requested=4).lacks())
    assert not list(Room(data=1 * GB, buffers=16 * MB, timed=0, requested=1000).lacks())
    few, often = Room(data=36 * GB, buffers=256 * MB, timed=10, requested=1240).lacks()
    assert few == "shared_buffers of 0.2 GB for 36 GB of data"
    assert often == "max_wal_size: 1,240 of 1,250 checkpoints came before their time"
    # After a start there is nothing to go by.
    assert not list(Room(data=36 * GB, buffers=4 * GB, timed=0, requested=2).lacks())
