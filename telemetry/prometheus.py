"""Metrics as Prometheus reads them: text, made when it asks."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from telemetry.metrics import Histogram, Instrument, Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Once(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return map(_family, self._metrics)

    def describe(self) -> list[Metric]:
        return []


def text(metrics: Metrics) -> bytes:
    """All metrics in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(metrics))
    return generate_latest(registry)


def _family(instrument: Instrument) -> Metric:
    about = instrument.about
    if isinstance(instrument, Histogram):
        spread = HistogramMetricFamily(about.family, about.text, labels=about.labels)
        for labels, series in instrument.read().items():
            below, buckets = 0, []
            for bound, count in zip((*instrument.bounds, float("inf")), series.counts, strict=True):
                below += count
                buckets.append((str(floatToGoString(bound)), float(below)))  # type: ignore[no-untyped-call]
            spread.add_metric(labels, buckets, series.total)
        return spread
    kind = CounterMetricFamily if about.kind == "counter" else GaugeMetricFamily
    family = kind(about.family, about.text, labels=about.labels)
    for labels, value in instrument.read().items():
        family.add_metric(labels, value)
    return family
