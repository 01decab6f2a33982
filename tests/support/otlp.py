"""An OTLP collector on loopback that keeps what it is sent."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Span:
    """A span as it arrived; ids in hex."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    began: int
    ended: int
    failed: bool
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]


@dataclass
class Collector:
    """What arrived, in order."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    resources: list[dict[str, Any]] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Any, seconds: float = 20.0) -> None:
        """Wait for what is to arrive."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def named(self, name: str) -> Span:
        """The first span of that name, waited for."""
        await self.until(lambda: any(span.name == name for span in self.spans))
        return next(span for span in self.spans if span.name == name)

    def within(self, span: Span) -> Iterator[Span]:
        """The spans below a span."""
        for child in self.spans:
            if child.trace_id == span.trace_id and child.parent_id == span.span_id:
                yield child
                yield from self.within(child)

    async def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802 - OTLP's name, of both services
        """Keep what came."""
        self.raw.append(str(request))
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            for resource in request.resource_spans:
                self.resources.append(values(resource.resource.attributes))
                self.spans += [_span(span) for scope in resource.scope_spans for span in scope.spans]
            reply: Any = trace_service_pb2.ExportTraceServiceResponse()
        else:
            for found in request.resource_metrics:
                self.resources.append(values(found.resource.attributes))
                self.metrics |= {m.name: m for scope in found.scope_metrics for m in scope.metrics}
            reply = metrics_service_pb2.ExportMetricsServiceResponse()
        self.news.set()
        return reply


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector for as long as the block lasts."""
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)


def _span(span: trace_pb2.Span) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        attributes=values(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
    )


def values(pairs: Any) -> dict[str, Any]:
    """Attributes as they are meant."""

    def value(pair: KeyValue) -> Any:
        return getattr(pair.value, str(pair.value.WhichOneof("value")))

    return {pair.key: value(pair) for pair in pairs}
