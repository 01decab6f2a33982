"""Callers who give up by the thousand leave nothing behind: no connection, lock, place in line or memory."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.type import money_pb2
from loyalty.v1 import member_pb2, member_pb2_grpc, points_pb2, points_pb2_grpc

from server.domain.actor import CallerKind
from server.settings import Settings
from server.store.database import Database
from tests.support.processes import environment, run
from tests.support.programs import new_key, new_program

pytestmark = pytest.mark.faults

CALLS = 10_000
WARM_UP_CALLS = 3_000
AT_ONCE = 16
MEMBERS = 50
# Less than a kilobyte each; a call that is kept keeps ten times as much.
MOST_GROWTH_KIB = 8 * 1024
DATABASE_CONNECTIONS = 7
REST_SECONDS = 60.0
# Redis', a scrape's, an entropy source and the like.
SPARE_FILES = 8
# What must be zero once all is quiet.
AT_REST = (
    "rpc_server_active_requests",
    "http_server_active_requests",
    "laurel_committer_queue",
    'db_client_connection_count{db_client_connection_state="used"}',
    "db_client_connection_pending_requests",
)
RUPEE = money_pb2.Money(currency_code="INR", units=1)


PATHS = {
    "Accrue": ("POST", "/transactions/accrue"),
    "Redeem": ("POST", "/transactions/redeem"),
    "GetBalance": ("GET", "/api/points/{memberId}"),
    "ListHistory": ("GET", "/members/{memberId}/history"),
    "FindMember": ("POST", "/members:find"),
    "RegisterMember": ("POST", "/members/register"),
}
# Sends a request to the RPC of that name, and gives the reply as JSON has it; raises RefusedError.
Ask = Callable[[str, Message], Awaitable[dict[str, Any]]]
Door = Callable[[Mapping[str, Any], str], AbstractAsyncContextManager[Ask]]


@dataclass(frozen=True)
class Process:
    """A server process, and what it says of itself when it is ready."""

    pid: int
    ready: Mapping[str, Any]


@contextmanager
def process(settings: Settings) -> Iterator[Process]:
    """gRPC and REST, until the block ends."""
    child = subprocess.Popen(
        [sys.executable, "-m", "laurel.process"],
        env=environment(
            LAUREL_DATABASE_URL=settings.database_url.get_secret_value(),
            LAUREL_REDIS_URL=settings.redis_url.get_secret_value(),
            LAUREL_SECRETS_FILE=str(settings.secrets_file),
            LAUREL_PORT="0",
            LAUREL_HTTP_PORT="0",
            LAUREL_OPS_PORT="0",
            LAUREL_MEMBER_LIMITS="",
        ),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        yield Process(child.pid, json.loads(child.stdout.readline()))
    finally:
        child.terminate()
        try:
            child.communicate(timeout=60)
        finally:
            child.kill()


class RefusedError(Exception):
    """A refusal, by its code."""


@asynccontextmanager
async def over_grpc(ready: Mapping[str, Any], key: str) -> AsyncIterator[Ask]:
    """Ask over one channel."""
    metadata = (("authorization", f"Bearer {key}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ready['port']}") as channel:
        stubs = (member_pb2_grpc.MemberServiceStub(channel), points_pb2_grpc.PointsServiceStub(channel))

        async def ask(name: str, request: Message) -> dict[str, Any]:
            method = next(getattr(stub, name) for stub in stubs if hasattr(stub, name))
            try:
                return json_format.MessageToDict(await method(request, metadata=metadata, timeout=20))
            except grpc.aio.AioRpcError as error:
                raise RefusedError(error.code().name) from None

        yield ask


@asynccontextmanager
async def over_rest(ready: Mapping[str, Any], key: str) -> AsyncIterator[Ask]:
    """Ask over a connection for each request; giving up closes it."""

    async def ask(name: str, request: Message) -> dict[str, Any]:
        facts = json_format.MessageToDict(request)
        verb, path = PATHS[name]
        body = json.dumps(facts) if verb == "POST" else ""
        reader, writer = await asyncio.open_connection("127.0.0.1", ready["http_port"])
        try:
            writer.write(
                f"{verb} {path.format(**facts)} HTTP/1.1\r\nHost: laurel\r\nConnection: close\r\n"
                f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        status = head.split()[1].decode()
        if status != "200":
            raise RefusedError(status)
        reply: dict[str, Any] = json.loads(answer)
        return reply

    yield ask


class Callers:
    """Those who call, and what becomes of their calls."""

    def __init__(self) -> None:
        self.members: list[str] = []
        self.ended: Counter[str] = Counter()
        self._source = random.Random(10_000)

    async def register(self, ask: Ask) -> None:
        """Those about whom the calls are."""
        for _ in range(MEMBERS):
            reply = await ask("RegisterMember", newcomer())
            self.members.append(reply["member"]["memberId"])

    async def give_up(self, ask: Ask, times: int) -> None:
        """Give so many calls up, each after 1 to 50 ms; those answered by then don't count."""
        self.ended.clear()

        async def caller() -> None:
            while self.ended["given up"] < times:
                self.ended[await self._end_of(ask(*self._any()))] += 1

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))

    async def _end_of(self, call: Awaitable[Any]) -> str:
        try:
            async with asyncio.timeout(self._source.uniform(0.001, 0.05)):
                await call
        except TimeoutError:
            return "given up"
        except RefusedError as code:
            return str(code)
        return "answered"

    def _any(self) -> tuple[str, Message]:
        member_id = self._source.choice(self.members)
        facts = {"request_id": uuid4().hex, "member_id": member_id, "order_reference": uuid4().hex}
        found = member_pb2.Identifier(email=f"{uuid4().hex}@example.com")
        return self._source.choice(
            (
                ("Accrue", points_pb2.AccrueRequest(amount=RUPEE, **facts)),
                ("Redeem", points_pb2.RedeemRequest(points=1, **facts)),
                ("GetBalance", points_pb2.GetBalanceRequest(member_id=member_id)),
                ("ListHistory", points_pb2.ListHistoryRequest(member_id=member_id)),
                ("FindMember", member_pb2.FindMemberRequest(identifier=found)),
                ("RegisterMember", newcomer()),
            )
        )


def newcomer() -> member_pb2.RegisterMemberRequest:
    member = member_pb2.Member(email=f"{uuid4().hex}@example.com")
    return member_pb2.RegisterMemberRequest(request_id=uuid4().hex, member=member)


async def figures(ops_port: int) -> dict[str, float]:
    """What the server counts at this moment, by name and labels."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{ops_port}/metrics")).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def resident(pid: int) -> int:
    """Memory of the process, in KiB."""
    line = next(n for n in Path(f"/proc/{pid}/status").read_text().splitlines() if n.startswith("VmRSS"))
    return int(line.split()[1])


def open_files(pid: int) -> int:
    """How many the process has, sockets included."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def held(database: Database) -> list[str]:
    """What sessions of this database hold: locks that wait or are taken, transactions that are open."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """SELECT 'lock' AS what FROM pg_locks
                WHERE locktype = 'advisory'
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
               UNION ALL
               SELECT state FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"""
        )
    return [row[0] for row in rows]


async def at_rest(process: Process, database: Database, files: int) -> None:
    """Wait until it does nothing any more and has few ``files`` open; fails with what it still does."""
    found: dict[str, Any] = {}
    until = time.monotonic() + REST_SECONDS
    while time.monotonic() < until:
        now = await figures(process.ready["ops_port"])
        found = {name: value for name, value in now.items() if name.startswith(AT_REST) and value}
        if locks := await held(database):
            found["postgresql"] = locks
        if (opened := open_files(process.pid)) > files:
            found["files"] = opened
        if not found:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(found)


@pytest.mark.parametrize("opened", [over_grpc, over_rest], ids=["grpc", "rest"])
async def test_10_000_calls_given_up_leave_nothing_behind(
    settings: Settings, database: Database, opened: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    key = await new_key(database, await new_program(database), CallerKind.SERVICE)
    with process(settings) as server:
        callers, idle = Callers(), open_files(server.pid) + DATABASE_CONNECTIONS + SPARE_FILES
        async with opened(server.ready, key) as ask:
            await callers.register(ask)
            await callers.give_up(ask, WARM_UP_CALLS)
        await at_rest(server, database, idle)
        before = resident(server.pid)
        async with opened(server.ready, key) as ask:
            await callers.give_up(ask, CALLS)
        await at_rest(server, database, idle)
        after, counted = resident(server.pid), await figures(server.ready["ops_port"])
        with capsys.disabled():
            print(f"\n{dict(callers.ended)}; {before:,} KiB before, {after:,} KiB after")
        # The server must have heard of them; how many it answers first is the machine's business.
        name = "rpc_server_call_duration_seconds_count"
        labels = 'rpc_method="loyalty.v1.PointsService/Accrue",rpc_response_status_code="CANCELLED"'
        assert counted[f"{name}{{{labels}}}"] > 10
        assert after - before < MOST_GROWTH_KIB
        async with opened(server.ready, key) as ask:
            await callers.register(ask)
    checked = await asyncio.to_thread(
        run,
        "verify",
        LAUREL_DATABASE_URL=settings.database_url.get_secret_value(),
        LAUREL_SECRETS_FILE=str(settings.secrets_file),
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
