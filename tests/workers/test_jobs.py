"""Wake-ups: workers hear of commits at once, and miss nothing when they don't."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from laurel.stack.redis import EmbeddedRedis
from server.ids import new_id
from server.operations.wakeups import WakeUps
from server.settings import Settings
from server.store import wakeups
from server.store.database import Database
from telemetry.metrics import Metrics
from tests.support.log import NOTED, append, noted, noting
from tests.support.servers import started
from tests.support.waiting import eventually
from workers import relay
from workers.jobs import Jobs
from workers.main import running
from workers.settings import WorkerSettings
from workers.subscriptions import Subscription
from workers.watch import Watch

LONG = 30.0


@pytest.fixture(scope="module", autouse=True)
async def _noted(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(NOTED)


@pytest.fixture
def consumer() -> str:
    """A name that no other test has."""
    return f"test-{uuid4().hex[:8]}"


@pytest.fixture
def own_redis(folder: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that may be stopped."""
    redis = EmbeddedRedis(folder / f"redis-{uuid4().hex[:8]}")
    redis.start()
    yield redis
    redis.stop()


@pytest.fixture
async def client(own_redis: EmbeddedRedis) -> AsyncIterator[Redis]:
    async with Redis.from_url(own_redis.url, socket_timeout=0.5) as client:
        yield client


@pytest.fixture
def settings_of_worker(database_url: str, own_redis: EmbeddedRedis, secrets_file: Path) -> WorkerSettings:
    return WorkerSettings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(own_redis.url),
        secrets_file=secrets_file,
        worker_ops_port=None,
    )


async def commit_elsewhere(database_url: str, wake_ups: WakeUps) -> list[object]:
    """Events, committed as a server does."""
    server = await Database.open(database_url, connections=1)
    server.committed = wake_ups.ring
    async with server.transaction() as connection:
        ids = await append(connection, 2)
    await server.close()
    return list(ids)


async def test_a_commit_wakes_the_workers(
    database: Database,
    database_url: str,
    settings_of_worker: WorkerSettings,
    client: Redis,
    consumer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # By itself it would not look again in our time.
    monkeypatch.setattr(relay, "SWEEP_SECONDS", 3600.0)
    wake_ups = WakeUps(client)
    sending = asyncio.create_task(wake_ups.run())
    async with running(settings_of_worker, {consumer: Subscription(noting(consumer))}):
        for _ in range(3):
            ids = await commit_elsewhere(database_url, wake_ups)

            async def done(ids: list[object] = ids) -> bool:
                # What could not be read yet when it was committed is read at the next wake-up.
                wake_ups.ring()
                return set(ids) <= set(await noted(database, consumer))

            await eventually(done, LONG)
    sending.cancel()


async def test_a_purchase_wakes_the_workers(
    settings: Settings,
    database: Database,
    settings_of_worker: WorkerSettings,
    consumer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "SWEEP_SECONDS", 3600.0)
    same = settings.model_copy(update={"redis_url": settings_of_worker.redis_url})
    follows = Subscription(noting(consumer), frozenset({"member.registered"}))
    async with (
        started(same, database) as laurel,
        running(settings_of_worker, {consumer: follows}),
    ):

        async def told() -> bool:
            await laurel.register()
            return bool(await noted(database, consumer))

        await eventually(told, LONG)


async def test_what_was_missed_while_redis_was_away_is_done_all_the_same(
    database: Database,
    database_url: str,
    settings_of_worker: WorkerSettings,
    own_redis: EmbeddedRedis,
    client: Redis,
    consumer: str,
) -> None:
    wake_ups = WakeUps(client)
    sending = asyncio.create_task(wake_ups.run())
    async with running(settings_of_worker, {consumer: Subscription(noting(consumer))}) as worker:

        async def wakes_up() -> bool:
            wake_ups.ring()
            return await client.exists("laurel:jobs:health-check") == 1

        await eventually(wakes_up, LONG)
        own_redis.stop()
        ids = await commit_elsewhere(database_url, wake_ups)

        async def done() -> bool:
            return set(ids) <= set(await noted(database, consumer))

        await eventually(done, LONG)
        own_redis.start()

        async def works_them_off() -> bool:
            wake_ups.ring()
            return (await wakes_up()) and await client.zcard(wakeups.QUEUE) == 0

        await eventually(works_them_off, LONG)
        assert not worker.broken.is_set()
    assert not worker.broken.is_set(), "to stop when told is nothing that broke"
    assert not sending.done()
    sending.cancel()


async def test_the_queue_stays_short_while_no_worker_is_there(client: Redis) -> None:
    senders = [wakeups.Sender(client) for _ in range(2)]
    for _ in range(100):
        for sender in senders:
            await sender.send()
    assert await client.zcard(wakeups.QUEUE) == 2 * wakeups.IDS
    # And its jobs are forgotten one day, as ARQ does with all.
    assert await client.dbsize() == 2 * wakeups.IDS + 1


async def test_it_stops_whenever_it_is_told(
    database: Database, own_redis: EmbeddedRedis, consumer: str
) -> None:
    """Now and then redis-py takes a cancellation for something else; nobody may wait for it for ever."""
    idle = relay.Relay(database, {}, consumer, new_id, Watch(Metrics()), LONG)

    async def briefly(seconds: float) -> None:
        jobs = Jobs(own_redis.url, idle)
        running = asyncio.create_task(jobs.run())
        await asyncio.sleep(seconds)
        await jobs.stop()
        await running

    async with asyncio.timeout(LONG):
        await asyncio.gather(*(briefly(number / 2500) for number in range(150)))
