"""Telemetry of one process, put together from the environment."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from telemetry import process
from telemetry.metrics import Metrics
from telemetry.traces import Sampling, Tracing

# OTEL_TRACES_SAMPLER: whether the parent decides, and the share of what has none. None: as
# OTEL_TRACES_SAMPLER_ARG says.
SAMPLERS: Mapping[str, tuple[bool, float | None]] = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}
DEFAULT_SAMPLER = "parentbased_traceidratio"
DEFAULT_RATIO = 0.01
PROTOCOL = "grpc"


class TelemetryError(Exception):
    """What OTEL_* ask for can't be done; the message says why and what to do."""


class Telemetry:
    """What the parts of a process count and trace with. ``close`` sends what is left."""

    def __init__(self, tracing: Tracing | None = None) -> None:
        self.metrics = Metrics()
        self.tracing = tracing or Tracing()
        # What asks others for figures, before somebody reads them; bounded in time by itself.
        self.refreshers: list[Callable[[], Awaitable[None]]] = []
        self._closing = contextlib.AsyncExitStack()

    @classmethod
    async def start(cls, service: str = "laurel") -> "Telemetry":
        """As OTEL_* say; with no endpoint named nothing is sent and no thread started.

        Raises TelemetryError.
        """
        spans, metrics = _wanted("TRACES"), _wanted("METRICS")
        sampling = sampling_of(os.environ) if spans else None
        made, version = cls(), _version()
        process.describe(made.metrics, version)
        made._closing.push_async_callback(process.Pulse(made.metrics).close)
        if spans or metrics:
            # Half a second and 15 MB that nobody pays who doesn't send.
            from telemetry import otlp

            who = otlp.resource(service, version)
            if spans:
                sender = otlp.Spans(who, version)
                made._closing.push_async_callback(sender.close)
                made.tracing = Tracing(sender.tracer, sampling)
            if metrics:
                pushes = otlp.Pushes(made.metrics, who, version, made.refresh)
                made._closing.push_async_callback(pushes.close)
        return made

    async def refresh(self) -> None:
        """Bring up to date what isn't known by itself."""
        await asyncio.gather(*(refresh() for refresh in self.refreshers))

    async def close(self) -> None:
        """Send what is left, and stop."""
        await self._closing.aclose()


def sampling_of(environment: Mapping[str, str]) -> Sampling:
    """What OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say. Raises TelemetryError."""
    name = environment.get("OTEL_TRACES_SAMPLER") or DEFAULT_SAMPLER
    if name not in SAMPLERS:
        raise TelemetryError(f"OTEL_TRACES_SAMPLER is {name}; it can be one of {', '.join(SAMPLERS)}")
    parent_based, ratio = SAMPLERS[name]
    if ratio is None:
        given = environment.get("OTEL_TRACES_SAMPLER_ARG") or DEFAULT_RATIO
        try:
            ratio = float(given)
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            raise TelemetryError("OTEL_TRACES_SAMPLER_ARG must be a share between 0 and 1")
    return Sampling(ratio, parent_based)


def _wanted(signal: str) -> bool:
    """Whether TRACES or METRICS are to be sent. Raises TelemetryError."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    endpoint = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or os.environ.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    if exporter == "none" or not endpoint:
        return False
    if exporter != "otlp":
        raise TelemetryError(f"OTEL_{signal}_EXPORTER is {exporter}; it can be otlp or none")
    protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if protocol not in (None, "", PROTOCOL):
        raise TelemetryError(f"Laurel speaks OTLP over gRPC only; OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}")
    return True


def _version() -> str:
    try:
        return installed("laurel")
    except PackageNotFoundError:
        return "unknown"
