"""Accrue, Redeem and GetBalance against a bare echo of the same messages, side by side.

    python -m bench.accrue [--seconds 6] [--calls 64] [--rounds 2]

Durable PostgreSQL, Redis, one server process, the echo and the load each run in a
process of their own, on data in a temporary folder; all of it is gone at the end.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf import json_format
from google.type import money_pb2
from loyalty.v1 import member_pb2, member_pb2_grpc, points_pb2, points_pb2_grpc, rules_pb2
from uuid_utils.compat import uuid7

from laurel.client import Client
from laurel.stack.postgres import EmbeddedPostgres
from laurel.stack.processes import end_child, open_log, spawn
from laurel.stack.redis import EmbeddedRedis
from laurel.stack.servers import STOP_SIGNALS, ServerProcess, reserve
from migrations import migrate
from server import secrets
from server.domain.actor import CallerKind
from server.domain.program import Program, Tier
from server.operations import credentials
from server.rpc.access import declared_scopes
from server.store import programs
from server.store.database import Database

MEMBERS = 1000
# Enough to redeem from for as long as anybody measures.
FIRST_PURCHASE = 10_000_000
TARGETS = {"Accrue": 0.60, "Redeem": 0.50, "GetBalance": 0.85}


def rules() -> list[dict[str, Any]]:
    """20 rules that earn, of which the purchase of `bench.load` meets 3; and one that redeems."""

    def purchase(*conditions: dict[str, Any]) -> dict[str, Any]:
        return {"all": [{"event": "PURCHASE"}, *conditions]}

    def equal(field: str, value: str) -> dict[str, Any]:
        return {"field": field, "op": "eq", "value": value}

    def spent(amount: int) -> dict[str, Any]:
        return {"field": "amount", "op": "gte", "value": f"{amount}.00", "currency": "INR"}

    base = {
        "rule": "base",
        "type": "earn",
        "when": {"event": "PURCHASE"},
        "then": [{"earn": {"points": 20, "per": "100.00"}}],
    }
    double = {
        "rule": "double-at-the-till",
        "type": "earn",
        "priority": 10,
        "when": purchase(equal("channel", "pos")),
        "then": [{"multiply": {"by": 2, "of": "base"}}],
        "caps": {"member": {"points": 1_000_000_000, "per": "day"}},
    }
    bonus = {
        "rule": "bonus",
        "type": "earn",
        "when": purchase(equal("store", "pune-1"), spent(100)),
        "then": [{"fixed": {"points": 10}}],
    }
    others = [purchase(equal("channel", f"app-{n}")) for n in range(9)]
    others += [purchase(spent(20_000_000 + n)) for n in range(8)]
    unmet = [
        {"rule": f"unmet-{n}", "type": "earn", "when": when, "then": [{"fixed": {"points": 1}}]}
        for n, when in enumerate(others)
    ]
    worth = {
        "rule": "worth",
        "type": "redeem",
        "then": [{"value": {"points": 4, "money": "1.00", "currency": "INR"}}],
    }
    return [base, double, bonus, *unmet, worth]


@contextmanager
def stack(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Everything running: the addresses of Laurel and of the echo, and a key."""
    with ExitStack() as opened:
        postgres = EmbeddedPostgres(folder / "postgres", durable=True, notify=lambda line: None)
        opened.callback(postgres.stop)
        postgres.start()
        redis = EmbeddedRedis(folder / "redis")
        opened.callback(redis.stop)
        redis.start()
        secrets.generate(folder / "secrets.json")
        key = asyncio.run(prepare(postgres.url("laurel")))
        ports = [opened.enter_context(reserve("127.0.0.1", 0)).getsockname()[1] for _ in range(2)]
        laurel, echo = [f"127.0.0.1:{port}" for port in ports]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LAUREL_")},
            "LAUREL_DATABASE_URL": postgres.url("laurel"),
            "LAUREL_REDIS_URL": redis.url,
            "LAUREL_SECRETS_FILE": str(folder / "secrets.json"),
            "LAUREL_PORT": str(ports[0]),
            "LAUREL_OPS_PORT": "",
        }
        server = ServerProcess(environment, folder / "server.log", drain_seconds=5.0)
        opened.callback(server.stop)
        server.start()
        with open_log(folder / "echo.log") as log:
            command = [sys.executable, "-m", "bench.echo", str(ports[1])]
            child = spawn(command, log=log, dies_by=STOP_SIGNALS[0])
        opened.callback(end_child, child, STOP_SIGNALS, 5.0)
        server.wait_until_serving(laurel)
        with grpc.insecure_channel(echo) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        yield laurel, echo, key


async def prepare(url: str) -> str:
    """A migrated database with a program; the key of a service."""
    await migrate(url, lambda line: None)
    program = Program(
        program_id=uuid7(),
        name="bench",
        currency="INR",
        time_zone="Asia/Kolkata",
        tiers=(Tier("bronze", 0), Tier("silver", 1000), Tier("gold", 5000)),
    )
    database = await Database.open(url, connections=2)
    try:
        async with database.transaction() as connection:
            await programs.create(connection, program)
        _, key = await credentials.create(
            database,
            program.program_id,
            CallerKind.SERVICE,
            "bench",
            declared_scopes=declared_scopes(),
            now=datetime.now(UTC),
        )
    finally:
        await database.close()
    return key


def publish(address: str, key: str) -> None:
    """Put the rules in force."""
    with grpc.insecure_channel(address) as channel:
        client = Client(channel, key)
        versions = []
        for definition in rules():
            request = rules_pb2.CreateRuleRequest()
            json_format.ParseDict(definition, request.definition)
            rule = client.call(client.rules.CreateRule, request).rule
            versions.append(rules_pb2.RuleVersion(name=rule.name, version=rule.version))
        client.call(client.rules.PublishRules, rules_pb2.PublishRulesRequest(publish=versions))


async def register(address: str, key: str) -> list[str]:
    """Members who have points to spend."""
    metadata = (("authorization", f"Bearer {key}"),)
    few = asyncio.Semaphore(32)
    async with grpc.aio.insecure_channel(address) as channel:
        members = member_pb2_grpc.MemberServiceStub(channel)
        points = points_pb2_grpc.PointsServiceStub(channel)

        async def one() -> str:
            async with few:
                member = member_pb2.Member(email=f"{uuid4().hex}@example.com")
                request = member_pb2.RegisterMemberRequest(request_id=uuid4().hex, member=member)
                reply = await members.RegisterMember(request, metadata=metadata)
                purchase = points_pb2.AccrueRequest(
                    request_id=uuid4().hex,
                    member_id=reply.member.member_id,
                    order_reference=uuid4().hex,
                    amount=money_pb2.Money(currency_code="INR", units=FIRST_PURCHASE),
                )
                await points.Accrue(purchase, metadata=metadata)
                return str(reply.member.member_id)

        return list(await asyncio.gather(*(one() for _ in range(MEMBERS))))


def load(address: str, order: Mapping[str, Any]) -> dict[str, float]:
    """One run of `bench.load`."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=json.dumps({**order, "address": address}),
        capture_output=True,
        text=True,
        timeout=order["seconds"] + 120,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure(arguments: argparse.Namespace) -> None:
    """Everything, printed as it comes; then the ratios."""
    folder = Path(tempfile.mkdtemp(prefix="laurel-bench-"))
    # PostgreSQL won't run as root, and its account has to get through to its data.
    folder.chmod(0o711)
    try:
        with stack(folder) as (laurel, echo, key):
            publish(laurel, key)
            members = asyncio.run(register(laurel, key))
            print(f"{'':<20}{'calls/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}")
            ratios = {}
            for method in arguments.methods:
                order = {
                    "key": key,
                    "method": method,
                    "members": members,
                    "calls": arguments.calls,
                    "seconds": arguments.seconds,
                }
                # In turns: what else the machine does meets both.
                rounds = [
                    (_shown("echo", method, load(echo, order)), _shown("laurel", method, load(laurel, order)))
                    for _ in range(arguments.rounds)
                ]
                ratios[method] = statistics.median(ours / bare for bare, ours in rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for method, ratio in ratios.items():
        print(f"{method}/echo: {ratio:.2f} (target {TARGETS[method]:.2f})")


def _shown(who: str, method: str, figures: Mapping[str, float]) -> float:
    latencies = "".join(f"{figures[name]:>9.1f}" for name in ("p50", "p95", "p99"))
    print(f"{who + ' ' + method:<20}{figures['rate']:>9,.0f}{latencies}", flush=True)
    return figures["rate"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.accrue", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--calls", type=int, default=64, help="in flight")
    parser.add_argument("--rounds", type=int, default=2, help="of echo and Laurel in turns")
    parser.add_argument("--methods", nargs="+", choices=TARGETS, default=list(TARGETS))
    measure(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
