"""What a run under load came to."""

import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Seen:
    """One call: when it began and ended, in seconds of one clock, and whether it succeeded."""

    began: float
    ended: float
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Figures:
    """Rates per second, latencies in milliseconds, CPU in microseconds per call.

    ``arrivals`` are calls begun, ``completions`` calls answered: equal where a caller waits
    for its answer, apart where a server falls behind. CPU is 0 where it can't be told.
    """

    arrivals: float
    completions: float
    p50: float
    p95: float
    p99: float
    server_cpu: float = 0.0
    database_cpu: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.arrivals:>8,.0f}{self.completions:>8,.0f}{self.p50:>9.1f}{self.p95:>9.1f}{self.p99:>9.1f}"
            f"{self.server_cpu:>9,.0f}{self.database_cpu:>9,.0f}"
        )


HEADING = f"{'calls/s:':>8}{'done/s':>8}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'cpu us':>9}{'db us':>9}"


def summarise(
    calls: Sequence[Seen], warm_up: float, seconds: float, server_cpu: float = 0.0, database_cpu: float = 0.0
) -> Figures:
    """The figures of the ``seconds`` after ``warm_up``. CPU seconds are of the whole run."""
    start = min(call.began for call in calls) + warm_up
    end = start + seconds
    done = [call for call in calls if start <= call.ended < end]
    cuts = statistics.quantiles([1000 * (call.ended - call.began) for call in done], n=100)
    return Figures(
        arrivals=sum(start <= call.began < end for call in calls) / seconds,
        completions=len(done) / seconds,
        p50=cuts[49],
        p95=cuts[94],
        p99=cuts[98],
        server_cpu=1e6 * server_cpu / len(calls),
        database_cpu=1e6 * database_cpu / len(calls),
    )


def middle(runs: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    names = Figures.__slots__
    return Figures(**{name: statistics.median(getattr(run, name) for run in runs) for name in names})


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes and their children have used so far; 0 where /proc isn't."""
    if sys.platform != "linux":
        return 0.0
    wanted, ticks = set(pids), 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue  # it has just ended
        fields = text.rpartition(")")[2].split()
        if int(path.parent.name) in wanted:
            # Its own, and that of children that have ended and were waited for.
            ticks += sum(int(field) for field in fields[11:15])
        elif int(fields[1]) in wanted:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_TICKS
