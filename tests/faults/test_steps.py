"""A worker dies at each step of its work, amid others' purchases: another goes on from there, and it shows
only where it must.
"""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from loyalty.v1 import webhooks_pb2
from redis.asyncio import Redis

from server.domain.actor import CallerKind
from server.domain.timeline import Entry
from server.settings import Settings
from server.store import figures, projections, timeline
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
from workers.projections import daily_figures, history
from workers.projections.member_summary import MemberSummaries
from workers.projections.rebuild import rebuild
from workers.subscriptions import SUBSCRIPTIONS

pytestmark = pytest.mark.faults

LEASE_SECONDS = 1.0
PATIENCE_SECONDS = 120.0
CONSUMERS = (*SUBSCRIPTIONS, "member_summary")
OTHERS = 5
# Between two purchases of theirs: so that there is always something to do, and soon all of it is done.
PAUSE_SECONDS = 0.05
PASSES = [
    *(("daily_figures", step) for step in OF_CONSUMERS),
    ("history", "moved"),
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


@asynccontextmanager
async def others_buying(shop: Laurel) -> AsyncIterator[None]:
    """Other members buy one thing after the other, for as long as the block lasts."""

    async def shopping(member_id: str) -> None:
        while True:
            await buy(shop.terminal, member_id)
            await asyncio.sleep(PAUSE_SECONDS)

    members = [await shop.register() for _ in range(OTHERS)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(shopping(member_id)) for member_id in members]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@pytest.mark.parametrize(("consumer", "step"), PASSES)
async def test_who_dies_at_a_step_is_gone_on_from(
    shop: Laurel, partner: Receiver, tmp_path: Path, consumer: str, step: str
) -> None:
    partner.received.clear()
    before, began = await earned(shop.database), await place_of(shop.database, consumer)
    member_id = await shop.register()
    await buy(shop.terminal, member_id)

    async with others_buying(shop):
        await dies(shop, consumer, step, tmp_path)

    # What nobody can hear of any more, or not yet, was not sent.
    assert bool(partner.received) == (step in ("sent", "recorded"))
    if step in OF_CONSUMERS:
        assert (await place_of(shop.database, consumer) != began) == (step == "committed")
    await worked_off(shop)
    heard = Counter(str(json.loads(call.body)["data"]["event_id"]) for call in partner.received)
    assert heard.keys() == await earned(shop.database) - before
    # Again comes what was under way as it died, and says the same under the same id.
    repeats = heard.total() - len(heard)
    assert (1 if step == "sent" else 0) <= repeats <= (PACE.per_target if step in OF_CHANNELS else 0)
    assert len({(call.message_id, call.body) for call in partner.received}) == len(heard)
    async with shop.database.connection() as connection:
        assert await connection.fetch("SELECT FROM dead_letter") == []
        told = await connection.fetch(
            "SELECT FROM message WHERE member_id = $1 AND occasion = 'welcome'", UUID(member_id)
        )
    assert len(told) == 1
    await figures_are_right(shop.database)
    await timelines_are_right(shop.database)
    await summary_is_right(shop, UUID(member_id))


async def place_of(database: Database, consumer: str) -> object:
    """How far the consumer has come in the log."""
    async with database.connection() as connection:
        return await connection.fetchrow(
            "SELECT epoch, xid, position FROM subscription WHERE consumer = $1", consumer
        )


async def earned(database: Database) -> set[str]:
    """The events that the partner hears of."""
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT event_id FROM event_log WHERE event_type = 'points.earned'")
    return {str(event_id) for (event_id,) in rows}


async def figures_are_right(database: Database) -> None:
    """They come to the same when they are counted again."""

    async def counted() -> figures.Figures:
        async with database.transaction() as connection:
            generations = await projections.following(connection, PROJECTION)
            return await figures.everything(connection, generations.current)

    before = await counted()
    assert [progress async for progress in rebuild(database, daily_figures.Build())]
    assert await counted() == before


async def timelines_are_right(database: Database) -> None:
    """Noted again, they are the same."""

    async def noted() -> list[Entry]:
        async with database.transaction() as connection:
            generations = await projections.following(connection, timeline.PROJECTION)
            return await timeline.everything(connection, generations.current)

    before = await noted()
    assert before
    assert [progress async for progress in rebuild(database, history.Build())]
    assert await noted() == before


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
