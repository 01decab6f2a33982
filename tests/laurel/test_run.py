"""`laurel run due`: by hand, from cron, twice at once, and with somebody pulling the plug."""

import asyncio
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from server.store.database import Database
from tests.support import processes
from tests.support.clocks import DISAGREEMENTS, Clockwork, opened
from tests.support.processes import LAUREL, environment
from tests.support.waiting import eventually

MEMBERS = 60
EXPIRED = {
    ("later", "ACTIVATE"): 100,
    ("later", "EXPIRE"): 100,
    ("points", "EXPIRE"): 100,
    ("rolling", "EXPIRE"): 100,
}


@pytest.fixture
async def shop(database: Database, redis_url: str, secrets_file: Path) -> AsyncIterator[Clockwork]:
    """A shop whose members bought something two months ago, and nothing since."""
    async with opened(database, redis_url, secrets_file) as shop:
        await shop.customers(MEMBERS)
        shop.now = datetime.now(UTC)
        yield shop


@pytest.fixture
def settings(database_url: str, secrets_file: Path) -> dict[str, str]:
    return {"LAUREL_DATABASE_URL": database_url, "LAUREL_SECRETS_FILE": str(secrets_file)}


async def moved(shop: Clockwork) -> dict[tuple[str, str], Counter[int]]:
    """How often a member has so many points of a wallet and kind, but for purchases."""
    rows = await shop.rows(
        """SELECT point_type, kind, member_id, sum(points)::bigint AS points FROM ledger_transaction
            WHERE program_id = $1 AND kind <> 'EARN' GROUP BY 1, 2, 3"""
    )
    found: dict[tuple[str, str], Counter[int]] = {}
    for row in rows:
        found.setdefault((row["point_type"], row["kind"]), Counter())[row["points"]] += 1
    return found


async def test_it_shows_what_would_happen_and_what_did(shop: Clockwork, settings: dict[str, str]) -> None:
    command = partial(processes.run, "run", "due", "--program", shop.program.name)
    dry = await asyncio.to_thread(partial(command, "--dry-run", **settings))
    assert (dry.returncode, dry.stderr) == (0, f"{MEMBERS} members looked at\n")
    assert await moved(shop) == {}
    real = await asyncio.to_thread(partial(command, **settings))
    assert real.returncode == 0, real.stderr
    lines = [line.split()[1:] for line in real.stdout.splitlines()[1:]]
    assert lines == [
        ["later", "activated", "6,000", "60"],
        ["later", "expired", "6,000", "60"],
        ["points", "expired", "6,000", "60"],
        ["rolling", "expired", "6,000", "60"],
    ]
    assert dry.stdout == real.stdout.replace("WERE    ", "WOULD BE")
    again = await asyncio.to_thread(partial(command, **settings))
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "0 members looked at\n")


async def test_two_processes_and_a_busy_shop_do_everything_once(
    shop: Clockwork, settings: dict[str, str]
) -> None:
    rows = await shop.rows("SELECT member_id FROM member WHERE program_id = $1")
    members = [row["member_id"] for row in rows]
    command = partial(processes.run, "run", "due", "--batch-size", "5", **settings)
    first, second, *_ = await asyncio.gather(
        asyncio.to_thread(command),
        asyncio.to_thread(command),
        shopping(shop, members),
    )
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert await moved(shop) == {key: Counter({points: MEMBERS}) for key, points in EXPIRED.items()}
    assert await shop.rows(DISAGREEMENTS) == []


async def test_a_run_that_is_killed_is_finished_by_the_next(
    shop: Clockwork, settings: dict[str, str]
) -> None:
    process = await asyncio.create_subprocess_exec(
        LAUREL,
        *("run", "due", "--batch-size", "1"),
        env=environment(**settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    async def begun() -> bool:
        return bool(await moved(shop))

    await eventually(begun)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    finished = await asyncio.to_thread(partial(processes.run, "run", "due", **settings))
    assert finished.returncode == 0, finished.stderr
    assert await moved(shop) == {key: Counter({points: MEMBERS}) for key, points in EXPIRED.items()}
    told = Counter(row["member_id"] for row in await shop.events("points.expired"))
    assert set(told.values()) == {3}
    assert await shop.rows(DISAGREEMENTS) == []


async def shopping(shop: Clockwork, members: list[UUID]) -> None:
    """Everybody buys something, ten at a time."""
    for first in range(0, len(members), 10):
        await shop.together(shop.purchase(m, 10) for m in members[first : first + 10])
