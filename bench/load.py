"""Load from another process: ghz over gRPC, vegeta over HTTP. No two requests are the same."""

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.figures import Figures, Seen, cpu_seconds, summarise
from bench.tools import CONTRACTS
from laurel.protos import ROOT

WORKLOADS = ROOT / "bench" / "ghz"
CONNECTIONS = 2
CALL_SECONDS = 20
# The rest belongs to the servers.
CORES = max(1, (os.cpu_count() or 1) // 2)
# More than any server here answers; a run that uses them up fails rather than repeat a request.
MOST_CALLS_PER_SECOND = 12_000


@dataclass(frozen=True)
class Target:
    """Where calls go, ``address`` for gRPC and ``http`` for REST, and whose CPU they use: process ids."""

    name: str
    address: str
    key: str
    server: Sequence[int] = ()
    database: Sequence[int] = ()
    http: str = ""


@dataclass(frozen=True)
class Pace:
    """For how long, and how many calls in flight; or, if ``rate`` is given, how many begin per second."""

    seconds: float
    warm_up: float
    calls: int = 64
    rate: int = 0


def workload(name: str) -> dict[str, Any]:
    """One of bench/ghz: what users run against their own servers."""
    loaded: dict[str, Any] = json.loads((WORKLOADS / f"{name}.json").read_text())
    return loaded


def data_for(name: str, member_ids: Sequence[str], folder: Path) -> Path:
    """The workload's request once for each of our members, as a file for ghz."""
    request = workload(name)["data"]
    request.pop("identifier", None)
    path = folder / f"{name}.json"
    path.write_text(json.dumps([{**request, "member_id": member_id} for member_id in member_ids]))
    return path


def grpc(ghz: Path, target: Target, name: str, data: Path, pace: Pace) -> Figures:
    """Load by ghz. SystemExit if a call fails: what was measured then is something else."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [
            *(str(ghz), "--insecure", "--protoset", str(CONTRACTS), "--call", workload(name)["call"]),
            *("--data-file", str(data), "--metadata", json.dumps({"authorization": f"Bearer {target.key}"})),
            *("--concurrency", str(pace.calls), "--connections", str(CONNECTIONS), "--cpus", str(CORES)),
            *("--duration", f"{pace.warm_up + pace.seconds}s", "--duration-stop", "wait"),
            *("--timeout", f"{CALL_SECONDS}s", "--format", "json", "--output", str(report)),
            *(("--rps", str(pace.rate), "--async") if pace.rate else ()),
            target.address,
        ]
        used = _run(command, target, pace)
        said = json.loads(report.read_text())
    failed = {code: count for code, count in said["statusCodeDistribution"].items() if code != "OK"}
    if failed:
        raise SystemExit(f"{target.name}, {name}: calls failed: {failed} {said['errorDistribution']}")
    calls = []
    for detail in said["details"]:
        ended = datetime.fromisoformat(detail["timestamp"]).timestamp()
        calls.append(Seen(ended - detail["latency"] / 1e9, ended, True))
    return summarise(calls, pace.warm_up, pace.seconds, *used)


def http(vegeta: Path, target: Target, path: str, bodies: Sequence[Mapping[str, Any]], pace: Pace) -> Figures:
    """Load by vegeta: POST one body after the other. SystemExit if a call fails."""
    with tempfile.TemporaryDirectory() as folder:
        targets, results = Path(folder, "targets"), Path(folder, "results")
        url = f"http://{target.http}{path}"
        header = {"Authorization": [f"Bearer {target.key}"], "Content-Type": ["application/json"]}
        with targets.open("w") as file:
            for body in bodies:
                encoded = base64.b64encode(json.dumps(body).encode()).decode()
                file.write(
                    json.dumps({"method": "POST", "url": url, "header": header, "body": encoded}) + "\n"
                )
        command = [
            *(str(vegeta), "-cpus", str(CORES), "attack", "-format", "json", "-lazy"),
            *("-targets", str(targets), "-output", str(results), "-timeout", f"{CALL_SECONDS}s"),
            *("-rate", str(pace.rate), "-duration", f"{pace.warm_up + pace.seconds}s"),
            *("-workers", str(pace.calls), "-max-workers", str(pace.calls), "-connections", str(pace.calls)),
        ]
        used = _run(command, target, pace)
        listing = subprocess.run(  # noqa: S603 - our own command lines
            [str(vegeta), "encode", "-to", "csv", str(results)], capture_output=True, text=True, check=True
        )
    calls, failed = [], []
    for line in listing.stdout.splitlines():
        began, code, latency, *_ = line.split(",", 3)
        ended = (int(began) + int(latency)) / 1e9
        calls.append(Seen(int(began) / 1e9, ended, code == "200"))
        if code != "200":
            failed.append(line)
    if failed:
        raise SystemExit(f"{target.name}, {path}: {len(failed)} calls failed; the first: {failed[0]}")
    if len(calls) == len(bodies):
        raise SystemExit(f"{target.name}: more than {MOST_CALLS_PER_SECOND} calls/s; raise the limit")
    return summarise(calls, pace.warm_up, pace.seconds, *used)


def purchases(member_ids: Sequence[str], pace: Pace) -> list[dict[str, Any]]:
    """Bodies of distinct purchases, enough for the run, as the ghz workload has them."""
    template = workload("accrue")["data"]
    template.pop("identifier")
    made = []
    for number in range(int((pace.warm_up + pace.seconds) * MOST_CALLS_PER_SECOND)):
        once = uuid4().hex
        member_id = member_ids[number % len(member_ids)]
        made.append({**template, "request_id": once, "order_reference": once, "member_id": member_id})
    return made


def _run(command: Sequence[str], target: Target, pace: Pace) -> tuple[float, float]:
    """Run it; the CPU seconds that the server and the database used meanwhile."""
    before = cpu_seconds(target.server), cpu_seconds(target.database)
    done = subprocess.run(  # noqa: S603 - our own command lines
        command,
        capture_output=True,
        text=True,
        timeout=pace.warm_up + pace.seconds + 120,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{Path(command[0]).name} failed: {done.stderr or done.stdout}")
    return cpu_seconds(target.server) - before[0], cpu_seconds(target.database) - before[1]
