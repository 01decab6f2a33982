"""Where traces and metrics go, by OpenTelemetry's own environment variables.

Nothing goes anywhere unless an endpoint is named; then OTLP over gRPC takes it there
from threads beside the event loop, and what can't be delivered is dropped.
"""

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Tracer

from telemetry.metrics import Histogram as Spread
from telemetry.metrics import Instrument, Labels, Metrics

SCOPE = "laurel"
# A collector that is away must not hold back the end of the process.
CLOSE_SECONDS = 2.0
INTERVAL_MILLISECONDS = 60_000.0

log = structlog.get_logger()


def resource(service: str, version: str) -> Resource:
    """Who we are; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES may say otherwise than ``service``."""
    found = Resource.create({"service.version": version})
    if str(found.attributes["service.name"]).startswith("unknown_service"):
        found = found.merge(Resource({"service.name": service}))
    return found


class Spans:
    """Sends the spans of ``tracer``. Which calls have spans is decided before they are made."""

    def __init__(self, who: Resource, version: str) -> None:
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=who, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer: Tracer = self._provider.get_tracer(SCOPE, version)

    async def close(self) -> None:
        """Send what waits, for a short time."""
        await _briefly(self._provider.shutdown)


class Pushes:
    """Sends the metrics every OTEL_METRIC_EXPORT_INTERVAL milliseconds, as totals since the start."""

    def __init__(
        self, metrics: Metrics, who: Resource, version: str, refresh: Callable[[], Awaitable[None]]
    ) -> None:
        self._metrics = metrics
        self._resource = who
        self._scope = InstrumentationScope(SCOPE, version)
        self._refresh = refresh
        self._began = time.time_ns()
        self._exporter = OTLPMetricExporter()
        self._outbox: queue.Queue[MetricsData | None] = queue.Queue(maxsize=2)
        self._thread = threading.Thread(target=self._send, name="metrics", daemon=True)
        self._thread.start()
        self._task = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Send the last figures, for a short time."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._push()
        await _briefly(self._finish)

    def _finish(self) -> None:
        self._outbox.put(None)
        self._thread.join()

    async def _tick(self) -> None:
        milliseconds = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or INTERVAL_MILLISECONDS)
        while True:
            await asyncio.sleep(milliseconds / 1000)
            await self._refresh()
            self._push()

    def _push(self) -> None:
        """Read the figures here, in the event loop's thread; send them in the other."""
        with contextlib.suppress(queue.Full):
            self._outbox.put_nowait(self._read())

    def _read(self) -> MetricsData:
        now = time.time_ns()
        found = [_metric(instrument, self._began, now) for instrument in self._metrics]
        scope = ScopeMetrics(self._scope, [metric for metric in found if metric], "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _send(self) -> None:
        while (data := self._outbox.get()) is not None:
            self._exporter.export(data)
        self._exporter.shutdown()


def _metric(instrument: Instrument, began: int, now: int) -> Metric | None:
    about = instrument.about

    def attributes(values: Labels) -> Mapping[str, str]:
        return dict(zip(about.labels, values, strict=True))

    data: Sum | Gauge | Histogram
    if isinstance(instrument, Spread):
        spread = [
            HistogramDataPoint(
                attributes=attributes(labels),
                start_time_unix_nano=began,
                time_unix_nano=now,
                count=sum(series.counts),
                sum=series.total,
                bucket_counts=tuple(series.counts),
                explicit_bounds=instrument.bounds,
                min=None,  # type: ignore[arg-type] # optional in OTLP
                max=None,  # type: ignore[arg-type] # likewise
            )
            for labels, series in instrument.read().items()
        ]
        data = Histogram(spread, AggregationTemporality.CUMULATIVE)
    else:
        points = [
            NumberDataPoint(attributes(labels), began, now, value)
            for labels, value in instrument.read().items()
        ]
        cumulative = AggregationTemporality.CUMULATIVE
        data = Sum(points, cumulative, is_monotonic=True) if about.kind == "counter" else Gauge(points)
    if not data.data_points:
        return None
    return Metric(about.name, about.text, about.unit, data)


async def _briefly(work: Callable[[], object]) -> None:
    """Do it in a thread that nobody waits for beyond a moment, not even the end of the process."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        work()
        with contextlib.suppress(RuntimeError):  # the loop may be gone
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="telemetry-close", daemon=True).start()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await done.wait()
    except TimeoutError:
        log.warning("telemetry_undelivered")
