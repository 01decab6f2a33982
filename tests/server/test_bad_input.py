"""Whatever comes in from outside gets the right answer, in time, and the next call is served."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.type import money_pb2
from loyalty.v1 import member_pb2, points_pb2

from laurel.stack.postgres import EmbeddedPostgres
from migrations import migrate
from server.settings import Settings
from server.store import locks
from server.store.database import Database
from tests.support.programs import settings_for
from tests.support.refusals import refusal
from tests.support.servers import Laurel, started
from tests.support.waiting import eventually

# Beyond any deadline in use here, on a busy machine too.
SOON = 20.0
ACCRUE = "/loyalty.v1.PointsService/Accrue"


def purchase(owner: str, **changes: Any) -> points_pb2.AccrueRequest:
    said: dict[str, Any] = {
        "request_id": uuid4().hex,
        "member_id": owner,
        "order_reference": uuid4().hex,
        "amount": money_pb2.Money(currency_code="INR", units=5),
    }
    return points_pb2.AccrueRequest(**{**said, **changes})


def raw(data: bytes) -> Callable[[Laurel, str], Awaitable[Any]]:
    """A call whose bytes are these."""

    async def call(laurel: Laurel, _: str) -> None:
        async with grpc.aio.insecure_channel(laurel.address) as channel:
            key = [("authorization", f"Bearer {laurel.terminal.key}")]
            await channel.unary_unary(ACCRUE)(data, metadata=key)

    return call


def said(**changes: Any) -> Callable[[Laurel, str], Awaitable[Any]]:
    """A purchase of which that is different."""
    return lambda laurel, member_id: laurel.terminal.points.Accrue(purchase(member_id, **changes))


def rupees(units: int, currency: str = "INR") -> dict[str, Any]:
    return {"amount": money_pb2.Money(currency_code=currency, units=units)}


BAD = {
    "unknown member": (said(member_id=str(uuid4())), "NOT_FOUND", "MEMBER_NOT_FOUND"),
    "negative amount": (said(**rupees(-5)), "INVALID_ARGUMENT", "INVALID_FIELD"),
    "wrong currency": (said(**rupees(5, "USD")), "INVALID_ARGUMENT", "CURRENCY_NOT_SUPPORTED"),
    "10 MB": (said(order_reference="x" * 10_000_000), "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE"),
    "undecodable": (raw(b"\xff" * 100), "INVALID_ARGUMENT", "UNDECODABLE_MESSAGE"),
    "text that is no UTF-8": (raw(b"\x0a\x02\xc3\x28"), "INVALID_ARGUMENT", "UNDECODABLE_MESSAGE"),
    "NUL": (said(order_reference="a\0b"), "INVALID_ARGUMENT", "INVALID_FIELD"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_bad_input_is_refused_in_time_and_the_next_call_is_served(laurel: Laurel, kind: str) -> None:
    call, code, reason = BAD[kind]
    member_id = await laurel.register()
    async with asyncio.timeout(SOON):
        refused = await refusal(call(laurel, member_id))
        assert (refused.code.name, refused.reason) == (code, reason)
        assert (await laurel.terminal.points.Accrue(purchase(member_id))).member_id == member_id


async def test_more_than_grpc_itself_takes_is_refused_without_our_details(laurel: Laurel) -> None:
    """Beyond four times the limit gRPC reads no further, so that nobody fills the memory."""
    member_id = await laurel.register()
    async with asyncio.timeout(SOON):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await laurel.terminal.points.Accrue(purchase(member_id, order_reference="x" * 17_000_000))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await laurel.terminal.points.Accrue(purchase(member_id))).member_id == member_id


async def test_what_is_past_its_deadline_is_answered_then_and_may_be_sent_again(
    settings: Settings, database: Database
) -> None:
    hurried = settings.model_copy(update={"default_deadline_seconds": 2.0})
    async with started(hurried, database) as laurel:
        member_id = await laurel.register()
        request = purchase(member_id)
        async with database.transaction() as connection:
            await locks.take(connection, [locks.member_lock(UUID(member_id))])
            async with asyncio.timeout(SOON):
                refused = await refusal(laurel.terminal.points.Accrue(request))
                assert (refused.code.name, refused.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
                other = await laurel.register()
                assert (await laurel.terminal.points.Accrue(purchase(other))).member_id == other
        first = await laurel.terminal.points.Accrue(request)
        assert await laurel.terminal.points.Accrue(request) == first


@pytest.fixture
def hanging(folder: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this test's own."""
    postgres = EmbeddedPostgres(folder / "hanging", durable=False, notify=lambda line: None)
    postgres.start()
    yield postgres
    postgres.stop()


@contextmanager
def stopped(postgres: EmbeddedPostgres) -> Iterator[None]:
    """While no process of it does anything, though all connections stay."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    pids = [postgres.pid, *(pid for pid, parent in pairs if parent == postgres.pid)]
    try:
        told(pids, signal.SIGSTOP)
        yield
    finally:
        told(pids, signal.SIGCONT)


def told(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def test_while_postgresql_hangs_calls_end_with_their_deadlines_and_then_all_goes_on(
    hanging: EmbeddedPostgres, redis_url: str, secrets_file: Path
) -> None:
    url = hanging.url("hanging")
    await migrate(url)
    database = await Database.open(url, connections=2)
    hurried = settings_for(url, redis_url, secrets_file, default_deadline_seconds=3.0)
    async with started(hurried, database) as laurel:
        member_id = await laurel.register()
        await laurel.terminal.points.Accrue(purchase(member_id))
        requests = [purchase(member_id) for _ in range(3)]

        def calls() -> list[Awaitable[Any]]:
            balance = points_pb2.GetBalanceRequest(member_id=member_id)
            newcomer = member_pb2.Member(email=f"{uuid4().hex}@example.com")
            register = member_pb2.RegisterMemberRequest(request_id=uuid4().hex, member=newcomer)
            return [
                *(laurel.terminal.points.Accrue(request) for request in requests),
                *(laurel.terminal.points.GetBalance(balance) for _ in range(10)),
                *(laurel.terminal.members.RegisterMember(register) for _ in range(10)),
            ]

        with stopped(hanging):
            for _ in range(2):
                async with asyncio.timeout(SOON):
                    ended = await asyncio.gather(*(refusal(call) for call in calls()))
                assert {refused.code.name for refused in ended} <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
        async with asyncio.timeout(2 * SOON):
            await eventually(lambda: served(laurel, member_id))
            for request in requests:
                assert await laurel.terminal.points.Accrue(request) == await laurel.terminal.points.Accrue(
                    request
                )
    await database.close()


async def served(laurel: Laurel, member_id: str) -> bool:
    """Whether a purchase is accepted."""
    try:
        await laurel.terminal.points.Accrue(purchase(member_id))
    except grpc.aio.AioRpcError:
        return False
    return True
