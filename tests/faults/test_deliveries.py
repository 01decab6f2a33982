"""Workers die and freeze while partners are told what happens: nothing is lost, repeats show by their id."""

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2, webhooks_pb2
from redis.asyncio import Redis

from server.domain.actor import CallerKind
from server.settings import Settings
from server.store.database import Database
from tests.support.receivers import Received, listening
from tests.support.servers import Laurel, started
from tests.support.waiting import eventually
from tests.support.workers import ended, hasty_worker

pytestmark = pytest.mark.faults

WORKERS = 3
ENDPOINTS = 4
KILLS = 14
BUYERS = 4
# What a worker that is stopped for so long holds is taken by others meanwhile.
FROZEN_SECONDS = 5.0


async def test_no_kill_loses_a_webhook(
    settings: Settings,
    database: Database,
    tmp_path: Path,
    seed: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = random.Random(seed)

    async def slow(_: Received) -> None:
        await asyncio.sleep(source.uniform(0, 0.2))

    async with AsyncExitStack() as opened:
        unhurried = settings.model_copy(update={"webhook_loopback": True, "credential_limits": ""})
        laurel = await opened.enter_async_context(started(unhurried, database))
        receiver = await opened.enter_async_context(listening(answer=slow))
        secrets = [await register(laurel, receiver.url(f"/{number}")) for number in range(ENDPOINTS)]
        workers = [await hasty_worker(unhurried, tmp_path) for _ in range(WORKERS)]
        opened.push_async_callback(end_all, workers)
        bought: list[str] = []
        done = asyncio.Event()
        buying = [asyncio.create_task(buy(laurel, bought, done)) for _ in range(BUYERS)]
        for number in range(KILLS):
            await asyncio.sleep(source.uniform(0.2, 1.0))
            victim = source.randrange(WORKERS)
            if number == KILLS // 2:
                await freeze(workers[victim])
                async with Redis.from_url(unhurried.redis_url.get_secret_value()) as redis:
                    await redis.flushall()
            await ended(workers[victim])
            workers[victim] = await hasty_worker(unhurried, tmp_path)
        done.set()
        await asyncio.gather(*buying)
        expected = ENDPOINTS * len(bought)
        await eventually(all_sent(database, expected), 60)

        arrived = Counter(call.message_id for call in receiver.received)
        with capsys.disabled():
            repeats = arrived.total() - len(arrived)
            print(f"\nseed {seed}: {KILLS} killed, {len(arrived)} messages, {repeats} repeats")
        assert sorted({event_of(call) for call in receiver.received}) == sorted(bought)
        assert len(arrived) == expected
        bodies = {(call.message_id, call.body) for call in receiver.received}
        assert len(bodies) == expected, "a repetition says the same"
        await each_repeat_was_a_new_attempt(database, arrived)
        for call in receiver.received[:: max(1, len(receiver.received) // 50)]:
            call.verified(secrets[int(call.path.removeprefix("/"))])


async def register(laurel: Laurel, url: str) -> str:
    staff = await laurel.caller(await laurel.new_key(CallerKind.STAFF, scopes=["webhooks.*"]))
    request = webhooks_pb2.RegisterWebhookRequest(
        request_id=uuid4().hex, url=url, event_types=["points.earned"]
    )
    return (await staff.webhooks.RegisterWebhook(request)).secret


async def buy(laurel: Laurel, bought: list[str], done: asyncio.Event) -> None:
    """A member who buys until it is time to go home; ``bought`` gets the events."""
    member_id = await laurel.register()
    while not done.is_set():
        request = points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=uuid4().hex,
            amount=Money(currency_code="INR", units=500),
        )
        bought.append((await laurel.service.points.Accrue(request)).event_id)
        await asyncio.sleep(0.05)


async def freeze(worker: asyncio.subprocess.Process) -> None:
    """Stop it for longer than its leases last, and let it go on for a moment."""
    worker.send_signal(signal.SIGSTOP)
    await asyncio.sleep(FROZEN_SECONDS)
    worker.send_signal(signal.SIGCONT)
    await asyncio.sleep(1.0)


async def end_all(workers: list[asyncio.subprocess.Process]) -> None:
    for worker in workers:
        await ended(worker)


def event_of(call: Received) -> str:
    return str(json.loads(call.body)["data"]["event_id"])


def all_sent(database: Database, expected: int) -> Callable[[], Awaitable[bool]]:
    async def sent() -> bool:
        async with database.connection() as connection:
            found = await connection.fetch("SELECT status, count(*) FROM delivery GROUP BY status")
        return {row[0]: row[1] for row in found} == {"sent": expected}

    return sent


async def each_repeat_was_a_new_attempt(database: Database, arrived: Counter[str]) -> None:
    """Nobody sends what somebody else has taken: no message arrives more often than it was taken."""
    async with database.connection() as connection:
        rows: list[asyncpg.Record] = await connection.fetch("SELECT delivery_id, token FROM delivery")
    taken = {str(row["delivery_id"]): row["token"] for row in rows}
    assert [i for i, times in arrived.items() if times > taken[i]] == []
