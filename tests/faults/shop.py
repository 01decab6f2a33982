"""Two real servers on one PostgreSQL whose data survives, a shop's members and its sales."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.type import money_pb2
from loyalty.v1 import member_pb2, member_pb2_grpc, points_pb2, rules_pb2, rules_pb2_grpc

from laurel.stack.postgres import EmbeddedPostgres
from laurel.stack.redis import EmbeddedRedis
from laurel.stack.servers import ServerProcess, reserve
from laurel.stack.workers import WorkerProcess
from migrations import migrate
from server import secrets
from server.domain.actor import CallerKind
from server.store.database import Database
from tests.faults.load import Sale
from tests.faults.watchers import Door
from tests.support.processes import environment
from tests.support.programs import new_key, new_program
from tests.support.servers import WithKey

SERVERS = 2
# More than a process takes to end when asked, however busy the machine is.
STOP_SECONDS = 60.0
MEMBERS = 20
LARGE = "large-"
# Two rows of the ledger never come of one sale, so that rows can be counted by order.
RULES: tuple[dict[str, Any], ...] = (
    {"rule": "base", "when": {"event": "PURCHASE"}, "then": [{"earn": {"points": 20, "per": "100.00"}}]},
    {
        "rule": "daily",
        "when": {"event": "PURCHASE"},
        "then": [{"fixed": {"points": 3}}],
        "caps": {"member": {"points": 100, "per": "day"}},
    },
)


@dataclass
class Shop:
    """What runs, where, and who is served."""

    folder: Path
    postgres: EmbeddedPostgres
    redis: EmbeddedRedis
    servers: list[ServerProcess] = field(default_factory=list)
    workers: list[WorkerProcess] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    doors: list[Door] = field(default_factory=list)
    key: str = ""
    members: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def restart_postgres(self) -> None:
        """End PostgreSQL as a crash would, and let it recover."""
        self.postgres.kill()
        self.postgres.start()

    def restart_server(self, number: int) -> None:
        """End a server as a crash would, and start another in its place."""
        os.kill(self.servers[number].pid, signal.SIGKILL)
        self.servers[number].stop()
        self.servers[number].start()
        self.servers[number].wait_until_serving(self.addresses[number])

    def add_workers(self, count: int, running: contextlib.ExitStack) -> None:
        """Start so many workers, which end with ``running``."""
        for number in range(count):
            worker = WorkerProcess(
                environment(**self.settings, LAUREL_WORKER_OPS_PORT=""),
                self.folder / f"worker-{number}.log",
                STOP_SECONDS,
                "",
            )
            self.workers.append(worker)
            running.callback(worker.stop)
            worker.start()

    def restart_worker(self, number: int) -> None:
        """End a worker as a crash would, and start another in its place."""
        os.kill(self.workers[number].pid, signal.SIGKILL)
        self.workers[number].stop()
        self.workers[number].start()

    def replace_server(self, number: int) -> None:
        """Ask a server to stop as its operator would, wait for it, and start another in its place."""
        self.servers[number].stop()
        assert self.servers[number].ending == "ended with code 0"
        self.servers[number].start()
        self.servers[number].wait_until_serving(self.addresses[number])

    def sales(self, source: random.Random, count: int, label: str) -> list[Sale]:
        """Purchases and redemptions of random members, each with a reference of its own."""
        return [self._sale(source, f"{label}-{n}") for n in range(count)]

    def large_sales(self) -> list[Sale]:
        """A purchase for every member, which unlocks the highest tier; the names begin with LARGE."""
        amount = money_pb2.Money(currency_code="INR", units=60_000)
        return [
            Sale(
                "Accrue",
                points_pb2.AccrueRequest(amount=amount, **_facts(f"{LARGE}{n}", member)),
                n % SERVERS,
            )
            for n, member in enumerate(self.members)
        ]

    def _sale(self, source: random.Random, name: str) -> Sale:
        member_id, server = source.choice(self.members), source.randrange(SERVERS)
        facts = _facts(name, member_id)
        if source.random() < 0.4:
            points = source.randint(1, 60)
            return Sale("Redeem", points_pb2.RedeemRequest(points=points, **facts), server)
        amount = money_pb2.Money(currency_code="INR", units=source.randint(20, 500))
        return Sale("Accrue", points_pb2.AccrueRequest(amount=amount, **facts), server)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """What the servers logged under that name."""
        lines = [line for path in self.folder.glob("server-*.log") for line in path.read_text().splitlines()]
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry.get("event") == event]

    def incidents(self) -> list[str]:
        """What the servers logged that is nobody's refusal but a fault of theirs."""
        logs = [
            path.read_text() for kind in ("server", "worker") for path in self.folder.glob(f"{kind}-*.log")
        ]
        return [
            line for log in logs for line in log.splitlines() if "incident" in line or "Traceback" in line
        ]

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """What the database itself says."""
        connection = await asyncpg.connect(self.postgres.url())
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    async def furnish(self) -> None:
        """A program and a key, straight in the database: nobody may make these over gRPC."""
        await migrate(self.postgres.url())
        database = await Database.open(self.postgres.url(), connections=2)
        try:
            program = await new_program(database)
            self.key = await new_key(database, program, CallerKind.SERVICE)
        finally:
            await database.close()

    async def open(self) -> None:
        """Put rules in force and register members."""
        async with grpc.aio.insecure_channel(self.addresses[0], interceptors=[WithKey(self.key)]) as channel:
            rules, members = (
                rules_pb2_grpc.RulesServiceStub(channel),
                member_pb2_grpc.MemberServiceStub(channel),
            )
            publish = []
            for rule in RULES:
                draft = await rules.CreateRule(
                    rules_pb2.CreateRuleRequest(definition=ParseDict(rule, Struct()))
                )
                publish.append(rules_pb2.RuleVersion(name=draft.rule.name, version=draft.rule.version))
            await rules.PublishRules(rules_pb2.PublishRulesRequest(publish=publish))
            for _ in range(MEMBERS):
                member = member_pb2.Member(email=f"{uuid4().hex}@example.com")
                request = member_pb2.RegisterMemberRequest(request_id=uuid4().hex, member=member)
                self.members.append((await members.RegisterMember(request)).member.member_id)


def _facts(name: str, member_id: str) -> dict[str, str]:
    return {"request_id": f"request-{name}", "order_reference": name, "member_id": member_id}


@contextlib.contextmanager
def opened(folder: Path, **more: str) -> Iterator[Shop]:
    """The shop for as long as the block lasts; every process ends with it. ``more``: settings of servers."""
    folder.mkdir()
    shop = Shop(
        folder,
        EmbeddedPostgres(folder / "postgres", notify=lambda line: None),
        EmbeddedRedis(folder / "redis"),
    )
    with contextlib.ExitStack() as running:
        running.callback(shop.postgres.stop)
        shop.postgres.start()
        running.callback(shop.redis.stop)
        shop.redis.start()
        secrets.generate(folder / "secrets.json")
        asyncio.run(shop.furnish())
        shop.settings = {
            "LAUREL_DATABASE_URL": shop.postgres.url(),
            "LAUREL_REDIS_URL": shop.redis.url,
            "LAUREL_SECRETS_FILE": str(folder / "secrets.json"),
            # A few members buy here as nobody does in a life.
            "LAUREL_MEMBER_LIMITS": "",
            **more,
        }
        for number in range(SERVERS):
            ports = [running.enter_context(reserve("127.0.0.1", 0)) for _ in ("gRPC", "REST")]
            _add_server(shop, number, ports, running)
        asyncio.run(shop.open())
        yield shop


def _add_server(
    shop: Shop, number: int, ports: Sequence[socket.socket], running: contextlib.ExitStack
) -> None:
    port, rest = [port.getsockname()[1] for port in ports]
    server = ServerProcess(
        environment(**shop.settings, LAUREL_PORT=str(port), LAUREL_HTTP_PORT=str(rest), LAUREL_OPS_PORT=""),
        shop.folder / f"server-{number}.log",
        drain_seconds=STOP_SECONDS,
    )
    shop.servers.append(server)
    shop.addresses.append(f"127.0.0.1:{port}")
    shop.doors.append(Door(shop.addresses[number], f"127.0.0.1:{rest}"))
    running.callback(server.stop)
    server.start()
    server.wait_until_serving(shop.addresses[number])
