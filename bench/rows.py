"""The rows of the benchmark: what is compared with what, and what is to be reached."""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import batches, evaluation, footprint, journals, ledgers, live, load, tools
from bench.batches import Rates
from bench.figures import Figures, middle
from bench.ledgers import Ledger, Size
from bench.live import Delays
from bench.load import Pace, Target
from bench.stack import Stack
from laurel.clients import Missing
from laurel.stack.servers import COMMAND

SHOWN_MILLISECONDS = 300.0
REWARDED_MILLISECONDS = 100.0
SETTLING_RUN_SECONDS = 20.0
# Of as many others a run buys for before anybody's turn comes again.
MOST_PURCHASES_PER_SECOND = 3_000
# Of the rate asked for, what must have come about for the delays beside it to count.
REACHED = 0.9
ACCRUE_PATH = "/transactions/accrue"
UNTOLD = (sys.executable, "-m", "bench.untold")
WITHOUT_TELEMETRY: Mapping[str, str | None] = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": None,
    "LAUREL_ACCESS_LOG": "none",
}
WITHOUT_LIMITS: Mapping[str, str | None] = {
    "LAUREL_CREDENTIAL_LIMITS": "",
    "LAUREL_MEMBER_LIMITS": "",
    "LAUREL_FAILURE_LIMIT": "",
}


@dataclass(frozen=True)
class Measured:
    """A ratio and the figures behind it: of runs under load, or numbers with their unit in the name."""

    ratio: float
    figures: Mapping[str, Figures | float]

    @property
    def cpu_ratio(self) -> float:
        """What the first spends of its process's CPU per call, by what the second does; 0 if unknown.

        On a busy machine it is steadier than rates are; what other processes do isn't in it.
        """
        spent = [figure.server_cpu for figure in self.figures.values() if isinstance(figure, Figures)]
        return spent[0] / spent[1] if len(spent) == 2 and spent[1] else 0.0


@dataclass
class Bench:
    """What rows measure with. ``seconds`` of each run, ``rounds`` of runs in turns, ``calls`` in flight.

    ``large``: what a large ledger holds, and ``settling``, for how many seconds all over it is bought until
    memory holds what is touched. ``steady_rate``: purchases per second beside what is looked at.
    """

    stack: Stack
    seconds: float
    warm_up: float
    rounds: int
    calls: int
    show: Callable[[str, Figures], None]
    large: Size
    settling: float
    steady_rate: int
    half_rate: int = 0
    _footprint: tuple[float, float] | None = None
    _data: dict[str, Path] = field(default_factory=dict)

    @property
    def pace(self) -> Pace:
        """As many calls as can be had from those in flight."""
        return Pace(self.seconds, self.warm_up, self.calls)

    def calling(self, target: Target, workload: str, pace: Pace | None = None) -> Figures:
        """One run of a workload of bench/ghz."""
        if workload not in self._data:
            self._data[workload] = load.data_for(workload, self.stack.members, self.stack.folder)
        figures = load.grpc(tools.ghz(), target, workload, self._data[workload], pace or self.pace)
        self.show(f"{target.name}, {workload}", figures)
        return figures

    def buying(self, target: Target, ledger: Ledger, pace: Pace | None = None) -> Figures:
        """One run of accruals by members from all over a ledger, each time others."""
        pace = pace or self.pace
        enough = int((pace.seconds + pace.warm_up) * MOST_PURCHASES_PER_SECOND)
        some = random.sample(ledger.members, min(enough, len(ledger.members)))
        folder = self.stack.folder / "some"
        folder.mkdir(exist_ok=True)
        data = load.data_for("accrue", some, folder)
        figures = load.grpc(tools.ghz(), target, "accrue", data, pace)
        self.show(target.name, figures)
        return figures

    def settle(self, target: Target, ledger: Ledger) -> Figures:
        """Buy all over a ledger of which nothing is in memory, until it is; the first run of that."""
        first = self.buying(replace(target, name=f"{target.name}, at first"), ledger)
        until = time.monotonic() + self.settling
        while (left := until - time.monotonic()) > 0:
            name = f"{target.name}, {left:,.0f} s to settle"
            run = Pace(min(left, SETTLING_RUN_SECONDS), self.warm_up, self.calls)
            self.buying(replace(target, name=name), ledger, run)
        return first

    def in_turns(
        self, first: Callable[[], Figures], second: Callable[[], Figures]
    ) -> tuple[list[Figures], list[Figures]]:
        """Both, one after the other, each first as often: what else the machine does meets both."""
        ours: tuple[list[Figures], list[Figures]] = ([], [])
        for number in range(self.rounds):
            turns = [(ours[0], first), (ours[1], second)]
            for found, run in turns if number % 2 == 0 else reversed(turns):
                found.append(run())
        return ours

    def footprint(self) -> tuple[float, float]:
        """Seconds to start a server and MB it takes, measured once."""
        if self._footprint is None:
            self._footprint = footprint.measure(self.stack, self.rounds)
        return self._footprint

    @contextmanager
    def beside_echo(self) -> Iterator[tuple[Target, Target]]:
        """The echo, and a server with everything on."""
        with ExitStack() as opened:
            yield opened.enter_context(self.stack.echo()), opened.enter_context(self.stack.server())


@dataclass(frozen=True)
class Row:
    """``target`` is what to reach: at least, or at most if ``at_most``; None where none is set."""

    what: str
    target: float | None
    measure: Callable[[Bench], Measured]
    at_most: bool = False

    def met(self, ratio: float) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        return ratio <= self.target if self.at_most else ratio >= self.target


def _rates(ones: Sequence[Figures], others: Sequence[Figures]) -> float:
    """The second's completion rate by the first's, round by round; the median."""
    return statistics.median(
        other.completions / one.completions for one, other in zip(ones, others, strict=True)
    )


def _against_echo(workload: str) -> Callable[[Bench], Measured]:
    def measure(bench: Bench) -> Measured:
        with bench.beside_echo() as (echo, laurel):
            bare, ours = bench.in_turns(
                lambda: bench.calling(echo, workload), lambda: bench.calling(laurel, workload)
            )
        if workload == "accrue":
            bench.half_rate = round(middle(ours).completions / 2)
        return Measured(_rates(bare, ours), {"echo": middle(bare), "Laurel": middle(ours)})

    return measure


def _latency_at_half(bench: Bench) -> Measured:
    with bench.beside_echo() as (echo, laurel):
        rate = bench.half_rate or round(bench.calling(laurel, "accrue").completions / 2)
        pace = Pace(bench.seconds, bench.warm_up, bench.calls, rate)
        bare, ours = bench.in_turns(
            lambda: bench.calling(echo, "accrue", pace), lambda: bench.calling(laurel, "accrue", pace)
        )
    ratio = statistics.median(mine.p99 / its.p99 for its, mine in zip(bare, ours, strict=True))
    return Measured(ratio, {"echo": middle(bare), "Laurel": middle(ours)})


def _without(
    name: str, settings: Mapping[str, str | None], command: Sequence[str] = COMMAND
) -> Callable[[Bench], Measured]:
    """What accruals cost more with a part than without it."""

    def measure(bench: Bench) -> Measured:
        with bench.stack.server(f"without {name}", settings, command) as bare, bench.stack.server() as full:
            without, everything = bench.in_turns(
                lambda: bench.calling(bare, "accrue"), lambda: bench.calling(full, "accrue")
            )
        figures = {f"without {name}": middle(without), "everything on": middle(everything)}
        return Measured(_rates(without, everything), figures)

    return measure


def _committer(bench: Bench) -> Measured:
    stack = bench.stack
    rates = batches.compare(
        stack.database_url, stack.secrets_file, stack.members, bench.seconds, bench.rounds
    )
    return _against_raw_sql("committer", rates)


def _journals(name: str, send: journals.Send) -> Callable[[Bench], Measured]:
    def measure(bench: Bench) -> Measured:
        stack = bench.stack
        with stack.server() as server:
            rates = journals.compare(
                server, stack.database_url, stack.members, send, bench.seconds, bench.rounds
            )
        return _against_raw_sql(name, rates)

    return measure


def _against_raw_sql(name: str, rates: Rates) -> Measured:
    ratio = statistics.median(
        committed / raw for committed, raw in zip(rates.committed, rates.raw, strict=True)
    )
    return Measured(
        ratio,
        {
            "raw SQL, purchases/s": statistics.median(rates.raw),
            f"{name}, purchases/s": statistics.median(rates.committed),
        },
    )


def _large(bench: Bench) -> Measured:
    # As many members as the other rows have, who bought once; or fewer, beside a ledger that is no larger.
    few = min(len(bench.stack.members), bench.large.members)
    with bench.stack.filling():
        empty = bench.stack.ledger("empty", Size(few, few), anew=True)
        large = bench.stack.ledger("large", bench.large)
    log: list[float] = []  # KB a purchase, and what else was logged meanwhile

    def buying() -> Figures:
        (bytes_before, before), figures, (bytes_after, after) = (
            asyncio.run(ledgers.logged(large.url)),
            bench.buying(full, large),
            asyncio.run(ledgers.logged(large.url)),
        )
        log.append((bytes_after - bytes_before) / (after - before) / 1024)
        return figures

    with bench.stack.over(empty, "empty") as bare, bench.stack.over(large, "large") as full:
        first = bench.settle(full, large)
        bench.buying(replace(bare, name="empty, at first"), empty)
        among_few, among_many = bench.in_turns(lambda: bench.buying(bare, empty), buying)
    figures: dict[str, Figures | float] = {
        "empty": middle(among_few),
        str(bench.large): middle(among_many),
        "KB of log a purchase": statistics.median(log),
        "with nothing in memory, purchases/s": first.completions,
    }
    return Measured(_rates(among_few, among_many), figures)


def _rules(bench: Bench) -> Measured:
    few, many = evaluation.compare(evaluation.rule_set(10), evaluation.rule_set(10_000), bench.seconds)
    return Measured(many / few, {"10 rules, us": few, "10,000 rules, us": many})


def _rest(bench: Bench) -> Measured:
    program, pace = tools.vegeta(), bench.pace

    def calling(target: Target) -> Figures:
        bodies = load.purchases(bench.stack.members, pace)
        figures = load.http(program, target, ACCRUE_PATH, bodies, pace)
        bench.show(f"{target.name}, REST accrue", figures)
        return figures

    with ExitStack() as opened:
        server = opened.enter_context(bench.stack.server())
        gateway = opened.enter_context(bench.stack.gateway(server))
        theirs, ours = bench.in_turns(lambda: calling(gateway), lambda: calling(server))
    return Measured(_rates(theirs, ours), {"grpc-gateway": middle(theirs), "Laurel": middle(ours)})


def _while_others_buy(
    bench: Bench, server: Target, look: Callable[[Target, Sequence[str], float, float], Delays], most: float
) -> Measured:
    """How long it takes while purchases begin at a steady rate: its 95th percentile by ``most`` ms."""
    pace = Pace(bench.seconds, bench.warm_up, bench.calls, bench.steady_rate)
    looked: list[Delays] = []
    loads: list[Figures] = []
    with ThreadPoolExecutor(1) as beside:
        for _ in range(bench.rounds):
            buying = beside.submit(bench.calling, server, "accrue", pace)
            looked.append(look(server, bench.stack.members, bench.warm_up, bench.seconds))
            loads.append(buying.result())
    others = middle(loads)
    if others.completions < REACHED * bench.steady_rate:
        raise Missing(
            f"others bought {others.completions:.0f} times a second instead of {bench.steady_rate}; "
            "this machine is too slow or too busy for that"
        )
    p95 = statistics.median(delays.p95 for delays in looked)
    return Measured(
        p95 / most,
        {
            "others buy": others,
            "p50 ms": statistics.median(delays.p50 for delays in looked),
            "p95 ms": p95,
            "looks": float(sum(delays.looks for delays in looked)),
        },
    )


def _live(bench: Bench) -> Measured:
    with bench.stack.server() as server, bench.stack.worker():
        return _while_others_buy(bench, server, live.shown, SHOWN_MILLISECONDS)


def _event(bench: Bench) -> Measured:
    with bench.stack.server() as server, bench.stack.worker(), live.reward_in_force(server):
        return _while_others_buy(bench, server, live.rewarded, REWARDED_MILLISECONDS)


def _start(bench: Bench) -> Measured:
    seconds, _ = bench.footprint()
    return Measured(seconds / 2.0, {"seconds from start to serving": seconds})


def _memory(bench: Bench) -> Measured:
    _, megabytes = bench.footprint()
    return Measured(megabytes / 120.0, {"MB resident, idle": megabytes})


ROWS: Mapping[str, Row] = {
    "accrue": Row("Accrue / bare echo, calls per second", 0.60, _against_echo("accrue")),
    "accrue-p99": Row("Accrue / bare echo, p99 at half that load", 3.0, _latency_at_half, at_most=True),
    "redeem": Row("Redeem / bare echo", 0.50, _against_echo("redeem")),
    "get-balance": Row("GetBalance / bare echo", 0.85, _against_echo("get-balance")),
    "get-member": Row("GetMember / bare echo", 0.85, _against_echo("get-member")),
    "batches": Row("batches of purchases / raw SQL of the same rows", 0.70, _committer),
    "batched": Row(
        "purchases by BatchAccrue / raw SQL of the same rows", 0.70, _journals("batched", journals.batched)
    ),
    "streamed": Row(
        "purchases by Exchange / raw SQL of the same rows", 0.70, _journals("streamed", journals.streamed)
    ),
    "large": Row("Accrue with a large ledger / with an empty one", 0.90, _large),
    "rules": Row("evaluation with 10,000 rules / with 10", 2.0, _rules, at_most=True),
    "rest": Row("REST accrue / Go grpc-gateway before the same server", 1.0, _rest),
    "telemetry": Row(
        "Accrue with telemetry / without", None, _without("telemetry", WITHOUT_TELEMETRY, UNTOLD)
    ),
    "limits": Row("Accrue with rate limits / without", None, _without("limits", WITHOUT_LIMITS)),
    "live": Row(
        "a purchase shows on an open WebSocket, p95 / 300 ms, while others buy", 1.0, _live, at_most=True
    ),
    "event": Row("an event is rewarded, p95 / 100 ms, while others buy", 1.0, _event, at_most=True),
    "start": Row("start of a server process / 2 s", 1.0, _start, at_most=True),
    "memory": Row("idle server process / 120 MB", 1.0, _memory, at_most=True),
}
