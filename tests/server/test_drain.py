"""Stopping in order: balancers are told first, whoever calls meanwhile is served, nobody is cut off."""

import asyncio
from uuid import UUID, uuid4

import grpc
import httpx
from google.type import money_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loyalty.v1 import points_pb2

from server.main import Server
from server.settings import Settings
from server.store import locks
from server.store.database import Database
from tests.support.servers import Laurel, started

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


async def status(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        return int(reply.status)


async def readiness(server: Server) -> tuple[int, str]:
    async with httpx.AsyncClient() as client:
        reply = await client.get(f"http://127.0.0.1:{server.ops_port}/readyz")
        return reply.status_code, reply.json()["checks"]["serving"]


async def told(server: Server) -> None:
    """Wait until the server has said that it stops."""
    assert server.readiness is not None
    async with asyncio.timeout(5):
        while not server.readiness.draining or await status(f"127.0.0.1:{server.port}") == SERVING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_during_the_grace_calls_are_served_while_readiness_says_no(
    settings: Settings, database: Database
) -> None:
    patient = settings.model_copy(update={"grace_seconds": 60.0})
    async with started(patient, database) as laurel:
        async with asyncio.timeout(10):
            while await readiness(laurel.server) != (200, "ok"):  # noqa: ASYNC110 - rules are being loaded
                await asyncio.sleep(0.01)
        announcing = asyncio.create_task(laurel.server.announce_stop())
        await told(laurel.server)
        assert await status(laurel.address) == NOT_SERVING
        assert await readiness(laurel.server) == (503, "stopping")
        newcomer = await laurel.caller(laurel.terminal.key)
        member_id = await laurel.register()
        await newcomer.points.GetBalance(points_pb2.GetBalanceRequest(member_id=member_id))
        assert not announcing.done()
        announcing.cancel()


async def test_stopping_waits_for_the_grace_to_be_over(settings: Settings, database: Database) -> None:
    patient = settings.model_copy(update={"grace_seconds": 0.3})
    async with started(patient, database) as laurel:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await laurel.server.announce_stop()
        assert loop.time() - began >= 0.29


async def test_a_call_under_way_is_answered_though_new_ones_are_not_taken(
    settings: Settings, database: Database
) -> None:
    async with started(settings, database) as laurel:
        member_id = await laurel.register()
        async with database.transaction() as connection:
            await locks.take(connection, [locks.member_lock(UUID(member_id))])
            under_way = asyncio.ensure_future(accrue(laurel, member_id))
            await until_somebody_waits_for_a_lock(database)
            stopping = asyncio.create_task(laurel.server.stop())
            await until_nobody_listens(laurel.server.port)
            assert not under_way.done()
        reply = await under_way
        assert reply.member_id == member_id
        async with asyncio.timeout(settings.drain_seconds / 2):
            await stopping


async def accrue(laurel: Laurel, member_id: str) -> points_pb2.AccrueResponse:
    request = points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=uuid4().hex,
        amount=money_pb2.Money(currency_code=laurel.program.currency, units=100),
    )
    reply: points_pb2.AccrueResponse = await laurel.terminal.points.Accrue(request, timeout=60)
    return reply


async def until_somebody_waits_for_a_lock(database: Database) -> None:
    async with asyncio.timeout(10), database.connection() as connection:
        while not await connection.fetchval(  # noqa: ASYNC110 - it comes about in PostgreSQL
            """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
        ):
            await asyncio.sleep(0.01)


async def until_nobody_listens(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.01)
