"""The load itself, against real servers: what it reports is what they did."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import load, stack, tools
from bench.load import Pace, Target
from laurel.clients import Missing
from tests.support.servers import Laurel

pytestmark = pytest.mark.toolchains
PACE = Pace(seconds=0.5, warm_up=0.2, calls=4)


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    try:
        return {"ghz": tools.ghz(), "vegeta": tools.vegeta(), "gateway": tools.gateway()}
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture
def target(programs: dict[str, Path], laurel: Laurel) -> Iterator[Target]:
    """The server of the tests, and grpc-gateway before it."""
    address = stack.free_address()
    child = subprocess.Popen([programs["gateway"], "-listen", address, "-server", laurel.address])
    try:
        stack.wait_until_listening(address)
        yield Target("tests", laurel.address, laurel.service.key, http=address)
    finally:
        child.kill()
        child.wait()


async def recorded(laurel: Laurel) -> int:
    async with laurel.database.connection() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM business_key"))


async def test_every_call_is_a_purchase_of_its_own(
    laurel: Laurel, programs: dict[str, Path], target: Target, tmp_path: Path
) -> None:
    members = [await laurel.register() for _ in range(8)]
    data = load.data_for("accrue", members, tmp_path)
    figures = await asyncio.to_thread(load.grpc, programs["ghz"], target, "accrue", data, PACE)
    over_grpc = await recorded(laurel)
    # What was done while it warmed up counts here and not there.
    assert 0 < figures.completions * PACE.seconds <= over_grpc
    assert 0 < figures.p50 <= figures.p95 <= figures.p99

    bodies = load.purchases(members, PACE)
    path = "/transactions/accrue"
    figures = await asyncio.to_thread(load.http, programs["vegeta"], target, path, bodies, PACE)
    assert 0 < figures.completions * PACE.seconds <= await recorded(laurel) - over_grpc


async def test_calls_that_fail_are_no_figures(
    laurel: Laurel, programs: dict[str, Path], target: Target, tmp_path: Path
) -> None:
    stranger = Target("stranger", target.address, "lrl_wrong", http=target.http)
    data = load.data_for("accrue", [await laurel.register()], tmp_path)
    with pytest.raises(SystemExit, match="Unauthenticated"):
        await asyncio.to_thread(load.grpc, programs["ghz"], stranger, "accrue", data, PACE)
    bodies = load.purchases(["nobody"], PACE)
    with pytest.raises(SystemExit, match="calls failed"):
        await asyncio.to_thread(load.http, programs["vegeta"], stranger, "/transactions/accrue", bodies, PACE)
