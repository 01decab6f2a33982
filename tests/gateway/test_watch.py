"""What is told of requests: enough to see what goes wrong, nothing of who asked for what."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.server import HttpServer, bind
from gateway.watch import Watched
from telemetry import prometheus
from telemetry.metrics import Metrics
from telemetry.traces import Sampling, Tracing
from tests.gateway.world import World
from tests.support.waiting import eventually

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "asha-raghunathan"


@dataclass
class Watch:
    """The world's shim, watched, and what was told of it."""

    http: httpx.AsyncClient
    port: int
    world: World
    metrics: Metrics
    exported: InMemorySpanExporter

    def counted(self) -> dict[tuple[str, ...], int]:
        """How many requests by method, route and status."""
        histogram = next(i for i in self.metrics if i.about.name == "http.server.request.duration")
        return {labels: sum(series.counts) for labels, series in histogram.read().items()}  # type: ignore[union-attr]

    async def told(self, spans: int) -> None:
        """Wait for so many spans to have ended."""

        async def ended() -> bool:
            return len(self.exported.get_finished_spans()) == spans

        await eventually(ended)


@asynccontextmanager
async def watching(world: World, ratio: float | None) -> AsyncIterator[Watch]:
    """Traces this share of requests, none and without a tracer for None."""
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    tracing = Tracing() if ratio is None else Tracing(provider.get_tracer("test"), Sampling(ratio))
    metrics = Metrics()
    app = Watched(world.gateway, metrics, tracing)
    front = HttpServer(app, bind("127.0.0.1", 0), max_message_bytes=1024 * 1024, drain_seconds=1.0)
    await front.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.port}", trust_env=False) as http:
        yield Watch(http, front.port, world, metrics, exported)
    await front.stop()


@pytest.fixture
async def watch(world: World) -> AsyncIterator[Watch]:
    async with watching(world, 1.0) as opened:
        yield opened


async def test_requests_are_counted_by_template_never_by_path(watch: Watch) -> None:
    for name in (SECRET, "other"):
        assert (await watch.http.get(f"/v1/things/{name}?text={SECRET}")).status_code == 200
    assert (await watch.http.get(f"/{SECRET}")).status_code == 404
    assert (await watch.http.get(f"/v1/things/{SECRET}?no-such-field={SECRET}")).status_code == 400
    assert (await watch.http.request("PROPFIND", "/v1/names")).status_code == 405
    assert (await watch.http.post("/v1/fail", json={"code": 13, "message": SECRET})).status_code == 500
    assert watch.counted() == {
        ("GET", "/v1/things/{name}", "200"): 2,
        ("GET", "", "404"): 1,
        ("GET", "/v1/things/{name}", "400"): 1,
        ("_OTHER", "", "405"): 1,
        ("POST", "/v1/fail", "500"): 1,
    }
    spans = watch.exported.get_finished_spans()
    assert [span.name for span in spans] == [
        "GET /v1/things/{name}",
        "GET /v1/things/{name}",
        "GET",
        "GET /v1/things/{name}",
        "_OTHER",
        "POST /v1/fail",
    ]
    assert dict(spans[0].attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/v1/things/{name}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
    }
    assert [span.status.is_ok for span in spans] == [True] * 5 + [False]
    told = str([span.to_json() for span in spans]) + prometheus.text(watch.metrics).decode()
    assert SECRET not in told.lower()


@pytest.mark.parametrize("sampled", [True, False])
async def test_what_stands_behind_goes_by_the_decision_made_here(watch: Watch, sampled: bool) -> None:
    header = f"00-{TRACE}-{PARENT}-0{int(sampled)}"
    await watch.http.get("/v1/things/a", headers={"traceparent": header, "tracestate": "a=b"})
    _, trace_id, span_id, flags = watch.world.last.metadata["traceparent"].split("-")
    assert "tracestate" not in watch.world.last.metadata
    assert (trace_id, flags) == (TRACE, "01" if sampled else "00")
    spans = watch.exported.get_finished_spans()
    assert [f"{span.context.span_id:016x}" for span in spans] == ([span_id] if sampled else [])
    assert [f"{span.parent.span_id:016x}" for span in spans if span.parent] == ([PARENT] if sampled else [])


async def test_a_request_that_is_not_chosen_is_not_chosen_behind_either(world: World) -> None:
    async with watching(world, 0.0) as watch:
        await watch.http.get("/v1/things/a")
        assert watch.world.last.metadata["traceparent"].endswith("-00")
        assert not watch.exported.get_finished_spans()


async def test_without_a_tracer_headers_pass_as_they_came(world: World) -> None:
    async with watching(world, None) as watch:
        await watch.http.get("/v1/things/a")
        assert "traceparent" not in watch.world.last.metadata
        header = f"00-{TRACE}-{PARENT}-01"
        await watch.http.get("/v1/things/a", headers={"traceparent": header, "tracestate": "a=b"})
        assert watch.world.last.metadata["traceparent"] == header
        assert watch.world.last.metadata["tracestate"] == "a=b"
        assert watch.counted() == {("GET", "/v1/things/{name}", "200"): 2}


async def test_a_client_that_leaves_is_counted_and_leaves_nothing_under_way(watch: Watch) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await watch.http.get("/v1/wait", timeout=0.2)

    async def counted() -> bool:
        return bool(watch.counted())

    await eventually(counted)
    assert watch.counted() == {("GET", "/v1/wait", "none"): 1}
    assert 'http_server_active_requests{kind="http"} 0.0' in prometheus.text(watch.metrics).decode()


async def test_a_stream_is_counted_and_timed_when_it_begins(watch: Watch) -> None:
    for number, accept in enumerate(("application/x-ndjson", "text/event-stream")):
        url = "/v1/things:watch?count=1&silence=3600s"
        async with watch.http.stream("GET", url, headers={"accept": accept}) as response:
            await anext(response.aiter_lines())
            assert watch.counted() == {("GET", "/v1/things:watch", "200"): number + 1}
            assert len(watch.exported.get_finished_spans()) == number, "it lasts as long as the stream"
        await watch.told(number + 1)
    assert (await watch.http.get("/v1/things:watch?nope=1")).status_code == 400
    assert watch.counted() == {
        ("GET", "/v1/things:watch", "200"): 2,
        ("GET", "/v1/things:watch", "400"): 1,
    }


async def test_a_websocket_is_counted_with_what_its_handshake_came_to(watch: Watch) -> None:
    place = f"ws://127.0.0.1:{watch.port}"
    header = f"00-{TRACE}-{PARENT}-01"
    async with connect(
        f"{place}/v1/chat/{SECRET}", proxy=None, additional_headers={"traceparent": header}
    ) as ws:
        await ws.send("{}")
        await ws.recv()
        assert watch.counted() == {("GET", "/v1/chat/{name}", "101"): 1}
        assert TRACE in watch.world.last.metadata["traceparent"]
        await ws.send("")
        await ws.wait_closed()
    for path in ("/v1/touch", f"/{SECRET}"):
        with pytest.raises(InvalidStatus):
            async with connect(place + path, proxy=None):
                pass
    assert watch.counted() == {
        ("GET", "/v1/chat/{name}", "101"): 1,
        ("GET", "", "400"): 1,
        ("GET", "", "404"): 1,
    }
    await watch.told(3)
    spans = watch.exported.get_finished_spans()
    assert sorted(span.name for span in spans) == ["GET", "GET", "GET /v1/chat/{name}"]
    assert SECRET not in str([span.to_json() for span in spans])
