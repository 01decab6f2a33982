"""Counters, histograms and gauges as plain numbers, added up when somebody asks.

What happens on every call must cost next to nothing: a count is an addition to an int,
an observation a bisection and two additions. Names are OpenTelemetry's; Prometheus' own
follow from them. Everything belongs to the thread of the event loop.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
# Series of one instrument; what comes later is counted together, so that no label that
# grows without our noticing takes the memory of this process or of Prometheus.
MOST_SERIES = 1000
OTHER = "other"
# Units as UCUM writes them, and as Prometheus appends them.
SUFFIXES = {"s": "_seconds", "By": "_bytes"}


@dataclass(frozen=True, slots=True)
class About:
    """What an instrument measures. A ``unit`` in braces, such as ``{command}``, only annotates."""

    name: str
    kind: Kind
    unit: str
    text: str
    labels: Labels = ()
    prometheus: str = ""

    @property
    def family(self) -> str:
        """The name in Prometheus, without the ``_total`` of counters."""
        return self.prometheus or self.name.replace(".", "_") + SUFFIXES.get(self.unit, "")


class Counter:
    """Counts what happened, by labels."""

    def __init__(self, about: About) -> None:
        self.about = about
        self._counts: dict[Labels, float] = {}

    def add(self, *labels: str, amount: float = 1) -> None:
        """Count ``amount`` more."""
        counts = self._counts
        if labels in counts:
            counts[labels] += amount
        else:
            key = _within(counts, labels)
            counts[key] = counts.get(key, 0) + amount

    def read(self) -> Mapping[Labels, float]:
        """The counts by labels."""
        return self._counts


class Series:
    """The observations of one histogram with the same labels."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram:
    """How values are spread, by labels. A bucket holds what is at most its bound."""

    def __init__(self, about: About, bounds: Sequence[float]) -> None:
        self.about = about
        self.bounds = bounds
        self._series: dict[Labels, Series] = {}

    def of(self, *labels: str) -> Series:
        """The series with these labels, to be kept by whoever observes often."""
        found = self._series.get(labels)
        if found is None:
            found = self._series.setdefault(_within(self._series, labels), Series(self.bounds))
        return found

    def read(self) -> Mapping[Labels, Series]:
        """The series by labels."""
        return self._series


class Gauge:
    """What somebody else knows, asked for when it is read. Also counters that others keep."""

    def __init__(self, about: About, ask: Callable[[], Mapping[Labels, float]]) -> None:
        self.about = about
        self.read = ask


Instrument = Counter | Histogram | Gauge
Made = TypeVar("Made", Counter, Histogram, Gauge)


class Metrics:
    """The instruments of one process, by name."""

    def __init__(self) -> None:
        self._instruments: dict[str, Instrument] = {}

    def __iter__(self) -> Iterator[Instrument]:
        return iter(list(self._instruments.values()))

    def counter(self, name: str, unit: str, text: str, labels: Labels = ()) -> Counter:
        """A new counter."""
        return self._add(Counter(About(name, "counter", unit, text, labels)))

    def histogram(
        self, name: str, unit: str, text: str, labels: Labels = (), bounds: Sequence[float] = SECONDS
    ) -> Histogram:
        """A new histogram."""
        return self._add(Histogram(About(name, "histogram", unit, text, labels), bounds))

    def gauge(
        self,
        name: str,
        unit: str,
        text: str,
        ask: Callable[[], Mapping[Labels, float]],
        labels: Labels = (),
        *,
        kind: Literal["counter", "gauge"] = "gauge",
        prometheus: str = "",
    ) -> Gauge:
        """What ``ask`` tells by labels; ``kind`` says whether it only ever grows."""
        return self._add(Gauge(About(name, kind, unit, text, labels, prometheus), ask))

    def _add(self, instrument: Made) -> Made:
        if instrument.about.name in self._instruments:
            raise ValueError(f"two instruments are called {instrument.about.name}")
        self._instruments[instrument.about.name] = instrument
        return instrument


def _within(series: Collection[Labels], labels: Labels) -> Labels:
    """These labels, or, when there are series enough, those of all that come late."""
    return labels if len(series) < MOST_SERIES else (OTHER,) * len(labels)
