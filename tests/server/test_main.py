import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from server.main import Server
from server.rpc.access import SERVICES
from server.serving import StartError
from server.settings import Settings
from server.store.database import Database
from tests.support.programs import settings_for
from tests.support.servers import Laurel, started

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_tells_of_the_server_and_of_each_service(laurel: Laurel) -> None:
    async with grpc.aio.insecure_channel(laurel.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", *(s.full_name for s in SERVICES)):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == SERVING


async def test_reflection_lists_every_service_of_the_contracts(laurel: Laurel) -> None:
    async with grpc.aio.insecure_channel(laurel.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        reply = await call.read()
        listed = {service.name for service in reply.list_services_response.service}
        call.cancel()
    assert {service.full_name for service in SERVICES} <= listed


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("loyalty.v1.PointsService", "loyalty/v1/points.proto"),
        ("loyalty.v1.PointsService.Accrue", "loyalty/v1/points.proto"),
        ("loyalty.v1.Member", "loyalty/v1/member.proto"),
        ("loyalty.v1.PointsService.Nothing", None),
        ("Nothing", None),
    ],
)
async def test_reflection_finds_what_is_declared(laurel: Laurel, symbol: str, file: str | None) -> None:
    async with grpc.aio.insecure_channel(laurel.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        call = stub.ServerReflectionInfo(iter([asked]))
        reply = await call.read()
        call.cancel()
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw).name
        for raw in reply.file_descriptor_response.file_descriptor_proto
    ]
    assert files[:1] == ([file] if file else [])
    assert bool(file) != reply.HasField("error_response")


async def test_a_server_works_without_redis(
    database_url: str, database: Database, secrets_file: Path
) -> None:
    settings = settings_for(database_url, "redis://127.0.0.1:1/0", secrets_file)
    async with started(settings, database) as laurel:
        assert await laurel.register()


async def test_without_a_database_the_server_says_so_and_ends(redis_url: str, secrets_file: Path) -> None:
    settings = settings_for("postgresql://laurel:hunter2@127.0.0.1:1/laurel", redis_url, secrets_file)
    with pytest.raises(StartError) as caught:
        await Server(settings).start()
    assert "LAUREL_DATABASE_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_an_address_of_another_machine_is_refused_by_name(
    database_url: str, redis_url: str, secrets_file: Path
) -> None:
    settings = settings_for(database_url, redis_url, secrets_file, host="192.0.2.1")
    with pytest.raises(StartError, match=r"192\.0\.2\.1"):
        await Server(settings).start()


async def test_a_watcher_of_the_health_is_told_and_does_not_hold_the_stop_back(
    settings: Settings,
) -> None:
    server = Server(settings)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == SERVING
        began = time.monotonic()
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == NOT_SERVING
        await stopping
        assert time.monotonic() - began < settings.drain_seconds / 2


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "LAUREL_DATABASE_URL": settings.database_url.get_secret_value(),
        "LAUREL_REDIS_URL": settings.redis_url.get_secret_value(),
        "LAUREL_SECRETS_FILE": str(settings.secrets_file),
        "LAUREL_PORT": "0",
        "LAUREL_OPS_PORT": "0",
    }


@pytest.fixture
def process(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "server"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield child
    child.kill()
    child.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_tells_its_port_serves_and_ends_when_asked(
    process: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert process.stdout is not None
    ready = json.loads(await asyncio.to_thread(process.stdout.readline))
    assert ready["event"] == "ready"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ready['port']}") as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert reply.status == SERVING
    process.send_signal(number)
    assert await asyncio.to_thread(process.wait, 10) == 0


async def test_a_setting_that_is_missing_or_wrong_is_named_without_its_value(
    environment: dict[str, str],
) -> None:
    broken = {**environment, "LAUREL_PORT": "hunter2"}
    del broken["LAUREL_DATABASE_URL"]
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "server"], env=broken, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "LAUREL_DATABASE_URL" in ended.stderr
    assert "LAUREL_PORT" in ended.stderr
    assert "hunter2" not in ended.stderr
