"""Workers die, freeze and lose Redis under load: every event takes effect once, and in a member's order.

What leaves Laurel arrives, under the same id if it has to be sent again; read models are what they
would be if they were made from the log.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import redis

from laurel.stack.children import Child
from tests.faults import peers as outside
from tests.faults import shop as shops
from tests.faults.follower import CONSUMERS
from tests.faults.load import Sale, Tills
from tests.faults.peers import Peers
from tests.faults.proof import each_sale_happened_once, verified, wallets_agree
from tests.faults.shop import LARGE, STOP_SECONDS, Shop
from tests.faults.takeover import MOVED, Takeovers, few_wait, held
from tests.faults.telling import (
    all_sent,
    behind,
    caught_up,
    everything_arrived,
    orders_in_the_log,
    read_models_equal_a_rebuild,
    tell,
)
from tests.faults.watchers import Watchers
from tests.support.log import NOTED, append
from tests.support.processes import environment, wait_until
from workers.subscriptions import SUBSCRIPTIONS

pytestmark = pytest.mark.faults

TILLS = 8
COMMAND = (sys.executable, "-m", "tests.faults.follower")
KILLS = 12
SALES_PER_KILL = 60
RECOVERY_SECONDS = 30.0
# What is under way with those that work is over by then.
OTHERS_SECONDS = 5.0
# Until all is quiet, on a busy machine.
QUIET_SECONDS = 180.0
# How long the early writer takes.
HOLD_SECONDS = float(os.environ.get("LAUREL_FAULTS_HOLD_SECONDS") or 60.0)
LIVE_SECONDS = 1.0
PLATINUM = "You've unlocked Platinum"
POOR = "INSUFFICIENT_POINTS"


@pytest.fixture
def peers() -> Iterator[Peers]:
    with outside.opened() as peers:
        yield peers


@pytest.fixture
def shop(folder: Path, peers: Peers) -> Iterator[Shop]:
    """One that tells a partner and its members of everything."""
    with shops.opened(folder / f"shop-{uuid4().hex[:8]}", **peers.settings) as shop:
        asyncio.run(tell(shop, peers))
        yield shop


@contextlib.contextmanager
def following(shop: Shop, count: int, **settings: str) -> Iterator[list[Child]]:
    """Workers, for as long as the block lasts."""
    execute(shop, NOTED)
    wanted = environment(**shop.settings, LAUREL_WORKER_OPS_PORT="", **settings)
    workers = [Child(COMMAND, wanted, shop.folder / f"worker-{n}.log", STOP_SECONDS) for n in range(count)]
    try:
        for worker in workers:
            worker.start()
        # What happens before they know of a consumer isn't told to those that don't begin at the beginning.
        wanted_of_them = {*SUBSCRIPTIONS, *CONSUMERS, "member_summary"}
        assert wait_until(lambda: behind(shop).keys() >= wanted_of_them, QUIET_SECONDS)
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def execute(shop: Shop, command: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(shop.postgres.url())
        try:
            await connection.execute(command)
        finally:
            await connection.close()

    asyncio.run(run())


def ask(shop: Shop, query: str, *arguments: object) -> list[asyncpg.Record]:
    return asyncio.run(shop.rows(query, *arguments))


def quiet(shop: Shop) -> None:
    """Wait until everybody has come to the end of the log, and nothing is left to be sent."""
    assert wait_until(lambda: caught_up(shop) and all_sent(shop), QUIET_SECONDS), behind(shop)


def all_is_well(shop: Shop, peers: Peers, sales: Sequence[Sale]) -> str:
    """Whatever befell those who did it. Says how much it was."""
    events = each_took_effect_once_in_order(shop)
    told = everything_arrived(shop, peers)
    assert {sale.refusal for sale in sales} <= {"", POOR}
    asyncio.run(each_sale_happened_once(shop, sales))
    asyncio.run(wallets_agree(shop))
    verified(shop)
    read_models_equal_a_rebuild(shop)
    return f"{events} events once each, {told}"


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


def test_workers_that_are_killed_lose_nothing_and_others_take_over_soon(
    shop: Shop, peers: Peers, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    execute(shop, MOVED)
    takeovers = Takeovers(shop)
    with following(shop, 2) as workers, Tills(shop.addresses, shop.key, TILLS, seed) as tills:
        for kill in range(KILLS):
            # What is taken over comes after what waits already, and that is not to be measured.
            assert wait_until(lambda: few_wait(shop), QUIET_SECONDS)
            tills.sell(shop.sales(source, SALES_PER_KILL, f"sale-{kill}"))
            assert wait_until(lambda: bool(at_work(shop, workers)), QUIET_SECONDS)
            time.sleep(source.uniform(0.0, 0.3))
            if kill == 0:
                shop.restart_postgres()
            # All at once now and then: nobody is left to take over.
            everybody = kill % 5 == 4
            victims = workers if everybody else at_work(shop, workers) or workers[:1]
            dead = [victim.pid for victim in victims]
            for victim in victims:
                if victim.running:
                    os.kill(victim.pid, signal.SIGKILL)
                    victim.stop()
            if not everybody:
                takeovers.died(dead)
            ready = len(logged_by(shop, "ready"))
            for victim in victims:
                victim.start()
            if everybody:
                # How soon somebody is there again is the machine's business.
                assert wait_until(lambda ready=ready: len(logged_by(shop, "ready")) > ready, QUIET_SECONDS)
                takeovers.died(dead)
        sales = tills.settled()
        quiet(shop)
    took = takeovers.took()
    longest, slowest = took[-1]
    well = all_is_well(shop, peers, sales)
    _tell(
        capsys,
        f"seed {seed}: {KILLS} kills, {len(took)} times taken over, at most {longest:.1f} s later; {well}",
    )
    assert longest < RECOVERY_SECONDS, slowest


def test_workers_and_servers_replaced_one_by_one_lose_nothing_and_cut_no_stream_off(
    shop: Shop, peers: Peers, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    with (
        following(shop, 2) as workers,
        Tills(shop.addresses, shop.key, TILLS, seed) as tills,
        Watchers(shop.doors, shop.key, shop.members) as watchers,
    ):
        watchers.until_open()
        for number in range(4):
            tills.sell(shop.sales(source, 100, f"sale-{number}"))
            assert wait_until(lambda: bool(at_work(shop, workers)), QUIET_SECONDS)
            for worker in at_work(shop, workers) or workers[:1]:
                worker.stop()
                assert worker.ending == "ended with code 0"
                worker.start()
            shop.replace_server(number % 2)
        sales = tills.settled()
        quiet(shop)
        expected = orders_in_the_log(shop)

        def all_told() -> bool:
            return all(len(w.orders) >= len(expected[m]) for m, w in watchers.watched().items())

        wait_until(all_told, QUIET_SECONDS)
        watched = watchers.watched()
    assert {member: found.orders for member, found in watched.items()} == dict(expected)
    # Begun once, and gone on with after each end.
    assert {found.standings for found in watched.values()} == {1}
    ends = [end for found in watched.values() for end in found.ends]
    assert set(ends) == {"UNAVAILABLE"}
    well = all_is_well(shop, peers, sales)
    _tell(capsys, f"seed {seed}: {len(ends)} streams ended and gone on with; {well}")
    assert "\n".join(shop.incidents()) == ""
    assert logged_by(shop, "worker_broken") == []


def test_a_worker_frozen_past_its_lease_writes_nothing_when_it_goes_on(
    shop: Shop, peers: Peers, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    holding = """SELECT split_part(holder, ':', 2)::int AS pid, token FROM subscription
                  WHERE consumer = 'slow' AND leased_until > now()"""
    # Shorter than PostgreSQL lets an idle transaction be, so that it is the lease that shuts it out.
    with (
        following(shop, 2, LAUREL_WORKER_LEASE_SECONDS="4") as workers,
        Tills(shop.addresses, shop.key, TILLS, seed) as tills,
    ):
        tills.sell(shop.sales(source, 600, "sale"))

        def freeze() -> tuple[int, int]:
            """Somebody in the midst of work that holds the lease."""
            while True:
                found = ask(shop, holding)
                if not found:
                    if caught_up(shop, ["slow"]):
                        tills.sell(shop.sales(source, 100, f"more-{time.monotonic_ns()}"))
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
        tills.settled()
        quiet(shop)
        # By the fence; by PostgreSQL if it was frozen between its last word and COMMIT.
        words = ("relay_fenced", "relay_interrupted", "relay_postponed")
        shut_out = [entry.get("consumer") for word in words for entry in logged_by(shop, word)]
        sent = frozen_amid_sending(shop, tills, source, workers)
        sales = tills.settled()
        quiet(shop)
        assert all(worker.running for worker in workers)
    well = all_is_well(shop, peers, sales)
    _tell(capsys, f"seed {seed}: taken over after {over:.1f} s, all sent after {sent:.1f} s; {well}")
    assert "slow" in shut_out


def frozen_amid_sending(shop: Shop, tills: Tills, source: random.Random, workers: Sequence[Child]) -> float:
    """Freeze a worker until others have sent what it had to send; how many seconds that took."""
    worker = source.choice(workers)
    unsent = "SELECT FROM delivery WHERE status = 'pending' AND delivery_id::text = ANY($1) LIMIT 1"
    for attempt in count():
        tills.sell(shop.sales(source, SALES_PER_KILL, f"again-{attempt}"))
        assert wait_until(lambda: bool(held(shop)), QUIET_SECONDS)
        os.kill(worker.pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            theirs = held(shop)
            assert wait_until(lambda theirs=theirs: not ask(shop, unsent, theirs), RECOVERY_SECONDS)
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        took = time.monotonic() - began
        # Sooner it was not the frozen one that had them.
        if took > OTHERS_SECONDS:
            break
    return took


def test_redis_emptied_full_and_stopped_loses_no_work(
    shop: Shop, peers: Peers, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    # What stands in PostgreSQL alone.
    unmoved = [*CONSUMERS, *SUBSCRIPTIONS]
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
        tills.settled()
        assert wait_until(lambda: caught_up(shop, unmoved) and all_sent(shop), QUIET_SECONDS), behind(shop)
        shop.redis.stop()
        tills.sell(shop.sales(source, 200, "stopped"))
        tills.settled()
        # Without Redis too: nothing that is true is kept there.
        assert wait_until(lambda: caught_up(shop, unmoved) and all_sent(shop), QUIET_SECONDS), behind(shop)
        shop.redis.start()
        back = time.monotonic()
        tills.sell(shop.sales(source, 100, "started"))
        sales = tills.settled()
        quiet(shop)
        took = time.monotonic() - back

        def works_off_wake_ups() -> bool:
            with redis.Redis.from_url(shop.redis.url) as client:
                return client.exists("laurel:jobs:health-check") == 1 and client.zcard("laurel:jobs") == 0

        assert wait_until(works_off_wake_ups, QUIET_SECONDS)
        assert worker.pid == pid
        assert worker.running
        well = all_is_well(shop, peers, sales)
    _tell(capsys, f"seed {seed}: all done {took:.1f} s after Redis came back; {well}")


def test_an_early_writer_that_commits_late_is_waited_for_and_holds_up_nothing_live(
    shop: Shop, peers: Peers, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)

    async def hold() -> int:
        """Write first, commit last; how many events were noted that came after."""
        connection = await asyncpg.connect(shop.postgres.url())
        try:
            async with connection.transaction():
                early = await append(connection, 2)
                until = time.monotonic() + HOLD_SECONDS
                tills.sell(shop.large_sales())
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

    with (
        following(shop, 1),
        Tills(shop.addresses, shop.key, TILLS, seed) as tills,
        Watchers(shop.doors, shop.key, shop.members) as watchers,
    ):
        watchers.until_open()
        assert wait_until(lambda: caught_up(shop), QUIET_SECONDS)
        assert asyncio.run(hold()) == 0
        committed = time.monotonic()
        watched = watchers.watched()
        sales = tills.settled()
        quiet(shop)
        took = time.monotonic() - committed
        well = all_is_well(shop, peers, sales)
    replied = {sale.request.order_reference: sale.replied for sale in sales if sale.reply}
    late = {
        "live updates": [
            at - replied[order] for w in watched.values() for order, at in zip(w.orders, w.times, strict=True)
        ],
        "new tiers": [
            watched[sale.request.member_id].unlocked[PLATINUM] - replied[sale.request.order_reference]
            for sale in sales
            if sale.request.order_reference.startswith(LARGE)
        ],
    }
    mails = [mail["To"] for mail in peers.mails.mails if mail["Subject"] == PLATINUM]
    pushed = [call.path for call in peers.phones.received if json.loads(call.body)["title"] == PLATINUM]
    lines = [f"seed {seed}: held for {HOLD_SECONDS:.0f} s, all done {took:.1f} s later; {well}"]
    for what, seconds in late.items():
        seconds.sort()
        lines.append(
            f"{len(seconds)} {what}, 19 of 20 within {of_twenty(seconds):.3f} s of the reply, all within "
            f"{seconds[-1]:.3f} s"
        )
    _tell(capsys, "\n".join(lines))
    # All but those of the last moment, while the early writer was still at it.
    assert len(late["live updates"]) > 0.9 * len(replied)
    assert len(late["new tiers"]) == len(set(mails)) == len(set(pushed)) == len(shop.members)
    for seconds in late.values():
        assert of_twenty(seconds) < LIVE_SECONDS
        assert seconds[-1] < HOLD_SECONDS / 2


def of_twenty(seconds: Sequence[float]) -> float:
    """What nineteen of twenty are below."""
    return seconds[len(seconds) * 19 // 20]


def _tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(f"\n{line}", flush=True)
