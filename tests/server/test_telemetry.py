"""What a collector learns of calls, and what they cost that nobody traces."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import pytest
import structlog
from google.protobuf import descriptor_pb2, json_format
from google.type.money_pb2 import Money
from loyalty.v1 import member_pb2, rules_pb2
from loyalty.v1 import points_pb2 as pb

from gateway.app import Gateway
from gateway.channel import ChannelBackend
from gateway.contract import Contract
from gateway.server import HttpServer, bind
from gateway.settings import GatewaySettings
from gateway.watch import Watched
from laurel.process.main import running
from laurel.protos import CONTRACTS
from server.domain.actor import CallerKind
from server.main import Server
from server.serving import StartError
from server.settings import Settings
from server.store.database import Database
from tests.support.otlp import Collector, collecting, values
from tests.support.programs import new_key, new_program
from tests.support.refusals import refusal
from tests.support.servers import Laurel, started

ACCRUE = "loyalty.v1.PointsService/Accrue"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
BASE = {
    "rule": "base",
    "type": "earn",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 20, "per": "100.00"}}],
}


def asks(sampled: bool, trace_id: str = TRACE) -> tuple[tuple[str, str], ...]:
    """Metadata of a caller who traces, or doesn't."""
    return (("traceparent", f"00-{trace_id}-{PARENT}-{'01' if sampled else '00'}"),)


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with collecting() as opened:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", opened.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "laurel-test")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        yield opened


@pytest.fixture
async def traced(collector: Collector, settings: Settings, database: Database) -> AsyncIterator[Laurel]:
    async with started(settings, database) as laurel:
        request = rules_pb2.CreateRuleRequest()
        json_format.ParseDict(BASE, request.definition)
        rule = (await laurel.service.rules.CreateRule(request)).rule
        version = rules_pb2.RuleVersion(name=rule.name, version=rule.version)
        await laurel.service.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=[version]))
        yield laurel


async def test_one_process_is_one_trace_without_a_connection_in_between(
    collector: Collector, settings: Settings, database: Database
) -> None:
    program = await new_program(database)
    key = await new_key(database, program, CallerKind.TERMINAL)
    async with (
        running(settings, GatewaySettings(http_port=0)) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.rest.port}", trust_env=False) as http,
    ):
        reply = await http.post(
            "/members/register",
            json={"member": {"email": f"{uuid4().hex}@example.com"}},
            headers={"authorization": f"Bearer {key}", "idempotency-key": uuid4().hex} | dict(asks(True)),
        )
        assert reply.status_code == 200, reply.text
        request = await collector.named("POST /members/register")
        await collector.until(lambda: any(s.name == "COMMIT" for s in collector.within(request)))
        [call] = [span for span in collector.spans if span.parent_id == request.span_id]
        assert (call.name, call.trace_id) == ("loyalty.v1.MemberService/RegisterMember", TRACE)
        figures = (await http.get(f"http://127.0.0.1:{process.server.ops_port}/metrics")).text
        ready = (await http.get(f"http://127.0.0.1:{process.server.ops_port}/readyz")).json()
    assert 'http_response_status_code="200",http_route="/members/register"} 1.0' in figures
    assert f'rpc_method="{call.name}",rpc_response_status_code="OK"}} 1.0' in figures
    assert ready["checks"]["rest"] == "ok"


@asynccontextmanager
async def over_http(laurel: Laurel) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a shim in front of the server, which traces as the server does."""
    contract = Contract(descriptor_pb2.FileDescriptorSet.FromString(CONTRACTS.read_bytes()))
    telemetry = laurel.server.telemetry
    assert telemetry is not None
    backend = ChannelBackend(laurel.address, max_message_bytes=2**22, patience=10, domain="loyalty.laurel")
    app = Watched(Gateway(contract, backend), telemetry.metrics, telemetry.tracing)
    front = HttpServer(app, bind("127.0.0.1", 0), max_message_bytes=2**22, drain_seconds=1)
    await front.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.port}", trust_env=False) as http:
        yield http
    await front.stop()
    await backend.close()


def purchase(laurel: Laurel, member_id: str) -> pb.AccrueRequest:
    return pb.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=uuid4().hex,
        amount=Money(currency_code=laurel.program.currency, units=500),
    )


async def test_one_trace_leads_from_the_call_to_the_statements(traced: Laurel, collector: Collector) -> None:
    member_id = await traced.register()
    await traced.terminal.points.Accrue(purchase(traced, member_id), metadata=asks(True))
    call = await collector.named(ACCRUE)
    await collector.until(lambda: any(s.name == "COMMIT" for s in collector.within(call)))
    assert (call.trace_id, call.parent_id, call.kind) == (TRACE, PARENT, "SERVER")
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": ACCRUE,
        "rpc.response.status_code": "OK",
    }
    below = {span.name: span for span in collector.within(call)}
    commit, batch = below["commit"], below["batch"]
    assert (commit.parent_id, batch.parent_id) == (call.span_id, commit.span_id)
    assert batch.attributes == {"laurel.batch.size": 1}
    statements = list(collector.within(batch))
    assert {span.parent_id for span in statements} == {batch.span_id}
    assert {span.trace_id for span in statements} == {TRACE}
    names = {span.name for span in statements}
    assert {"BEGIN", "COMMIT"} <= names
    (saved,) = [name for name in names if name.startswith("INSERT")]
    for table in ("ledger_transaction", "wallet", "event_log"):
        assert f"INSERT {table}" in saved
    for span in statements:
        assert span.kind == "CLIENT"
        assert span.attributes["db.system.name"] == "postgresql"
        assert span.attributes["db.query.summary"] == span.name
        assert batch.began <= span.began <= span.ended
    assert member_id not in str(collector.raw)


async def test_one_trace_leads_from_the_http_request_to_the_statements(
    traced: Laurel, collector: Collector
) -> None:
    member_id = await traced.register()
    async with over_http(traced) as http:
        reply = await http.post(
            "/transactions/accrue",
            json=json_format.MessageToDict(purchase(traced, member_id)),
            headers={"authorization": f"Bearer {traced.terminal.key}"} | dict(asks(True)),
        )
    assert reply.status_code == 200, reply.text
    request = await collector.named("POST /transactions/accrue")
    assert (request.trace_id, request.parent_id, request.kind) == (TRACE, PARENT, "SERVER")
    await collector.until(lambda: any(s.name == "COMMIT" for s in collector.within(request)))
    await collector.until(lambda: any(s.name == ACCRUE for s in collector.within(request)))
    below = list(collector.within(request))
    assert [span.name for span in below if span.parent_id == request.span_id] == [ACCRUE]
    assert any(span.attributes.get("db.operation.name") == "COMMIT" for span in below)


async def test_who_is_not_sampled_leaves_no_span(traced: Laurel, collector: Collector) -> None:
    member_id = await traced.register()
    for _ in range(5):
        await traced.terminal.points.Accrue(purchase(traced, member_id), metadata=asks(False))
    await traced.terminal.points.Accrue(purchase(traced, member_id), metadata=asks(True, "a" * 32))
    call = await collector.named(ACCRUE)
    await collector.until(lambda: any(s.name == "COMMIT" for s in collector.within(call)))
    assert TRACE not in {span.trace_id for span in collector.spans}


async def test_the_commands_of_a_batch_link_to_it(traced: Laurel, collector: Collector) -> None:
    member_id = await traced.register()
    ids = [f"{number:032x}" for number in range(1, 41)]
    calls = [
        traced.terminal.points.Accrue(purchase(traced, member_id), metadata=asks(True, trace_id))
        for trace_id in ids
    ]
    await asyncio.gather(*calls)
    await collector.until(lambda: sum(s.name == "commit" for s in collector.spans) == len(ids))
    await collector.until(lambda: {s.trace_id for s in collector.spans if s.name == ACCRUE} == set(ids))
    batches = {s.span_id: s for s in collector.spans if s.name == "batch"}
    commits = {s.span_id: s for s in collector.spans if s.name == "commit"}
    assert len(batches) < len(commits), "forty at once and no two in one batch"
    for commit in commits.values():
        led = [batch for batch in batches.values() if batch.parent_id == commit.span_id]
        linked = [batches[span_id] for _, span_id in commit.links]
        [batch] = led + linked
        assert commit.attributes["laurel.batch.size"] == batch.attributes["laurel.batch.size"]
        assert commit.began <= batch.began
        assert bool(led) != ((commit.trace_id, commit.span_id) in batch.links)
    sizes = [batch.attributes["laurel.batch.size"] for batch in batches.values()]
    assert sum(sizes) == len(commits)


async def test_a_read_that_others_join_shows_its_query(traced: Laurel, collector: Collector) -> None:
    member_ids = [await traced.register() for _ in range(20)]

    def read(member_id: str, sampled: bool) -> Awaitable[pb.GetBalanceResponse]:
        request = pb.GetBalanceRequest(member_id=member_id)
        return traced.terminal.points.GetBalance(request, metadata=asks(sampled))

    calls = [read(member_id, number == 17) for number, member_id in enumerate(member_ids)]
    assert len(await asyncio.gather(*calls)) == 20
    call = await collector.named("loyalty.v1.PointsService/GetBalance")
    await collector.until(lambda: any(s.name == "SELECT wallet" for s in collector.within(call)))


async def test_a_refusal_says_why_and_is_no_fault_of_ours(traced: Laurel, collector: Collector) -> None:
    request = pb.AccrueRequest(request_id=uuid4().hex, member_id=str(uuid4()), order_reference="R-1")
    await refusal(traced.terminal.points.Accrue(request, metadata=asks(True)))
    call = await collector.named(ACCRUE)
    assert call.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert call.attributes["laurel.reason"] == "INVALID_FIELD"
    assert not call.failed


async def test_figures_arrive_with_who_we_are(traced: Laurel, collector: Collector) -> None:
    member_id = await traced.register()
    await traced.terminal.points.Accrue(purchase(traced, member_id))

    def counted() -> bool:
        found = collector.metrics.get("rpc.server.call.duration")
        points = found.histogram.data_points if found else []
        ok = {"rpc_method": ACCRUE, "rpc_response_status_code": "OK"}
        return any(values(point.attributes) == ok and point.count == 1 for point in points)

    await collector.until(counted)
    assert collector.metrics["rpc.server.call.duration"].unit == "s"
    who = collector.resources[-1]
    assert who["service.name"] == "laurel-test"
    assert who["deployment.environment.name"] == "test"
    assert who["service.version"]
    [earned] = collector.metrics["laurel.points"].sum.data_points
    assert earned.as_int == 100
    assert values(earned.attributes) == {"program": traced.program.name, "movement": "earned"}


async def test_a_collector_that_is_away_holds_nobody_up(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    async with started(settings, database) as laurel:
        assert await laurel.register()
        with structlog.testing.capture_logs() as logged:
            # Longer than it waits for the collector, far shorter than the collector is tried.
            async with asyncio.timeout(8):
                await laurel.server.stop()
    assert "telemetry_undelivered" in [line["event"] for line in logged]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ],
)
async def test_what_can_not_be_done_is_refused_at_the_start_by_name(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartError, match=variable):
        await Server(settings).start()


async def test_either_signal_can_be_switched_off(
    collector: Collector, settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    async with started(settings, database) as laurel:
        assert laurel.server.telemetry is not None
        assert laurel.server.telemetry.tracing.tracer is None
        await collector.until(lambda: "laurel.build.info" in collector.metrics)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    collector.metrics.clear()
    async with started(settings, database) as laurel:
        await laurel.register()
    assert not collector.metrics


async def test_without_an_endpoint_no_thread_runs_and_no_call_is_sampled(
    settings: Settings, database: Database
) -> None:
    before = set(threading.enumerate())
    async with started(settings, database) as laurel:
        await laurel.staff.members.ListMembers(member_pb2.ListMembersRequest(), metadata=asks(True))
        new = {thread.name for thread in set(threading.enumerate()) - before}
        assert not {name for name in new if "Otel" in name or name in ("metrics", "telemetry-close")}
        assert laurel.server.telemetry is not None
        assert laurel.server.telemetry.tracing.tracer is None
