"""`make bench`: what Laurel costs on top of what its work costs anyway, row by row, as ratios of one run.

Needs Go for the load (ghz, vegeta) and for grpc-gateway; rows that can't be measured are named.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine, stack, tools
from bench.figures import HEADING, Figures
from bench.ledgers import Size
from bench.rows import ROWS, Bench, Measured
from laurel.clients import Missing
from laurel.protos import ROOT

# A purchase brings into memory what it touches: about so long until all is there.
SETTLING_SECONDS_PER_ROW = 600 / 10_000_000
RESULTS = ROOT / "bench" / "results.json"


class Progress:
    """Says what is being done, run by run."""

    def __init__(self) -> None:
        self._headed = False

    def say(self, text: str) -> None:
        """A line."""
        print(text, flush=True)

    def row(self, title: str) -> None:
        """A row begins."""
        self._headed = False
        self.say(f"\n{title}")

    def run(self, name: str, figures: Figures) -> None:
        """A run under load is over."""
        if not self._headed:
            self.say(f"{'':<26}{HEADING}")
            self._headed = True
        self.say(f"  {name:<24}{figures}")

    def ratio(self, measured: Measured) -> None:
        """A row is over."""
        for who, figure in measured.figures.items():
            if not isinstance(figure, Figures):
                self.say(f"  {_in_words(who, figure)}")
        by_cpu = f", by CPU of the server {measured.cpu_ratio:.2f}" if measured.cpu_ratio else ""
        self.say(f"  ratio {measured.ratio:.2f}{by_cpu}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rows asked for, print the table and write the results; 0 if all could be measured."""
    options = _options(arguments)
    if options.list:
        for name, row in ROWS.items():
            print(f"{name:<14}{row.what}")
        return 0
    started, here = time.monotonic(), machine.describe()
    try:
        tools.ghz()
    except Missing as reason:
        print(f"no load without ghz: {reason}", file=sys.stderr)
        return 1
    measured, missing = _measure(options)
    table = _table(measured)
    print(f"\n{table}\n")
    print(", ".join(f"{name} {value}" for name, value in here.items()))
    print(f"took {time.monotonic() - started:.0f} s; figures in {options.output}")
    options.output.write_text(json.dumps(_document(measured, missing, here, options), indent=2) + "\n")
    for name, why in missing.items():
        print(f"{name}: not measured, {why}", file=sys.stderr)
    return 1 if missing else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help="these rows; see --list")
    parser.add_argument("--quick", action="store_true", help="a first impression in under two minutes")
    parser.add_argument("--list", action="store_true", help="the rows and what they compare")
    parser.add_argument("--seconds", type=float, help="of each run (6; quick: 1.5)")
    parser.add_argument("--rounds", type=int, help="of runs in turns (3; quick: 1)")
    parser.add_argument("--calls", type=int, default=64, help="in flight (64)")
    parser.add_argument(
        "--rate", type=int, help="purchases per second of others in `live` and `event` (500; quick: 100)"
    )
    parser.add_argument("--members", type=int, help="who buy (4000; quick: 1000)")
    parser.add_argument(
        "--ledger-rows", type=int, help="of the large ledger (200000; quick: 20000); 10000000 take 50 GB"
    )
    parser.add_argument("--ledger-members", type=int, help="of the large ledger (a tenth of its rows)")
    parser.add_argument(
        "--settling",
        type=float,
        help="seconds of purchases before the large ledger is measured (by its size)",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="fill ledgers in this folder, and use what is there",
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the figures go, as JSON")
    options = parser.parse_args(arguments)
    options.seconds = options.seconds or (1.5 if options.quick else 6.0)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.members = options.members or (1000 if options.quick else 4000)
    options.rate = options.rate or (100 if options.quick else 500)
    options.warm_up = 0.5 if options.quick else 2.0
    options.ledger_rows = options.ledger_rows or (20_000 if options.quick else 200_000)
    options.ledger_members = options.ledger_members or max(1, options.ledger_rows // 10)
    if options.settling is None:
        options.settling = options.ledger_rows * SETTLING_SECONDS_PER_ROW
    if not 0 < options.ledger_members <= options.ledger_rows:
        parser.error("a large ledger has at least one row for each of its members")
    return options


def _measure(options: argparse.Namespace) -> tuple[dict[str, Measured], dict[str, str]]:
    """What was measured, and why the rest wasn't, by row."""
    measured: dict[str, Measured] = {}
    missing: dict[str, str] = {}
    shown = Progress()
    with stack.running(options.members, shown.say, options.keep) as running:
        large = Size(options.ledger_rows, options.ledger_members)
        bench = Bench(
            running,
            options.seconds,
            options.warm_up,
            options.rounds,
            options.calls,
            shown.run,
            large,
            options.settling,
            options.rate,
        )
        for name in options.only or ROWS:
            shown.row(f"{name}: {ROWS[name].what}")
            try:
                measured[name] = ROWS[name].measure(bench)
            except Missing as reason:
                missing[name] = str(reason)
                continue
            shown.ratio(measured[name])
    return measured, missing


def _table(measured: Mapping[str, Measured]) -> str:
    """In Markdown, for bench/README.md."""
    lines = ["| row | ratio | target | | by CPU | figures |", "|---|---|---|---|---|---|"]
    for name, result in measured.items():
        row = ROWS[name]
        sign = "<=" if row.at_most else ">="
        target = f"{sign} {row.target:.2f}" if row.target is not None else ""
        verdict = {True: "met", False: "missed", None: ""}[row.met(result.ratio)]
        figures = "; ".join(_in_words(who, figure) for who, figure in result.figures.items())
        by_cpu = f"{result.cpu_ratio:.2f}" if result.cpu_ratio else ""
        lines.append(f"| {row.what} | {result.ratio:.2f} | {target} | {verdict} | {by_cpu} | {figures} |")
    return "\n".join(lines)


def _in_words(who: str, figure: Figures | float) -> str:
    if not isinstance(figure, Figures):
        return f"{who} {figure:,.0f}" if figure >= 10 else f"{who} {figure:.2f}"
    cpu = f", CPU {figure.server_cpu:.0f}" if figure.server_cpu else ""
    database = f" + {figure.database_cpu:.0f} us" if figure.database_cpu else " us" if cpu else ""
    return (
        f"{who} {figure.arrivals:,.0f} in, {figure.completions:,.0f} done/s, "
        f"p50 {figure.p50:.1f}, p99 {figure.p99:.1f} ms{cpu}{database}"
    )


def _document(
    measured: Mapping[str, Measured],
    missing: Mapping[str, str],
    here: Mapping[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    def row(name: str, result: Measured) -> dict[str, Any]:
        figures = {
            who: asdict(figure) if isinstance(figure, Figures) else figure
            for who, figure in result.figures.items()
        }
        goal = {"at_most" if ROWS[name].at_most else "at_least": ROWS[name].target}
        return {
            "name": name,
            "what": ROWS[name].what,
            "ratio": result.ratio,
            "cpu_ratio": result.cpu_ratio,
            "target": goal,
            "met": ROWS[name].met(result.ratio),
            "figures": figures,
        }

    given = (
        "seconds",
        "warm_up",
        "rounds",
        "calls",
        "rate",
        "members",
        "ledger_rows",
        "ledger_members",
        "settling",
    )
    asked = {name: getattr(options, name) for name in given}
    return {
        "machine": dict(here),
        "options": asked,
        "rows": [row(name, result) for name, result in measured.items()],
        "not_measured": dict(missing),
    }


if __name__ == "__main__":
    sys.exit(main())
