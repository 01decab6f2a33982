"""What one batch of a process finds out while another one waits for its locks."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.household_commands import FormHousehold
from server.operations.posting import Posting
from server.operations.programs import Programs
from server.operations.watch import Commits
from server.store import locks
from server.store.database import Blocked, Database
from telemetry.metrics import Metrics
from tests.server.operations.test_aside import kept, waiting_for
from tests.server.operations.test_committer import opened
from tests.support.waiting import eventually


async def test_a_pool_is_locked_though_another_batch_has_just_found_out_about_pools(
    database: Database, redis_url: str, secrets_file: Path
) -> None:
    keys = secrets.load(secrets_file).ledger
    posting = Posting(
        database, Programs(), keys, lambda: datetime.now(UTC), uuid7, Commits(Metrics()), hints=None
    )
    async with opened(database, redis_url, secrets_file) as shop:
        stranger, first, second = [await shop.member() for _ in range(3)]
        formed = await shop.submit(FormHousehold(**shop.common(first), contributes=True))
        await shop.submit(FormHousehold(**shop.common(second), contributes=True))
        assert formed.household_id is not None
        await posting.post([shop.purchase(stranger, 1)])

        own = locks.member_lock(first)
        async with kept(shop, locks.member_lock(formed.household_id)):
            async with kept(shop, own):
                late = asyncio.ensure_future(posting.post([shop.purchase(first, 3)]))
                await eventually(lambda: waiting_for(shop, own, 1))
                await posting.post([shop.purchase(second, 3)])
            with pytest.raises(Blocked):
                await late
