import asyncio
from dataclasses import dataclass

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from telemetry import traces
from telemetry.setup import DEFAULT_RATIO, TelemetryError, sampling_of
from telemetry.traces import Sampling, Trace, Tracing, current, read

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = f"00-{TRACE}-{PARENT}-01"


@dataclass
class Sent:
    """A call that came with this header."""

    header: str = ""
    asked: int = 0

    def traceparent(self) -> str:
        self.asked += 1
        return self.header


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def tracing(exported: InMemorySpanExporter, ratio: float, *, parent_based: bool = True) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    return Tracing(provider.get_tracer("test"), Sampling(ratio, parent_based))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        HEADER.upper(),
        HEADER[:-1],
        HEADER + "0",
        HEADER + "-00",  # version 00 has no more parts
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-0x",
        f"01-{TRACE}-{PARENT}-01x",
        " " + HEADER,
        HEADER + "\n",
        "a" * 100_000,
    ],
)
def test_what_is_no_traceparent_is_ignored(header: str, exported: InMemorySpanExporter) -> None:
    assert read(header) is None
    trace = tracing(exported, 1.0).begin("call", Sent(header), {})
    assert trace.span is not None
    assert trace.ids()[0] != TRACE


@pytest.mark.parametrize("header", [HEADER, f"01-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-more"])
def test_a_traceparent_is_gone_on_with(header: str, exported: InMemorySpanExporter) -> None:
    trace = tracing(exported, 0.0).begin("call", Sent(header), {})
    assert trace.span is not None
    trace.span.end()
    [span] = exported.get_finished_spans()
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert trace.traceparent() == f"00-{TRACE}-{span.context.span_id:016x}-01"


def test_the_parent_decides_unless_told_otherwise(exported: InMemorySpanExporter) -> None:
    unsampled = Sent(HEADER[:-1] + "0")
    assert tracing(exported, 1.0).begin("call", unsampled, {}).span is None
    assert tracing(exported, 1.0, parent_based=False).begin("call", unsampled, {}).span is not None
    assert tracing(exported, 0.0, parent_based=False).begin("call", Sent(HEADER), {}).span is None


def test_one_call_in_so_many_is_sampled(
    exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MOST_PER_SECOND", 10**9)
    begin = tracing(exported, 0.1).begin
    sampled = sum(begin("call", Sent(), {}).span is not None for _ in range(20_000))
    assert 1500 < sampled < 2500  # 12 standard deviations


def test_callers_can_not_have_every_call_traced(
    exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces.time, "monotonic", lambda: 1000.5)
    begin = tracing(exported, 0.0).begin
    sampled = [begin("call", Sent(HEADER), {}).span is not None for _ in range(traces.MOST_PER_SECOND + 5)]
    assert sampled == [True] * traces.MOST_PER_SECOND + [False] * 5
    monkeypatch.setattr(traces.time, "monotonic", lambda: 1001.5)
    assert begin("call", Sent(HEADER), {}).span is not None


def test_without_a_tracer_the_header_is_not_even_looked_at_until_a_line_asks() -> None:
    sent = Sent(HEADER)
    trace = Tracing().begin("call", sent, {})
    assert (trace.span, sent.asked) == (None, 0)
    assert trace.ids()[0] == TRACE
    assert trace.ids() == trace.ids()
    assert trace.traceparent().startswith(f"00-{TRACE}-")
    assert trace.traceparent().endswith("-00")


async def test_within_a_call_of_this_process_the_trace_goes_on(exported: InMemorySpanExporter) -> None:
    begin = tracing(exported, 1.0).begin

    async def inner() -> Trace:
        return begin("inner", Sent(f"00-{'a' * 32}-{PARENT}-00"), {})

    outer = begin("outer", Sent(), {})
    token = current.set(outer)
    sampled = await asyncio.create_task(inner())
    current.set(Tracing().begin("outer", Sent(HEADER), {}))
    unsampled = await inner()
    current.reset(token)
    assert sampled.span is not None
    assert sampled.ids()[0] == outer.ids()[0]
    assert unsampled.span is None
    assert unsampled.ids()[0] == TRACE


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Sampling(DEFAULT_RATIO, parent_based=True)),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.5"}, Sampling(0.5, parent_based=True)),
        (
            {"OTEL_TRACES_SAMPLER": "always_on"},
            Sampling(1.0, parent_based=False),
        ),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, Sampling(0.0, parent_based=False)),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
            Sampling(0.25, parent_based=False),
        ),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, Sampling(1.0, parent_based=True)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, Sampling(0.0, parent_based=True)),
    ],
)
def test_the_sampler_is_chosen_as_opentelemetry_says(environment: dict[str, str], expected: Sampling) -> None:
    assert sampling_of(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        {"OTEL_TRACES_SAMPLER_ARG": "1%"},
        {"OTEL_TRACES_SAMPLER_ARG": "nan"},
        {"OTEL_TRACES_SAMPLER_ARG": "2"},
    ],
)
def test_a_sampler_that_is_not_known_is_refused_by_name(environment: dict[str, str]) -> None:
    with pytest.raises(TelemetryError, match="OTEL_TRACES_SAMPLER"):
        sampling_of(environment)
