"""What a server tells those who run it: alive, ready, figures."""

import asyncio
import socket
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import grpc
import httpx
import pytest
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2 as pb
from prometheus_client.parser import text_string_to_metric_families

import migrations
from server.main import Server
from server.operations.programs import Programs
from server.readiness import Readiness
from server.serving import StartError
from server.settings import Settings
from server.store.database import Database
from tests.support.programs import new_program, settings_for
from tests.support.refusals import refusal
from tests.support.servers import Laurel, started
from tests.support.waiting import eventually


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=10) as client:
        yield client


def at(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.ops_port}{path}"


async def figures(http: httpx.AsyncClient, server: Server) -> dict[str, float]:
    """What /metrics tells, as `name{label=value}`."""
    page = await http.get(at(server, "/metrics"))
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    read = {}
    for family in text_string_to_metric_families(page.text):
        for name, labels, value, *_ in family.samples:
            within = ",".join(f"{label}={text}" for label, text in sorted(labels.items()))
            read[f"{name}{{{within}}}" if within else name] = value
    return read


async def checks(http: httpx.AsyncClient, server: Server) -> tuple[int, dict[str, str]]:
    page = await http.get(at(server, "/readyz"))
    assert page.json()["ready"] is (page.status_code == 200)
    return page.status_code, page.json()["checks"]


async def test_a_server_is_alive_and_ready_once_its_rules_are_loaded(
    laurel: Laurel, http: httpx.AsyncClient
) -> None:
    assert (await http.get(at(laurel.server, "/livez"))).json() == {"alive": True}

    async def ready() -> bool:
        return (await checks(http, laurel.server))[0] == 200

    await eventually(ready)
    _, found = await checks(http, laurel.server)
    assert found == {"serving": "ok", "database": "ok", "migrations": "ok", "rules": "ok", "committer": "ok"}


async def test_only_these_pages_are_there_and_only_to_be_read(
    laurel: Laurel, http: httpx.AsyncClient
) -> None:
    assert (await http.get(at(laurel.server, "/"))).status_code == 404
    assert (await http.get(at(laurel.server, "/readyz/../etc"))).status_code == 404
    refused = await http.post(at(laurel.server, "/metrics"), content=b"x")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    head = await http.head(at(laurel.server, "/livez"))
    assert (head.status_code, head.content) == (200, b"")


async def test_calls_are_counted_by_code_and_reason(laurel: Laurel, http: httpx.AsyncClient) -> None:
    method = "loyalty.v1.PointsService/Accrue"
    member_id = await laurel.register()
    before = await figures(http, laurel.server)
    for number in range(3):
        request = pb.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=uuid4().hex,
            amount=Money(currency_code=laurel.program.currency, units=number + 1),
        )
        await laurel.terminal.points.Accrue(request)
    await refusal(laurel.terminal.points.Accrue(pb.AccrueRequest()))
    nobody = await laurel.caller()
    await refusal(nobody.points.Accrue(pb.AccrueRequest()))
    after = await figures(http, laurel.server)

    def grown(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    timed = "rpc_server_call_duration_seconds_count{rpc_method=%s,rpc_response_status_code=%s}"
    refused = "laurel_rpc_refusals_total{reason=%s,rpc_method=%s,rpc_response_status_code=%s}"
    assert grown(timed % (method, "OK")) == 3
    assert grown(timed % (method, "INVALID_ARGUMENT")) == 1
    assert grown(refused % ("INVALID_FIELD", method, "INVALID_ARGUMENT")) == 1
    assert grown(refused % ("CREDENTIAL_INVALID", method, "UNAUTHENTICATED")) == 1
    assert grown("laurel_committer_batch_size_sum") == 3
    assert grown("laurel_credentials_verified_total{kind=key,source=memory}") >= 3
    assert after["db_client_connection_count{db_client_connection_state=idle}"] >= 1
    assert after["db_client_connection_max"] == 7
    assert after["laurel_redis_up"] == 1
    assert after["process_resident_memory_bytes"] > 10**7
    assert after["process_open_fds"] > 3
    assert after["laurel_event_loop_lag_seconds_count"] >= 1
    assert after["rpc_server_active_requests"] == after["laurel_committer_queue"] == 0


async def test_a_caller_who_leaves_is_counted_too(laurel: Laurel, http: httpx.AsyncClient) -> None:
    name = (
        "laurel_rpc_refusals_total{reason=CANCELLED,"
        "rpc_method=loyalty.v1.MemberService/RegisterMember,rpc_response_status_code=CANCELLED}"
    )

    async def counted() -> bool:
        call = laurel.service.members.RegisterMember(pb.AccrueRequest())  # type: ignore[arg-type]
        await asyncio.sleep(0.001)
        call.cancel()
        return (await figures(http, laurel.server)).get(name, 0) > 0

    await eventually(counted)


async def test_what_the_database_lacks_is_named(
    database_url: str, database: Database, secrets_file: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "ids", lambda: ["2026-11-23T00:00:00", "2099-01-01T00:00:00"])
    readiness = Readiness(database, Programs())
    assert await readiness.checks["migrations"]() == "missing: 2099-01-01T00:00:00; run `laurel migrate`"
    monkeypatch.undo()
    assert await readiness.checks["migrations"]() == ""
    assert migrations.ids() == list((await migrations.state(database_url)).applied)


async def test_rules_are_loaded_before_anybody_asks(database: Database) -> None:
    program = await new_program(database)
    programs = Programs()
    readiness = Readiness(database, programs)
    assert await readiness.checks["rules"]() == "being loaded"
    await readiness.load_rules()
    assert await readiness.checks["rules"]() == ""
    assert programs.known(program.program_id) is not None


async def test_without_its_database_a_server_lives_and_is_not_ready(
    postgres: object, settings: Settings, database: Database, http: httpx.AsyncClient
) -> None:
    async with started(settings, database) as laurel:
        url = settings.database_url.get_secret_value()
        name = url.rpartition("/")[2].partition("?")[0]
        administrator = await asyncpg.connect(postgres("postgres"))  # type: ignore[operator]
        try:
            await administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await administrator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
            )
            status, found = await checks(http, laurel.server)
            assert (status, found["database"]) == (503, "can't be reached")
            assert (await http.get(at(laurel.server, "/livez"))).status_code == 200
            assert await figures(http, laurel.server)
        finally:
            await administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await administrator.close()
        assert (await checks(http, laurel.server))[1]["database"] == "ok"


async def test_a_server_that_stops_says_so_before_it_closes(
    settings: Settings, database: Database, http: httpx.AsyncClient
) -> None:
    server = Server(settings)
    await server.start()
    assert server.readiness is not None
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        held = channel.stream_stream("/grpc.health.v1.Health/Watch")()  # keeps the drain busy
        await held.write(b"")
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        status, found = await checks(http, server)
        assert (status, found["serving"]) == (503, "stopping")
        await stopping
    with pytest.raises(httpx.ConnectError):
        await http.get(at(server, "/livez"))


async def test_a_port_that_somebody_has_is_refused_by_name(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wish = settings.model_copy(update={"ops_port": taken.getsockname()[1]})
        with pytest.raises(StartError, match="LAUREL_OPS_PORT"):
            await Server(wish).start()


async def test_no_port_no_listener(
    database_url: str, redis_url: str, secrets_file: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUREL_OPS_PORT", "")
    settings = settings_for(database_url, redis_url, secrets_file)  # type: ignore[arg-type]
    wish = Settings(**settings.model_dump(exclude={"ops_port"}))
    assert wish.ops_port is None
    server = Server(wish)
    await server.start()
    assert server.ops_port is None
    await server.stop()
