"""Workers die, freeze and lose Redis under load: every event takes effect once, and in a member's order."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator

import asyncpg
import pytest
import redis

from laurel.stack.children import Child
from tests.faults.follower import CONSUMERS
from tests.faults.load import Tills
from tests.faults.shop import Shop
from tests.support.log import NOTED, append
from tests.support.processes import environment, wait_until

pytestmark = pytest.mark.faults

TILLS = 8
COMMAND = (sys.executable, "-m", "tests.faults.follower")
KILLS = 20
SALES_PER_KILL = 60
RECOVERY_SECONDS = 30.0
# How long the early writer takes.
HOLD_SECONDS = float(os.environ.get("LAUREL_FAULTS_HOLD_SECONDS") or 60.0)


@contextlib.contextmanager
def following(shop: Shop, count: int, **settings: str) -> Iterator[list[Child]]:
    """Workers, for as long as the block lasts."""
    asyncio.run(_execute(shop, NOTED))
    wanted = environment(**shop.settings, LAUREL_WORKER_OPS_PORT="", **settings)
    workers = [Child(COMMAND, wanted, shop.folder / f"worker-{n}.log", 15.0) for n in range(count)]
    try:
        for worker in workers:
            worker.start()
        yield workers
    finally:
        for worker in workers:
            worker.stop()


async def _execute(shop: Shop, command: str) -> None:
    connection = await asyncpg.connect(shop.postgres.url())
    try:
        await connection.execute(command)
    finally:
        await connection.close()


def ask(shop: Shop, query: str, *arguments: object) -> list[asyncpg.Record]:
    return asyncio.run(shop.rows(query, *arguments))


def caught_up(shop: Shop) -> bool:
    """Whether every consumer has noted as many events as there are."""
    [(logged,)] = ask(shop, "SELECT count(*) FROM event_log")
    noted = dict(map(tuple, ask(shop, "SELECT consumer, count(*) FROM noted GROUP BY consumer")))
    return all(noted.get(consumer, 0) >= logged for consumer in CONSUMERS)


def each_took_effect_once_in_order(shop: Shop) -> int:
    """How many events there were."""
    logged = ask(shop, "SELECT event_id, member_id FROM event_log ORDER BY epoch, xid, position")
    for consumer in CONSUMERS:
        noted = ask(
            shop, "SELECT event_id, member_id FROM noted WHERE consumer = $1 ORDER BY number", consumer
        )
        assert len(noted) == len(logged), consumer
        assert by_member(noted) == by_member(logged), consumer
    assert ask(shop, "SELECT * FROM dead_letter") == []
    return len(logged)


def by_member(rows: list[asyncpg.Record]) -> dict[object, list[object]]:
    events: dict[object, list[object]] = defaultdict(list)
    for event_id, member_id in rows:
        events[member_id].append(event_id)
    return events


def logged_by(shop: Shop, event: str) -> list[dict[str, object]]:
    """What workers logged under that name."""
    lines = [line for path in shop.folder.glob("worker-*.log") for line in path.read_text().splitlines()]
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry.get("event") == event]


def at_work(shop: Shop, workers: list[Child]) -> list[Child]:
    """Those in the midst of something."""
    rows = ask(
        shop,
        "SELECT split_part(holder, ':', 2)::int FROM subscription WHERE leased_until > clock_timestamp()",
    )
    holders = {pid for (pid,) in rows}
    return [worker for worker in workers if worker.running and worker.pid in holders]


def test_workers_that_are_killed_lose_and_repeat_nothing(
    shop: Shop, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    with (
        following(shop, 2, LAUREL_WORKER_LEASE_SECONDS="3") as workers,
        Tills(shop.addresses, shop.key, TILLS, seed) as tills,
    ):
        for kill in range(KILLS):
            tills.sell(shop.sales(source, SALES_PER_KILL, f"sale-{kill}"))
            assert wait_until(lambda: bool(at_work(shop, workers)), 60.0)
            time.sleep(source.uniform(0.0, 0.3))
            if kill % 7 == 6:
                shop.restart_postgres()
            # All at once now and then: nobody is left to take over.
            for victim in workers if kill % 5 == 4 else at_work(shop, workers) or workers[:1]:
                if victim.running:
                    os.kill(victim.pid, signal.SIGKILL)
                    victim.stop()
                victim.start()
        tills.settled(90.0)
        sold = time.monotonic()
        assert wait_until(lambda: caught_up(shop), 60.0), ask(shop, "SELECT * FROM subscription")
        recovery = time.monotonic() - sold
        count = each_took_effect_once_in_order(shop)
    _tell(capsys, f"seed {seed}: {KILLS} kills; {count} events, done {recovery:.1f} s after the last sale")
    assert recovery < RECOVERY_SECONDS


def test_workers_and_servers_replaced_one_by_one_lose_nothing(
    shop: Shop, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    with following(shop, 2) as workers, Tills(shop.addresses, shop.key, TILLS, seed) as tills:
        for number in range(4):
            tills.sell(shop.sales(source, 100, f"sale-{number}"))
            assert wait_until(lambda: bool(at_work(shop, workers)), 60.0)
            for worker in at_work(shop, workers) or workers[:1]:
                worker.stop()
                assert worker.ending == "ended with code 0"
                worker.start()
            shop.replace_server(number % 2)
        tills.settled(90.0)
        assert wait_until(lambda: caught_up(shop), 60.0), ask(shop, "SELECT * FROM subscription")
        count = each_took_effect_once_in_order(shop)
    _tell(capsys, f"seed {seed}: {count} events once each")
    assert "\n".join(shop.incidents()) == ""


def test_a_worker_frozen_past_its_lease_writes_nothing_when_it_goes_on(
    shop: Shop, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    holding = """SELECT split_part(holder, ':', 2)::int AS pid, token FROM subscription
                  WHERE consumer = 'slow' AND leased_until > now()"""
    with (
        following(shop, 2, LAUREL_WORKER_LEASE_SECONDS="4") as workers,
        Tills(shop.addresses, shop.key, TILLS, seed) as tills,
    ):
        tills.sell(shop.sales(source, 1500, "sale"))

        def freeze() -> tuple[int, int]:
            """Somebody in the midst of work that holds the lease."""
            while True:
                found = ask(shop, holding)
                if not found:
                    continue
                os.kill(found[0]["pid"], signal.SIGSTOP)
                if ask(shop, holding) == found:
                    return found[0]["pid"], found[0]["token"]
                os.kill(found[0]["pid"], signal.SIGCONT)

        frozen, token = freeze()
        began = time.monotonic()
        try:
            taken = "SELECT FROM subscription WHERE consumer = 'slow' AND token > $1"
            assert wait_until(lambda: bool(ask(shop, taken, token)), RECOVERY_SECONDS)
            over = time.monotonic() - began
        finally:
            os.kill(frozen, signal.SIGCONT)
        tills.settled(90.0)
        assert wait_until(lambda: caught_up(shop), 60.0), ask(shop, "SELECT * FROM subscription")
        count = each_took_effect_once_in_order(shop)
        assert {worker.pid for worker in workers if worker.running} >= {frozen}
    _tell(capsys, f"seed {seed}: taken over after {over:.1f} s; {count} events once each")
    assert [entry["consumer"] for entry in logged_by(shop, "relay_fenced")].count("slow") == 1


def test_redis_emptied_full_and_stopped_loses_no_work(
    shop: Shop, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    with following(shop, 1) as [worker], Tills(shop.addresses, shop.key, TILLS, seed) as tills:
        pid = worker.pid
        for round_number in range(3):
            tills.sell(shop.sales(source, 100, f"emptied-{round_number}"))
            with redis.Redis.from_url(shop.redis.url) as client:
                client.flushall()
        with redis.Redis.from_url(shop.redis.url) as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                client.set("full", 1)
        tills.sell(shop.sales(source, 100, "full"))
        tills.settled(60.0)
        assert wait_until(lambda: caught_up(shop), 60.0)
        shop.redis.stop()
        tills.sell(shop.sales(source, 200, "stopped"))
        tills.settled(60.0)
        # Without Redis too: nothing that is true is kept there.
        assert wait_until(lambda: caught_up(shop), 60.0)
        shop.redis.start()
        tills.sell(shop.sales(source, 100, "started"))
        tills.settled(60.0)
        assert wait_until(lambda: caught_up(shop), 60.0)

        def works_off_wake_ups() -> bool:
            with redis.Redis.from_url(shop.redis.url) as client:
                return client.exists("laurel:jobs:health-check") == 1 and client.zcard("laurel:jobs") == 0

        assert wait_until(works_off_wake_ups, 30.0)
        count = each_took_effect_once_in_order(shop)
        assert worker.pid == pid
        assert worker.running
    _tell(capsys, f"seed {seed}: {count} events once each")


def test_an_early_writer_that_commits_late_is_waited_for(
    shop: Shop, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)

    async def hold() -> int:
        """Write first, commit last; how many events were noted that came after."""
        connection = await asyncpg.connect(shop.postgres.url())
        try:
            async with connection.transaction():
                early = await append(connection, 2)
                until = time.monotonic() + HOLD_SECONDS
                while time.monotonic() < until:
                    tills.sell(shop.sales(source, 10, f"sale-{time.monotonic_ns()}"))
                    await asyncio.sleep(min(1.0, HOLD_SECONDS / 5))
                    await connection.execute("SELECT 1")
                return len(
                    await connection.fetch(
                        """SELECT FROM noted JOIN event_log USING (event_id)
                            WHERE xid > (SELECT xid FROM event_log WHERE event_id = $1)""",
                        early[0],
                    )
                )
        finally:
            await connection.close()

    with following(shop, 1), Tills(shop.addresses, shop.key, TILLS, seed) as tills:
        assert wait_until(lambda: caught_up(shop), 60.0)
        assert asyncio.run(hold()) == 0
        committed = time.monotonic()
        tills.settled(60.0)
        assert wait_until(lambda: caught_up(shop), 60.0)
        took = time.monotonic() - committed
        count = each_took_effect_once_in_order(shop)
    _tell(capsys, f"seed {seed}: held for {HOLD_SECONDS:.0f} s, {count} events done {took:.1f} s later")


def _tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(f"\n{line}", flush=True)
