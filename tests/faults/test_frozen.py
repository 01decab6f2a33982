"""A server that stands still within a transaction keeps its members waiting, and nobody else."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from google.type import money_pb2
from loyalty.v1 import movements_pb2, points_pb2, points_pb2_grpc

from server.store import locks
from tests.faults.proof import verified, wallets_agree
from tests.faults.shop import Shop
from tests.support.servers import WithKey
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

ATTEMPTS = 20
# Shorter than PostgreSQL lets a transaction stand still.
FROZEN_SECONDS = 8.0
# Of every call about somebody else. A quiet machine takes some milliseconds, and 250 once.
LONGEST_ANSWER_SECONDS = 6.0
PATIENCE_SECONDS = 40.0

LOCKED = """
    SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
     WHERE locktype = 'advisory' AND (classid::bigint << 32) | objid::bigint = $1
       AND granted = $2 AND ($3 = '' OR state = $3)"""


def test_a_frozen_server_holds_up_only_the_members_whose_locks_it_keeps(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    took = asyncio.run(frozen(shop))
    with capsys.disabled():
        print(f"\n{len(took)} times all others bought beside, the slowest in {max(took):.2f} s")
    asyncio.run(wallets_agree(shop))
    verified(shop)


async def frozen(shop: Shop) -> list[float]:
    """How long purchases of all other members at once took, time and again, in seconds."""
    giver, *others, getter = sorted(shop.members, key=lambda m: locks.member_lock(UUID(m)))
    async with service(shop, 0) as one, service(shop, 1) as other:
        await one.Accrue(purchase(giver))
        moving = await frozen_amid(shop, one, giver, getter)
        try:
            waiting = asyncio.ensure_future(other.Accrue(purchase(giver), timeout=PATIENCE_SECONDS))
            took = []
            until = time.monotonic() + FROZEN_SECONDS
            while (began := time.monotonic()) < until:
                await asyncio.gather(*(other.Accrue(purchase(m), timeout=10.0) for m in others))
                took.append(time.monotonic() - began)
            assert not waiting.done()
        finally:
            os.kill(shop.servers[0].pid, signal.SIGCONT)
        assert (await waiting).member_id == giver
        assert (await moving).points == 1
    assert max(took) < LONGEST_ANSWER_SECONDS
    return took


async def frozen_amid(
    shop: Shop, service: "points_pb2_grpc.PointsServiceAsyncStub", giver: str, getter: str
) -> "asyncio.Future[movements_pb2.TransferPointsResponse]":
    """Stop the first server when it has the locks of both for a transfer; what will come of that."""
    first, last = (locks.member_lock(UUID(member_id)) for member_id in (giver, getter))
    watching, keeping = [await asyncpg.connect(shop.postgres.url()) for _ in range(2)]
    try:
        for _ in range(ATTEMPTS):
            request = movements_pb2.TransferPointsRequest(
                request_id=uuid4().hex, member_id=giver, to_member_id=getter, points=1
            )
            async with keeping.transaction():
                await keeping.execute("SELECT pg_advisory_xact_lock($1)", last)
                moving = asyncio.ensure_future(service.TransferPoints(request, timeout=PATIENCE_SECONDS))
                await eventually(lambda: found(watching, last, granted=False))
                os.kill(shop.servers[0].pid, signal.SIGSTOP)
            # It has waited for 250 ms at most: else PostgreSQL has undone it meanwhile.
            if await found(watching, first, granted=True, state="idle in transaction"):
                return moving
            os.kill(shop.servers[0].pid, signal.SIGCONT)
            await moving
        pytest.fail("the server was never stopped within its transaction")
    finally:
        await watching.close()
        await keeping.close()


async def found(connection: asyncpg.Connection, number: int, *, granted: bool, state: str = "") -> bool:
    """Whether somebody has that lock, or waits for it."""
    return bool(await connection.fetchval(LOCKED, number, granted, state))


def purchase(member_id: str) -> points_pb2.AccrueRequest:
    return points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=uuid4().hex,
        amount=money_pb2.Money(currency_code="INR", units=500),
    )


@asynccontextmanager
async def service(shop: Shop, number: int) -> AsyncIterator["points_pb2_grpc.PointsServiceAsyncStub"]:
    """Points, by one of the servers."""
    async with grpc.aio.insecure_channel(shop.addresses[number], interceptors=[WithKey(shop.key)]) as channel:
        yield points_pb2_grpc.PointsServiceStub(channel)
