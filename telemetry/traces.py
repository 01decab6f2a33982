"""Traces: which one the call under way belongs to, and spans for the few that are sampled.

A span of the OpenTelemetry SDK costs about 10 microseconds even when it is dropped, so
for a call that isn't sampled none is made: it costs the decision, and an id only when a
log line asks for one. Spans hold names, codes and counts: never what a request says, no
address of a caller, no member's id.
"""

import random
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

Attributes = Mapping[str, str | int | float | bool]

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
SAMPLED = TraceFlags.SAMPLED
UNSAMPLED = tuple("02468ace")
# Callers may ask for a trace of each of their calls; so many a second they get. That
# bounds what strangers can make us spend on traces.
MOST_PER_SECOND = 200


class Carrier(Protocol):
    """Where a trace comes from."""

    def traceparent(self) -> str:
        """The W3C header as it came, "" if none did."""


class Trace:
    """The trace of the call under way; ``span`` is None unless it is sampled."""

    __slots__ = ("_carrier", "_ids", "span", "tracer")

    def __init__(
        self, carrier: Carrier | None, span: Span | None = None, tracer: Tracer | None = None
    ) -> None:
        self.span = span
        self.tracer = tracer
        self._carrier = carrier
        self._ids: tuple[int, int] | None = None

    def ids(self) -> tuple[str, str]:
        """The ids of trace and span, as hex. Without a span they are made when first asked for."""
        if self._ids is None:
            self._ids = self._find_ids()
        trace_id, span_id = self._ids
        return f"{trace_id:032x}", f"{span_id:016x}"

    def traceparent(self) -> str:
        """The header to send on."""
        trace_id, span_id = self.ids()
        return f"00-{trace_id}-{span_id}-{'00' if self.span is None else '01'}"

    def child(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        began_ns: int | None = None,
        links: tuple[Link, ...] = (),
    ) -> "Trace":
        """A trace whose span is within this one's; this one must be sampled."""
        assert self.span is not None
        assert self.tracer is not None
        within = set_span_in_context(self.span)
        span = self.tracer.start_span(name, within, kind, attributes, links, began_ns)
        return Trace(None, span, self.tracer)

    def _find_ids(self) -> tuple[int, int]:
        if self.span is not None:
            context = self.span.get_span_context()
            return context.trace_id, context.span_id
        parent = read(self._carrier.traceparent()) if self._carrier is not None else None
        trace_id = _random(128) if parent is None else parent.trace_id
        return trace_id, _random(64)


# Of the call, the batch or whatever else the running task works for.
current: ContextVar[Trace | None] = ContextVar("trace", default=None)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which calls are traced: as their parent is, if ``parent_based``; else this ``ratio`` of them."""

    ratio: float = 0.01
    parent_based: bool = True


class Tracing:
    """Begins the traces of calls. Without a tracer no call is ever sampled."""

    def __init__(self, tracer: Tracer | None = None, sampling: Sampling | None = None) -> None:
        self.tracer = tracer
        self._sampling = sampling or Sampling()
        self._second = 0
        self._begun = 0

    def begin(self, name: str, carrier: Carrier, attributes: Attributes) -> Trace:
        """The trace of a call that came in; it may go on one that this process began."""
        if self.tracer is None:
            return Trace(carrier)
        outer = current.get()
        if outer is not None:
            return Trace(outer) if outer.span is None else outer.child(name, attributes, kind=SpanKind.SERVER)
        text = carrier.traceparent()
        # The common case first: what a caller that doesn't sample sends needn't be read whole.
        if text[-1:] in UNSAMPLED and self._sampling.parent_based and TRACEPARENT.fullmatch(text):
            return Trace(carrier)
        parent = read(text) if text else None
        if not self._sampled(parent):
            return Trace(carrier)
        within = Context() if parent is None else set_span_in_context(NonRecordingSpan(parent))
        span = self.tracer.start_span(name, within, SpanKind.SERVER, attributes)
        return Trace(None, span, self.tracer)

    def _sampled(self, parent: SpanContext | None) -> bool:
        sampling = self._sampling
        if parent is not None and sampling.parent_based:
            return bool(parent.trace_flags & SAMPLED) and self._affordable()
        return random.random() < sampling.ratio and self._affordable()  # noqa: S311 - no secret

    def _affordable(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._begun = second, 0
        self._begun += 1
        return self._begun <= MOST_PER_SECOND


def read(traceparent: str) -> SpanContext | None:
    """What a W3C traceparent says, None if it is none. Versions to come may append to it."""
    found = TRACEPARENT.match(traceparent)
    if found is None:
        return None
    rest = traceparent[found.end() :]
    if rest and (traceparent.startswith("00") or not rest.startswith("-")):
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _random(bits: int) -> int:
    return random.getrandbits(bits) or 1
