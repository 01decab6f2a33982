"""Workers, servers, runs by hand and PostgreSQL die while points expire: each lot expires once."""

import asyncio
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.domain.actor import CallerKind
from server.store import locks
from server.store.database import Database
from tests.faults.load import Tills
from tests.faults.shop import SERVERS, Shop
from tests.faults.shop import opened as shop_opened
from tests.support.clocks import DISAGREEMENTS
from tests.support.clocks import opened as clockwork_opened
from tests.support.processes import LAUREL, environment, run
from tests.support.programs import new_key

pytestmark = pytest.mark.faults

MEMBERS = 3000
WORKERS = 2
POINTS = 100
SALES_PER_KILL = 60
FEWEST_KILLS = 4
SECONDS = 600.0
POOR = "INSUFFICIENT_POINTS"
DUE = "SELECT count(*) FROM wallet WHERE program_id = $1 AND next_due <= now()"


@pytest.fixture
def shop(folder: Path) -> Iterator[Shop]:
    settings = {"LAUREL_DUE_SECONDS": "1", "LAUREL_WORKER_LEASE_SECONDS": "3"}
    with shop_opened(folder / f"shop-{uuid4().hex[:8]}", **settings) as shop, ExitStack() as running:
        shop.add_workers(WORKERS, running)
        yield shop


async def furnish(shop: Shop) -> UUID:
    """A program whose members earned two months ago what has expired since; the shop serves these now."""
    database = await Database.open(shop.postgres.url(), connections=3)
    # Nothing is done for them before all are there.
    guard = await asyncpg.connect(shop.postgres.url())
    try:
        async with clockwork_opened(database, shop.redis.url, shop.folder / "secrets.json") as past:
            program = past.program
            await guard.execute("SELECT pg_advisory_lock($1)", locks.run_lock(program.program_id))
            shop.members = [str(member_id) for member_id in await past.customers(MEMBERS, POINTS)]
            shop.key = await new_key(database, program, CallerKind.SERVICE)
    finally:
        await guard.close()
        await database.close()
    return program.program_id


def test_no_kill_loses_or_repeats_what_the_clock_does(
    shop: Shop, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    program_id = asyncio.run(furnish(shop))
    victims: Counter[str] = Counter()
    amid = 0
    deadline = time.monotonic() + SECONDS
    with Tills(shop.addresses, shop.key, 8, seed) as tills:
        while asyncio.run(waiting(shop, program_id)) or victims.total() < FEWEST_KILLS:
            assert time.monotonic() < deadline, f"seed {seed}: still not done"
            tills.sell(shop.sales(source, SALES_PER_KILL, f"sale-{victims.total()}"))
            by_hand = subprocess.Popen(
                [LAUREL, "run", "due", "--batch-size", "20"],
                env=environment(**shop.settings),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(source.uniform(0.3, 1.0))
            victim = source.choice(("PostgreSQL", "server", "worker", "run"))
            victims[victim] += 1
            if victim == "PostgreSQL":
                shop.restart_postgres()
            elif victim == "server":
                shop.restart_server(source.randrange(SERVERS))
            elif victim == "worker":
                shop.restart_worker(source.randrange(WORKERS))
            by_hand.kill()
            by_hand.wait()
            amid += asyncio.run(waiting(shop, program_id)) > 0
        sales = tills.settled()
    with capsys.disabled():
        print(f"\nseed {seed}: {dict(victims)} killed, {len(sales)} sales")
    assert amid, "everything was done before anybody was killed"
    assert {sale.refusal for sale in sales} <= {"", POOR}
    assert run("run", "due", **shop.settings).returncode == 0
    assert shop.incidents() == []
    asyncio.run(everything_happened_once(shop, program_id))


async def waiting(shop: Shop, program_id: UUID) -> int:
    """In how many wallets something is due."""
    return int((await shop.rows(DUE, program_id))[0][0])


async def everything_happened_once(shop: Shop, program_id: UUID) -> None:
    moved = await shop.rows(
        """SELECT point_type, kind, count(*) AS rows, count(DISTINCT member_id) AS members,
                  min(points) AS least, max(points) AS most FROM ledger_transaction
            WHERE program_id = $1 AND kind IN ('EXPIRE', 'ACTIVATE') GROUP BY 1, 2 ORDER BY 1, 2""",
        program_id,
    )
    each = (MEMBERS, MEMBERS, POINTS, POINTS)
    assert [tuple(row) for row in moved] == [
        ("later", "ACTIVATE", *each),
        ("later", "EXPIRE", *each),
        ("points", "EXPIRE", *each),
        ("rolling", "EXPIRE", *each),
    ]
    told = await shop.rows(
        """SELECT event_type, count(*) AS events FROM event_log
            WHERE program_id = $1 AND event_type IN ('points.expired', 'points.activated')
            GROUP BY 1 ORDER BY 1""",
        program_id,
    )
    assert [tuple(row) for row in told] == [("points.activated", MEMBERS), ("points.expired", 3 * MEMBERS)]
    assert await shop.rows(DISAGREEMENTS, program_id) == []
