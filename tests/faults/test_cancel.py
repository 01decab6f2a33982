"""Callers who give up by the thousand leave nothing behind: no connection, lock, place in line or memory."""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from google.type import money_pb2
from loyalty.v1 import member_pb2, points_pb2

from server.domain.actor import CallerKind
from server.settings import Settings
from server.store.database import Database
from tests.support.processes import environment, run
from tests.support.programs import new_key, new_program

pytestmark = pytest.mark.faults

CALLS = 10_000
WARM_UP_CALLS = 3_000
AT_ONCE = 32
MEMBERS = 50
# Less than a kilobyte each; a call that is kept keeps ten times as much.
MOST_GROWTH_KIB = 8 * 1024
# What must be zero once all is quiet.
AT_REST = (
    "rpc_server_active_requests",
    "laurel_committer_queue",
    'db_client_connection_count{db_client_connection_state="used"}',
    "db_client_connection_pending_requests",
)
RUPEE = money_pb2.Money(currency_code="INR", units=1)


@contextmanager
def process(settings: Settings) -> Iterator[tuple[int, dict[str, Any]]]:
    """A server process: its id, and what it says of itself when it is ready."""
    child = subprocess.Popen(
        [sys.executable, "-m", "server"],
        env=environment(
            LAUREL_DATABASE_URL=settings.database_url.get_secret_value(),
            LAUREL_REDIS_URL=settings.redis_url.get_secret_value(),
            LAUREL_SECRETS_FILE=str(settings.secrets_file),
            LAUREL_PORT="0",
            LAUREL_OPS_PORT="0",
            LAUREL_MEMBER_LIMITS="",
        ),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        yield child.pid, json.loads(child.stdout.readline())
    finally:
        child.terminate()
        child.communicate(timeout=30)


class Callers:
    """Those who call, and what becomes of their calls."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self.members: list[str] = []
        self.ended: Counter[str] = Counter()
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._source = random.Random(10_000)

    async def register(self) -> None:
        """Those about whom the calls are."""
        for _ in range(MEMBERS):
            reply = await self._start("MemberService/RegisterMember", newcomer())
            self.members.append(member_pb2.RegisterMemberResponse.FromString(reply).member.member_id)

    async def give_up(self, times: int) -> None:
        """Cancel so many calls, each after 1 to 50 ms; those answered by then don't count."""
        self.ended.clear()

        async def caller() -> None:
            while self.ended["CANCELLED"] < times:
                call = self._start(*self._any())
                wait = self._source.uniform(0.001, 0.05)
                losing_patience = asyncio.get_running_loop().call_later(wait, call.cancel)
                self.ended[(await call.code()).name] += 1
                losing_patience.cancel()

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))

    def _any(self) -> tuple[str, Message]:
        member_id = self._source.choice(self.members)
        facts = {"request_id": uuid4().hex, "member_id": member_id, "order_reference": uuid4().hex}
        found = member_pb2.Identifier(email=f"{uuid4().hex}@example.com")
        return self._source.choice(
            (
                ("PointsService/Accrue", points_pb2.AccrueRequest(amount=RUPEE, **facts)),
                ("PointsService/Redeem", points_pb2.RedeemRequest(points=1, **facts)),
                ("PointsService/GetBalance", points_pb2.GetBalanceRequest(member_id=member_id)),
                ("PointsService/ListHistory", points_pb2.ListHistoryRequest(member_id=member_id)),
                ("MemberService/FindMember", member_pb2.FindMemberRequest(identifier=found)),
                ("MemberService/RegisterMember", newcomer()),
            )
        )

    def _start(self, method: str, request: Message) -> Any:
        call = self._channel.unary_unary(f"/loyalty.v1.{method}")
        return call(request.SerializeToString(), metadata=self._metadata, timeout=20)


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


async def at_rest(ops_port: int, database: Database) -> None:
    """Wait until the server does nothing any more; fails with what it still does."""
    found: dict[str, Any] = {}
    for _ in range(200):
        now = await figures(ops_port)
        found = {name: now[name] for name in AT_REST if now[name] != 0.0}
        if locks := await held(database):
            found["postgresql"] = locks
        if not found:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(found)


async def test_10_000_calls_given_up_leave_nothing_behind(
    settings: Settings, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    program = await new_program(database)
    key = await new_key(database, program, CallerKind.SERVICE)
    with process(settings) as (pid, ready):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ready['port']}") as channel:
            callers = Callers(channel, key)
            await callers.register()
            await callers.give_up(WARM_UP_CALLS)
            await at_rest(ready["ops_port"], database)
            before, files_before = resident(pid), open_files(pid)
            await callers.give_up(CALLS)
            await at_rest(ready["ops_port"], database)
            after, begun = resident(pid), await figures(ready["ops_port"])
            with capsys.disabled():
                print(f"\n{dict(callers.ended)}; {before:,} KiB before, {after:,} KiB after")
            # Some at every stage: before the server heard of them, in line, under way, answered.
            for code in ("CANCELLED", "OK"):
                name = "rpc_server_call_duration_seconds_count"
                labels = f'rpc_method="loyalty.v1.PointsService/Accrue",rpc_response_status_code="{code}"'
                assert begun[f"{name}{{{labels}}}"] > 10
            assert after - before < MOST_GROWTH_KIB
            assert open_files(pid) <= files_before
            await callers.register()
    checked = await asyncio.to_thread(
        run,
        "verify",
        LAUREL_DATABASE_URL=settings.database_url.get_secret_value(),
        LAUREL_SECRETS_FILE=str(settings.secrets_file),
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
