"""The gate as a client meets it: over a real connection, before real tables of keys."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode
from loyalty.v1 import points_pb2

from server.domain.actor import CallerKind
from server.domain.errors import FailedPrecondition, NotFound
from server.operations import credentials
from server.rpc.gate import Call, Gate
from server.rpc.handlers import methods
from server.store.database import Database, unavailable
from tests.support.gates import (
    CACHE_SECONDS,
    MAX_BYTES,
    MEMBER,
    OTHER,
    POINTS,
    Door,
    MembersToken,
    assert_unauthenticated,
    door,
)
from tests.support.programs import new_key
from tests.support.refusals import refusal


@pytest.fixture
async def gate(database: Database) -> AsyncIterator[Door]:
    async with door(database) as opened:
        yield opened


async def test_who_holds_a_key_is_told_to_the_handler(gate: Door) -> None:
    await gate.balance(CallerKind.TERMINAL)
    ((request, call),) = gate.points.calls
    assert request == points_pb2.GetBalanceRequest(member_id=MEMBER)
    assert call.actor.kind is CallerKind.TERMINAL
    assert call.actor.program_id == gate.program.program_id
    assert call.actor.source_system == "pos"
    assert call.method == "loyalty.v1.PointsService.GetBalance"


async def test_a_key_may_come_in_a_header_of_its_own(gate: Door) -> None:
    await gate.balance(None, metadata=(("x-api-key", gate.keys[CallerKind.TERMINAL]),))
    await gate.balance(None, metadata=(("authorization", f"bearer  {gate.keys[CallerKind.TERMINAL]}"),))
    assert len(gate.points.calls) == 2


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer "),),
        (("authorization", "Basic bHJs"),),
        (("authorization", "Bearer garbage"),),
        (("authorization", "Bearer lrl_" + "0" * 32 + "_" + "a" * 52),),
        (("authorization", "Bearer lrl_" + "g" * 32 + "_" + "a" * 52),),
        (("authorization", "Bearer lrl__" + "_" * 84),),
        (("authorization", "Bearer " + "a" * 6000),),
        (("x-api-key", "lrl_"),),
        (("x-member-id", MEMBER),),
    ],
)
async def test_nobody_gets_in_without_a_key(gate: Door, metadata: Any) -> None:
    assert_unauthenticated(await refusal(gate.balance(None, metadata=metadata)))
    assert not gate.points.calls


async def test_a_key_with_a_wrong_secret_is_as_good_as_none(gate: Door) -> None:
    key = gate.keys[CallerKind.SERVICE]
    wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert_unauthenticated(await refusal(gate.balance(wrong)))
    assert_unauthenticated(await refusal(gate.balance(key + "a")))
    assert_unauthenticated(await refusal(gate.balance(key.upper())))


async def test_two_different_keys_at_once_are_refused(gate: Door) -> None:
    both = (("x-api-key", gate.keys[CallerKind.STAFF]),)
    assert_unauthenticated(await refusal(gate.balance(CallerKind.SERVICE, metadata=both)))


async def test_who_has_no_key_learns_nothing_from_what_they_send(gate: Door) -> None:
    answers = [
        await refusal(gate.send("GetBalance", raw, None))
        for raw in (b"\xff", b"", points_pb2.GetBalanceRequest(member_id=MEMBER), b"\0" * 1000)
    ]
    assert len({(a.code, a.message, a.reason) for a in answers}) == 1
    assert_unauthenticated(answers[0])


async def test_an_expired_key_is_refused_at_that_moment_though_it_was_cached(gate: Door) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=0.3)
    key = await new_key(gate.database, gate.program, CallerKind.SERVICE, expires_at=expires_at)
    await gate.balance(key)
    await asyncio.sleep((expires_at - datetime.now(UTC)).total_seconds() + 0.01)
    assert_unauthenticated(await refusal(gate.balance(key)))


async def test_a_revoked_key_is_refused_once_the_cache_has_forgotten_it(gate: Door) -> None:
    key = await new_key(gate.database, gate.program, CallerKind.SERVICE, name="till-7")
    await gate.balance(key)
    await credentials.revoke(gate.database, gate.program.program_id, "till-7", datetime.now(UTC))
    await asyncio.sleep(CACHE_SECONDS + 0.01)
    assert_unauthenticated(await refusal(gate.balance(key)))


async def test_a_kind_of_caller_that_is_not_declared_is_not_admitted(gate: Door) -> None:
    refused = await refusal(gate.send("Accrue", points_pb2.AccrueRequest(), CallerKind.STAFF))
    assert (refused.code, refused.reason) == (StatusCode.PERMISSION_DENIED, "CALLER_NOT_ADMITTED")
    assert refused.metadata["method"] == "loyalty.v1.PointsService.Accrue"
    assert not gate.points.calls


async def test_a_key_reaches_no_further_than_its_scopes(gate: Door) -> None:
    key = await new_key(gate.database, gate.program, CallerKind.SERVICE, scopes=["points.read"])
    await gate.balance(key)
    refused = await refusal(gate.send("Redeem", points_pb2.RedeemRequest(), key))
    assert (refused.code, refused.reason) == (StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert refused.metadata == {"scope": "points.redeem"}


async def test_the_till_of_a_store_speaks_for_that_store_only(gate: Door) -> None:
    key = await new_key(gate.database, gate.program, CallerKind.TERMINAL, store_id="pune-1")
    for store in ("pune-1", ""):
        await gate.send("Accrue", points_pb2.AccrueRequest(store=store), key)
    assert gate.points.calls[1][1].actor.store == "pune-1"
    refused = await refusal(gate.send("Accrue", points_pb2.AccrueRequest(store="pune-2"), key))
    assert (refused.code, refused.reason) == (StatusCode.PERMISSION_DENIED, "STORE_NOT_ALLOWED")
    assert len(gate.points.calls) == 2


async def test_a_key_without_a_store_speaks_for_any(gate: Door) -> None:
    await gate.send("Accrue", points_pb2.AccrueRequest(store="pune-2"), CallerKind.TERMINAL)
    assert len(gate.points.calls) == 1


@pytest.mark.parametrize("raw", [b"\xff\xff", b"\x0a\x24short", b"\x0a\x02\xc3\x28"])
async def test_bytes_that_are_no_message_are_the_callers_mistake(gate: Door, raw: bytes) -> None:
    refused = await refusal(gate.send("GetBalance", raw))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "UNDECODABLE_MESSAGE")
    assert not gate.points.calls


async def test_an_oversized_message_is_refused_by_name(gate: Door) -> None:
    refused = await refusal(gate.send("GetBalance", b"\0" * (MAX_BYTES + 1)))
    assert (refused.code, refused.reason) == (StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert refused.metadata == {"limit_bytes": str(MAX_BYTES)}


async def test_ten_megabytes_are_refused_before_they_are_read_and_the_connection_lives(gate: Door) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gate.send("GetBalance", b"\0" * 10 * 1024 * 1024)
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
    await gate.balance(CallerKind.SERVICE)


async def test_a_call_without_a_deadline_gets_one(gate: Door) -> None:
    gate.points.behaviour = forever
    began = time.monotonic()
    async with asyncio.timeout(5):
        refused = await refusal(gate.balance(CallerKind.SERVICE))
    assert (refused.code, refused.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert time.monotonic() - began > 0.4


async def test_an_absurd_deadline_is_cut(gate: Door) -> None:
    gate.points.behaviour = forever
    began = time.monotonic()
    async with asyncio.timeout(5):
        refused = await refusal(gate.balance(CallerKind.SERVICE, timeout=10**7))
    assert (refused.code, refused.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert time.monotonic() - began > 0.9


async def test_what_is_past_its_deadline_stops_working(gate: Door) -> None:
    stopped = asyncio.Event()

    async def behaviour(request: Message, call: Call) -> Message:
        try:
            return await forever(request, call)
        finally:
            stopped.set()

    gate.points.behaviour = behaviour
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gate.balance(CallerKind.SERVICE, timeout=0.1)
    assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        await stopped.wait()


async def test_a_method_that_no_contract_has_is_unimplemented(gate: Door) -> None:
    for path in ("/loyalty.v1.PointsService/Mint", "/no.such.Service/At/All", "/nothing"):
        refused = await refusal(gate.channel.unary_unary(path)(b""))
        assert (refused.code, refused.reason) == (StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")


async def test_a_fault_tells_the_caller_a_number_and_nothing_else(
    gate: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    async def behaviour(_request: Message, _call: Call) -> Message:
        raise KeyError("asha@example.com")

    gate.points.behaviour = behaviour
    refused = await refusal(gate.balance(CallerKind.SERVICE))
    assert (refused.code, refused.message) == (StatusCode.INTERNAL, "internal error")
    written = "".join(capsys.readouterr())
    assert refused.metadata["incident"] in written
    assert "KeyError" in written
    assert "asha" not in written


async def test_a_handlers_refusal_reaches_the_caller_whole(gate: Door) -> None:
    async def behaviour(_request: Message, _call: Call) -> Message:
        raise unavailable()

    gate.points.behaviour = behaviour
    refused = await refusal(gate.balance(CallerKind.SERVICE))
    assert (refused.code, refused.reason) == (StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert refused.retry_seconds == 1.0


async def test_staff_leave_a_trace_of_whom_they_looked_at(gate: Door) -> None:
    async def behaviour(_request: Message, call: Call) -> Message:
        call.touched += [UUID(OTHER), UUID(MEMBER), UUID(OTHER)]
        return points_pb2.GetBalanceResponse()

    before = await gate.audited()
    await gate.balance(CallerKind.STAFF)
    gate.points.behaviour = behaviour
    await gate.balance(CallerKind.STAFF)
    await gate.balance(CallerKind.SERVICE)
    method = "loyalty.v1.PointsService.GetBalance"
    assert (await gate.audited())[len(before) :] == [(method, [MEMBER]), (method, [OTHER, MEMBER])]


async def test_a_refusal_that_tells_of_a_member_leaves_a_trace_and_one_that_does_not_leaves_none(
    gate: Door,
) -> None:
    async def absent(_request: Message, _call: Call) -> Message:
        raise NotFound("MEMBER_NOT_FOUND", "no such member")

    async def suspended(_request: Message, _call: Call) -> Message:
        raise FailedPrecondition("MEMBER_NOT_ACTIVE", "the member is suspended", {"status": "suspended"})

    before = len(await gate.audited())
    gate.points.behaviour = absent
    await refusal(gate.balance(CallerKind.STAFF))
    assert len(await gate.audited()) == before
    gate.points.behaviour = suspended
    await refusal(gate.balance(CallerKind.STAFF))
    assert len(await gate.audited()) == before + 1


class NoRecord:
    """A record that can't be written."""

    async def record(self, *_: Any) -> None:
        raise unavailable()


async def test_staff_get_no_answer_that_can_not_be_recorded(database: Database) -> None:
    async with door(database, recorder=NoRecord()) as opened:
        refused = await refusal(opened.balance(CallerKind.STAFF))
        assert refused.code is StatusCode.UNAVAILABLE
        await opened.balance(CallerKind.SERVICE)


async def test_a_till_is_asked_for_no_login(gate: Door) -> None:
    await gate.send("Redeem", points_pb2.RedeemRequest(points=10**12), CallerKind.TERMINAL)
    assert len(gate.points.calls) == 1


async def test_who_is_not_let_in_is_told_what_to_come_with(gate: Door) -> None:
    told = []
    for key in (None, "garbage"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gate.balance(key)
        told.append(dict(caught.value.trailing_metadata())["www-authenticate"])
    assert told == ['Bearer realm="laurel"', 'Bearer realm="laurel", error="invalid_token"']
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gate.send("Accrue", points_pb2.AccrueRequest(), CallerKind.STAFF)
    assert "www-authenticate" not in dict(caught.value.trailing_metadata())


async def test_abandoned_calls_leave_nothing_behind(gate: Door) -> None:
    await gate.balance(CallerKind.SERVICE)
    gate.points.behaviour = forever
    gc.collect()
    before = len(asyncio.all_tasks())
    for _ in range(50):
        call = gate.channel.unary_unary("/loyalty.v1.PointsService/GetBalance")(
            points_pb2.GetBalanceRequest(member_id=MEMBER).SerializeToString(),
            metadata=(("authorization", f"Bearer {gate.keys[CallerKind.SERVICE]}"),),
        )
        await asyncio.sleep(0)
        call.cancel()
    async with asyncio.timeout(0.4):  # less than the deadline that would end them anyway
        await asyncio.sleep(0.1)
        await gate.gate.idle()
    gc.collect()
    assert len(asyncio.all_tasks()) <= before


async def test_a_thousand_calls_are_counted_in_and_out(gate: Door) -> None:
    await asyncio.gather(*(gate.balance(CallerKind.SERVICE) for _ in range(1000)))
    assert gate.gate.under_way == 0


async def test_the_gate_refuses_a_servicer_that_lacks_a_method(database: Database) -> None:
    gate = Gate(MembersToken(), NoRecord())
    with pytest.raises(TypeError, match="Accrue"):
        methods(POINTS, object(), gate)


async def forever(_request: Message, _call: Call) -> Message:
    await asyncio.sleep(3600)
    raise AssertionError
