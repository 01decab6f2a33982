"""`make bench`, small: the whole way from an empty folder to the figures."""

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from uuid import uuid4

import asyncpg
import grpc
import pytest

from bench import journals, ledgers, shop, tools
from bench.__main__ import main
from bench.ledgers import Ledger, Size
from bench.load import Target
from bench.stack import running
from laurel.clients import Missing
from tests.support.servers import Laurel

pytestmark = pytest.mark.toolchains
SMALL = ["--quick", "--only", "accrue", "--seconds", "0.5", "--members", "20"]


def test_a_row_is_measured_and_written_down(tmp_path: Path) -> None:
    try:
        tools.ghz()
    except Missing as reason:
        pytest.skip(str(reason))
    output = tmp_path / "results.json"
    assert main([*SMALL, "--output", str(output)]) == 0
    results = json.loads(output.read_text())
    (row,) = results["rows"]
    assert (row["name"], row["target"]) == ("accrue", {"at_least": 0.6})
    assert row["ratio"] > 0
    assert set(row["figures"]) == {"echo", "Laurel"}
    assert row["met"] == (row["ratio"] >= 0.6)
    assert results["machine"]["cores"] > 0
    assert results["options"]["members"] == 20
    assert results["not_measured"] == {}


async def durable(ledger: Ledger) -> tuple[str, ...]:
    """What PostgreSQL says of fsync and full_page_writes."""
    connection = await asyncpg.connect(ledger.url)
    try:
        return tuple([await connection.fetchval(f"SHOW {name}") for name in ("fsync", "full_page_writes")])
    finally:
        await connection.close()


def test_a_ledger_that_is_kept_is_filled_once() -> None:
    said: list[str] = []
    kept = Path(tempfile.mkdtemp(prefix="laurel-test-"))
    try:
        with running(1, said.append, kept) as stack, stack.filling():
            filled = stack.ledger("large", Size(20, 4))
        assert any("filling" in line for line in said)
        said.clear()
        with running(1, said.append, kept) as stack:
            with stack.filling():
                assert stack.ledger("large", Size(20, 4)) == filled
            assert not any("filling" in line for line in said)
            # What is measured is as durable as ever.
            assert asyncio.run(durable(filled)) == ("on", "on")
            with stack.over(filled, "large") as target:
                assert ledgers.live(target.address, target.key, 1) not in filled.members
    finally:
        shutil.rmtree(kept)


@pytest.mark.parametrize("send", [journals.batched, journals.streamed])
async def test_all_that_a_journal_brings_is_recorded_and_written_again(
    laurel: Laurel, send: journals.Send
) -> None:
    await asyncio.to_thread(shop.publish, laurel.address, laurel.service.key)
    members = [await laurel.register() for _ in range(8)]
    target = Target("tests", laurel.address, laurel.service.key)
    url = laurel.settings.database_url.get_secret_value()
    rates = await journals.compared(target, url, members, send, 0.1, 1)
    assert len(rates.committed) == len(rates.raw) == 1
    async with laurel.database.connection() as connection:
        recorded = await connection.fetchval("SELECT count(*) FROM business_key")
        again = await connection.fetchval("SELECT count(*) FROM raw.business_key")
    # The first half second only warms up.
    assert 0 < again < recorded


async def test_a_journal_that_is_refused_says_why(laurel: Laurel) -> None:
    target = Target("tests", laurel.address, "lrl_no_key")
    url = laurel.settings.database_url.get_secret_value()
    for _ in range(20):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await journals.compared(target, url, [str(uuid4())], journals.streamed, 0.1, 1)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
