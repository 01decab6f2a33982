"""Personal data in every field of every RPC, over gRPC and REST: no log line, span or metric has it."""

import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import grpc
import httpx
import pytest
import structlog
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.type import date_pb2
from loyalty.v1 import member_pb2 as pb

from gateway.app import Gateway
from gateway.channel import ChannelBackend
from gateway.contract import Contract
from gateway.server import HttpServer, bind
from gateway.watch import Watched
from laurel.protos import CONTRACTS
from server import logs
from server.rpc.access import SERVICES
from server.settings import AccessLog, Settings
from server.store.database import Database
from telemetry import prometheus
from telemetry import traces as telemetry_traces
from tests.support.messages import chosen, filled
from tests.support.otlp import Collector, collecting
from tests.support.personal import traces
from tests.support.servers import Laurel, started

DEEPEST = 4
EMAIL = "ashalata.r@example.com"
# What looks right where it is sent reaches further than what doesn't.
FITTING = {
    "given_name": "Ashalata",
    "family_name": "Raghunathan",
    "email": EMAIL,
    "phone": "+919812377777",
    "card_number": "LCPRIVATE0001",
    "card_numbers": "LCPRIVATE0001",
    "postal_code": "WX9 4QZ",
    "locality": "Walkeshwar",
    "lines": "Malabar Hill",
    "id": "CRM-PRIVATE-17",
    "currency_code": "INR",
}


@pytest.fixture
def written(capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Everything logged so far, at the level that says most."""
    logs.configure("DEBUG")
    told: list[str] = []

    def read() -> str:
        told.append("".join(capfd.readouterr()))
        return "".join(told)

    yield read
    structlog.reset_defaults()


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with collecting() as opened:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", opened.endpoint)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        monkeypatch.setattr(telemetry_traces, "MOST_PER_SECOND", 10**9)
        yield opened


@pytest.fixture
async def talkative(
    collector: Collector, settings: Settings, database: Database
) -> AsyncIterator[tuple[Laurel, httpx.AsyncClient, Contract]]:
    """A server that traces and logs every call, and a client of the shim before it."""
    wish = settings.model_copy(update={"access_log": AccessLog.ALL})
    contract = Contract(descriptor_pb2.FileDescriptorSet.FromString(CONTRACTS.read_bytes()))
    async with started(wish, database) as laurel, over_http(laurel, contract) as http:
        yield laurel, http, contract


@asynccontextmanager
async def over_http(laurel: Laurel, contract: Contract) -> AsyncIterator[httpx.AsyncClient]:
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


def revealing(kind: Descriptor, fitting: bool, depth: int = 0) -> Any:
    """A message with personal data in every text, down to some depth."""

    def value(message: Any, field: FieldDescriptor) -> Any:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            within = field.message_type
            if within.GetOptions().map_entry:
                if within.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                    getattr(message, field.name)[EMAIL] = "Ashalata"
                return None
            return revealing(within, fitting, depth + 1) if depth < DEEPEST else None
        # A message of a choice says more than a text.
        if chosen(message, field):
            return None
        texts = {
            FieldDescriptor.TYPE_STRING: FITTING.get(field.name, EMAIL) if fitting else EMAIL,
            FieldDescriptor.TYPE_BYTES: EMAIL.encode(),
        }
        return texts.get(field.type)

    return filled(kind, value)


async def everything_over_grpc(laurel: Laurel) -> int:
    """Call every RPC as everybody; how many calls that was."""
    calls = 0
    async with grpc.aio.insecure_channel(laurel.address) as channel:
        for service in SERVICES:
            for rpc in service.methods:
                requests = [
                    revealing(rpc.input_type, fitting).SerializeToString() for fitting in (True, False)
                ]
                requests.append(b"\xff" + EMAIL.encode())
                for key in (laurel.terminal.key, laurel.service.key, laurel.staff.key, EMAIL):
                    metadata = (("authorization", f"Bearer {key}"), ("tracestate", "a=Ashalata"))
                    for raw in requests:
                        method = channel.unary_unary(f"/{service.full_name}/{rpc.name}")
                        calls += 1
                        with contextlib.suppress(grpc.aio.AioRpcError):
                            await method(raw, metadata=metadata, timeout=20)
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary(f"/{EMAIL}/Ashalata")(EMAIL.encode())
    return calls


async def everything_over_http(http: httpx.AsyncClient, contract: Contract, key: str) -> int:
    """Call every binding in ways that work and in ways that don't; how many that was."""
    own = {"authorization": f"Bearer {key}", "user-agent": "Ashalata"}
    personal = quote(EMAIL)
    calls = 0
    for binding in contract.routes.bindings:
        path = re.sub(r"\{[^}]*\}", personal, str(binding.template))
        body = json_format.MessageToDict(revealing(binding.rpc.input_type, fitting=True))
        wrong = {"headers": own, "params": {"email": EMAIL, EMAIL: "Ashalata"}}
        requests: list[dict[str, Any]] = [
            {"headers": own, "json": body},
            {"headers": own, "content": json.dumps(body)[:-3]},
            {"headers": own, "json": {EMAIL: "Ashalata"}},
            {"headers": own, "json": [EMAIL]},
            {"headers": own, "content": b"\xff" + EMAIL.encode()},
            {"headers": own | {"content-type": "text/Ashalata"}, "content": EMAIL},
            {"headers": own | {"idempotency-key": EMAIL}, "json": {}},
            {"headers": own | {"x-request-timeout": EMAIL}, "json": {}},
            {"headers": own | {"if-match": EMAIL, "if-none-match": EMAIL}, "json": {}},
            {"headers": own | {"traceparent": f"00-{EMAIL}-{EMAIL}-01", "tracestate": "a=Ashalata"}},
            {"headers": own | {"authorization": f"Bearer {EMAIL}"}, "json": body},
            wrong,
        ]
        for request in requests:
            calls += 1
            await http.request(binding.verb, path, **request)
    for path in (f"/{personal}", f"/members/{personal}/Ashalata", f"/openapi/{personal}"):
        calls += 1
        await http.get(path, headers=own, params={"email": EMAIL})
    return calls


async def test_nothing_personal_is_told_of_any_call(
    talkative: tuple[Laurel, httpx.AsyncClient, Contract], collector: Collector, written: Any
) -> None:
    laurel, http, contract = talkative
    member_id = await laurel.register(
        given_name="Ashalata",
        family_name="Raghunathan",
        email=EMAIL,
        phone="+91 98123 77777",
        birth_date=date_pb2.Date(year=1987, month=6, day=23),
        address=pb.Address(lines=["Malabar Hill"], locality="Walkeshwar", postal_code="WX9 4QZ"),
        external_ids=[pb.ExternalId(system="crm", id="CRM-PRIVATE-17")],
        card_numbers=["LC PRIVATE 0001"],
    )
    over_grpc = await everything_over_grpc(laurel)
    over_rest = await everything_over_http(http, contract, laurel.service.key)
    find = {"identifier": {"cardNumber": "LCPRIVATE0001"}}
    found = [binding for binding in contract.routes.bindings if binding.rpc.name == "FindMember"]
    reply = await http.request(
        found[0].verb,
        str(found[0].template),
        json=find,
        headers={"authorization": f"Bearer {laurel.service.key}"},
    )
    assert reply.status_code == 200, reply.text
    assert "Ashalata" in reply.text, "what is looked for below was really there"

    def requests() -> int:
        return sum("http.request.method" in span.attributes for span in collector.spans)

    await collector.until(lambda: requests() > over_rest)
    rpcs = {s.attributes["rpc.method"] for s in collector.spans if "rpc.method" in s.attributes}
    assert rpcs == {f"{service.full_name}/{rpc.name}" for service in SERVICES for rpc in service.methods}
    telemetry = laurel.server.telemetry
    assert telemetry is not None
    metrics = prometheus.text(telemetry.metrics).decode()
    lines = [json.loads(line) for line in written().splitlines() if line.startswith("{")]
    assert sum(line["event"] == "call" for line in lines) > over_grpc
    assert "FindMember" in metrics
    assert not [line for line in lines if line.get("code") == "INTERNAL"]
    for text in (str(lines), written(), str(collector.raw), metrics):
        assert traces(text) == []
        assert member_id not in text


async def test_a_line_within_a_call_names_its_trace(
    talkative: tuple[Laurel, httpx.AsyncClient, Contract], collector: Collector, written: Any
) -> None:
    laurel, http, _ = talkative
    trace_id = uuid4().hex
    await http.get(
        f"/api/points/{uuid4()}",
        headers={
            "authorization": f"Bearer {laurel.service.key}",
            "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
        },
    )
    call = await collector.named("loyalty.v1.PointsService/GetBalance")
    assert call.trace_id == trace_id
    [line] = [
        json.loads(line)
        for line in written().splitlines()
        if line.startswith("{") and json.loads(line).get("method") == call.name
    ]
    assert (line["event"], line["code"], line["reason"]) == ("call", "NOT_FOUND", "MEMBER_NOT_FOUND")
    assert (line["trace_id"], line["span_id"]) == (call.trace_id, call.span_id)
    assert line["seconds"] > 0


def test_what_is_sent_is_what_is_looked_for() -> None:
    assert all(traces(value) for value in FITTING.values() if value != "INR")
