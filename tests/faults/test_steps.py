"""A worker dies at each step of its work: another goes on from there, and it shows only where it must."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from loyalty.v1 import webhooks_pb2
from redis.asyncio import Redis

from server.domain.actor import CallerKind
from server.settings import Settings
from server.store import figures, projections
from server.store.database import Database
from server.store.figures import PROJECTION
from server.store.summaries import SummaryStore, written
from tests.faults.dying import OF_CHANNELS, OF_CONSUMERS, PACE
from tests.support.processes import ROOT, environment
from tests.support.programs import worker_settings_for
from tests.support.receivers import Receiver, listening
from tests.support.relays import caught_up
from tests.support.servers import Laurel, started
from tests.support.waiting import eventually
from tests.support.watching import buy
from workers.main import running
from workers.projections import daily_figures
from workers.projections.member_summary import MemberSummaries
from workers.projections.rebuild import rebuild
from workers.subscriptions import SUBSCRIPTIONS

pytestmark = pytest.mark.faults

LEASE_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
CONSUMERS = (*SUBSCRIPTIONS, "member_summary")
# How often the partner had heard of it when the worker died, and heard of it in the end.
HEARD = {"claimed": (0, 1), "sent": (1, 2), "recorded": (1, 1)}
PASSES = [
    *(("daily_figures", step) for step in OF_CONSUMERS),
    ("webhooks", "moved"),
    ("notifications", "moved"),
    ("member_summary", "moved"),
    *(("webhooks", step) for step in OF_CHANNELS),
]


@pytest.fixture(scope="module")
async def partner() -> AsyncIterator[Receiver]:
    async with listening() as receiver:
        yield receiver


@pytest.fixture(scope="module")
async def shop(settings: Settings, database: Database, partner: Receiver) -> AsyncIterator[Laurel]:
    """One whose partner is told what is earned; a worker has been there."""
    async with started(settings.model_copy(update={"webhook_loopback": True}), database) as shop:
        staff = await shop.caller(await shop.new_key(CallerKind.STAFF, scopes=["webhooks.*"]))
        await staff.webhooks.RegisterWebhook(
            webhooks_pb2.RegisterWebhookRequest(
                request_id=uuid4().hex, url=partner.url(), event_types=["points.earned"]
            )
        )
        await worked_off(shop)
        yield shop


async def worked_off(shop: Laurel) -> None:
    """Have a worker do all that there is to do."""
    settings = worker_settings_for(shop.settings, worker_lease_seconds=LEASE_SECONDS)

    async def all_done() -> bool:
        async with shop.database.connection() as connection:
            unsent = await connection.fetch("SELECT FROM delivery WHERE status <> 'sent'")
            place = await projections.place(connection, "member_summary")
            standing = await projections.standing(connection, "member_summary")
        return not unsent and await summaries.place(standing.generations.current) >= written(place)

    async with (
        Redis.from_url(shop.settings.redis_url.get_secret_value()) as redis,
        running(settings, pace=PACE),
    ):
        summaries = SummaryStore(redis)
        await caught_up(shop.database, CONSUMERS)
        await eventually(all_done, PATIENCE_SECONDS)


async def dies(shop: Laurel, consumer: str, step: str, folder: Path) -> None:
    """Have a worker begin to do it."""
    values = {
        "LAUREL_DATABASE_URL": shop.settings.database_url.get_secret_value(),
        "LAUREL_REDIS_URL": shop.settings.redis_url.get_secret_value(),
        "LAUREL_SECRETS_FILE": str(shop.settings.secrets_file),
        "LAUREL_WEBHOOK_LOOPBACK": "true",
        "LAUREL_WORKER_LEASE_SECONDS": str(LEASE_SECONDS),
        "LAUREL_WORKER_OPS_PORT": "",
    }
    command = (sys.executable, "-m", "tests.faults.dying", consumer, step)
    with (folder / "worker.log").open("wb") as log:
        worker = await asyncio.create_subprocess_exec(
            *command, env=environment(**values), stdout=log, stderr=log, cwd=ROOT
        )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            code = await worker.wait()
    finally:
        if worker.returncode is None:
            worker.kill()
    assert code == -signal.SIGKILL, (folder / "worker.log").read_text()


@pytest.mark.parametrize(("consumer", "step"), PASSES)
async def test_who_dies_at_a_step_is_gone_on_from(
    shop: Laurel, partner: Receiver, tmp_path: Path, consumer: str, step: str
) -> None:
    partner.received.clear()
    member_id = await shop.register()
    await buy(shop.terminal, member_id)

    await dies(shop, consumer, step, tmp_path)

    when_it_died, in_the_end = HEARD.get(step, (0, 1))
    assert len(partner.received) == when_it_died
    if step in OF_CONSUMERS:
        assert await has_moved_on(shop.database, consumer) == (step == "committed")
    await worked_off(shop)
    assert len(partner.received) == in_the_end
    assert len({(call.message_id, call.body) for call in partner.received}) == 1
    async with shop.database.connection() as connection:
        assert await connection.fetch("SELECT FROM dead_letter") == []
        told = await connection.fetch(
            "SELECT FROM message WHERE member_id = $1 AND occasion = 'welcome'", UUID(member_id)
        )
    assert len(told) == 1
    await figures_are_right(shop.database)
    await summary_is_right(shop, UUID(member_id))


async def has_moved_on(database: Database, consumer: str) -> bool:
    """Whether the consumer is at the end of the log."""
    async with database.connection() as connection:
        return bool(
            await connection.fetchval(
                """SELECT NOT EXISTS (SELECT FROM event_log WHERE (epoch, xid, position)
                                                                > (s.epoch, s.xid, s.position))
                     FROM subscription AS s WHERE consumer = $1""",
                consumer,
            )
        )


async def figures_are_right(database: Database) -> None:
    """They come to the same when they are counted again."""

    async def counted() -> figures.Figures:
        async with database.transaction() as connection:
            generations = await projections.following(connection, PROJECTION)
            return await figures.everything(connection, generations.current)

    before = await counted()
    assert [progress async for progress in rebuild(database, daily_figures.Build())]
    assert await counted() == before


async def summary_is_right(shop: Laurel, member_id: UUID) -> None:
    """What Redis says of the member is what PostgreSQL does."""
    member = (shop.program.program_id, member_id)
    async with Redis.from_url(shop.settings.redis_url.get_secret_value()) as redis:
        summaries = MemberSummaries(redis, lambda: datetime.now(UTC))
        async with shop.database.transaction() as connection:
            standing = await projections.standing(connection, "member_summary")
            entries = await summaries.entries(connection, [member])
        found = await summaries.store.read(standing.generations.current, [member])
        assert found
        assert await summaries.store.add(standing.generations.current, entries)
        again = await summaries.store.read(standing.generations.current, [member])
    assert found == again
