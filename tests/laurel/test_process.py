"""gRPC and REST of one process: by TLS, and stopped together."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from laurel.process.main import Process, running
from server.domain.actor import CallerKind
from server.settings import Settings
from server.store import locks
from server.store.database import Database
from tests.server.test_drain import until_nobody_listens, until_somebody_waits_for_a_lock
from tests.support.certificates import Authority, Folder
from tests.support.processes import gateway
from tests.support.programs import new_key, new_program


@pytest.fixture
async def key(database: Database) -> str:
    return await new_key(database, await new_program(database), CallerKind.SERVICE)


@asynccontextmanager
async def started(settings: Settings, **changes: Any) -> AsyncIterator[Process]:
    async with running(settings.model_copy(update=changes), GatewaySettings(http_port=0)) as process:
        yield process


def client(process: Process, key: str, verify: ssl.SSLContext | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"{'https' if verify else 'http'}://127.0.0.1:{process.rest.port}",
        headers={"authorization": f"Bearer {key}"},
        verify=verify or False,
        trust_env=False,
        timeout=60,
    )


async def register(http: httpx.AsyncClient) -> str:
    member = {"email": f"{uuid4().hex}@example.com"}
    reply = await http.post("/members/register", json={"requestId": uuid4().hex, "member": member})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["member"]["memberId"])


async def test_both_speak_tls_and_meet_a_renewed_certificate(
    settings: Settings, key: str, tmp_path: Path
) -> None:
    files = Folder(tmp_path, Authority())
    trust = ssl.create_default_context(cadata=files.authority.pem.decode())
    async with started(settings, **files.settings) as process:
        credentials = grpc.ssl_channel_credentials(files.authority.pem)
        async with grpc.aio.secure_channel(f"127.0.0.1:{process.server.port}", credentials) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        async with client(process, key, trust) as http:
            assert await register(http)
        files.authority = Authority()
        files.renew()
        assert process.server.certificates is not None
        process.server.certificates.refresh()
        async with client(process, key, trust) as http:
            with pytest.raises(httpx.ConnectError):
                await register(http)
        newer = ssl.create_default_context(cadata=files.authority.pem.decode())
        async with client(process, key, newer) as http:
            assert await register(http)


async def test_the_shim_alone_speaks_tls_to_both_sides_and_shows_a_renewed_certificate(
    settings: Settings, key: str, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    theirs, ours = Folder(inside, Authority()), Folder(outside, Authority())

    def visitor(port: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{port}",
            headers={"x-api-key": key},
            verify=ssl.create_default_context(cadata=ours.authority.pem.decode()),
            trust_env=False,
            timeout=60,
        )

    async with started(settings, **theirs.settings) as process:
        shown = {f"LAUREL_{name}".upper(): value for name, value in ours.settings.items()}
        address = f"127.0.0.1:{process.server.port}"
        with gateway(address, tmp_path, LAUREL_CA_FILE=str(theirs.ca), **shown) as (shim, ready):
            port = ready["http_port"]
            async with visitor(port) as before:
                assert await register(before)
                ours.authority = Authority()
                ours.renew()
                await asyncio.to_thread(shim.wait_for, "certificate_renewed")
                async with visitor(port) as after:
                    assert await register(after)
                assert await register(before), "connections that are there go on"


async def test_a_request_under_way_is_answered_though_new_ones_are_not_taken(
    settings: Settings, database: Database, key: str
) -> None:
    async with started(settings) as process, client(process, key) as http:
        member_id = await register(http)
        async with database.transaction() as connection:
            await locks.take(connection, [locks.member_lock(UUID(member_id))])
            redeem = {"requestId": uuid4().hex, "memberId": member_id, "points": "1"}
            under_way = asyncio.create_task(http.post("/transactions/redeem", json=redeem))
            await until_somebody_waits_for_a_lock(database)
            stopping = asyncio.create_task(process.stop())
            await until_nobody_listens(process.rest.port)
            assert not under_way.done()
        answer = await under_way
        assert (answer.status_code, answer.json()["details"][0]["reason"]) == (400, "INSUFFICIENT_POINTS")
        await stopping


async def test_during_the_grace_rest_is_served_while_readiness_says_no(settings: Settings, key: str) -> None:
    async with started(settings, grace_seconds=60.0) as process, client(process, key) as http:
        stopping = asyncio.create_task(process.stop())
        readyz = f"http://127.0.0.1:{process.server.ops_port}/readyz"
        async with asyncio.timeout(10):
            while (await http.get(readyz)).json()["checks"]["serving"] != "stopping":
                pass
        assert await register(http)
        assert not stopping.done()
        stopping.cancel()
