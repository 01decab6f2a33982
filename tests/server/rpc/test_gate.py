"""The gate as a client meets it: over a real connection, before real tables of keys."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode
from loyalty.v1 import member_pb2, points_pb2

from server.domain.actor import Actor, CallerKind, Login, StepUp
from server.domain.errors import FailedPrecondition, NotFound
from server.domain.limits import Limit, RateClass
from server.domain.program import Program
from server.operations import credentials
from server.operations.audit import Audit
from server.operations.credentials import Credentials
from server.operations.limits import Limits
from server.rpc.gate import Call, Gate
from server.rpc.handlers import UnknownMethods, guarded, methods
from server.store.database import Database, unavailable
from tests.support.programs import new_key, new_program
from tests.support.refusals import Refusal, read, refusal

POINTS = points_pb2.DESCRIPTOR.services_by_name["PointsService"]
MEMBER = "01890a5d-ac96-774b-bcce-b302099a8057"
OTHER = "01890a5d-ac96-774b-bcce-b302099a8058"
CACHE_SECONDS = 0.4
MAX_BYTES = 64 * 1024
Handler = Callable[[Any, Call], Awaitable[Message]]


class Points:
    """A PointsService that does as a test wishes and remembers what reached it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Message, Call]] = []
        self.behaviour: Handler | None = None

    def __getattr__(self, name: str) -> Handler:
        reply = GetMessageClass(POINTS.methods_by_name[name].output_type)

        async def handle(request: Message, call: Call) -> Message:
            self.calls.append((request, call))
            return await self.behaviour(request, call) if self.behaviour else reply()

        return handle


@dataclass
class Door:
    """A server with nothing but the gate and a PointsService behind it."""

    channel: grpc.aio.Channel
    database: Database
    program: Program
    points: Points
    gate: Gate
    keys: dict[CallerKind, str] = field(default_factory=dict)

    async def send(
        self,
        method: str,
        request: Message | bytes,
        key: str | CallerKind | None = CallerKind.SERVICE,
        **options: Any,
    ) -> bytes:
        """The reply's bytes to a request sent as it is."""
        key = self.keys[key] if isinstance(key, CallerKind) else key
        metadata = options.pop("metadata", ()) + ((("authorization", f"Bearer {key}"),) if key else ())
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        return await self.channel.unary_unary(f"/loyalty.v1.PointsService/{method}")(
            raw, metadata=metadata, **options
        )

    async def balance(self, key: str | CallerKind | None, **options: Any) -> bytes:
        return await self.send("GetBalance", points_pb2.GetBalanceRequest(member_id=MEMBER), key, **options)

    async def audited(self) -> list[tuple[str, list[str]]]:
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT method, member_ids FROM access_audit ORDER BY audit_id")
        return [(row[0], [str(member_id) for member_id in row[1]]) for row in rows]


@asynccontextmanager
async def door(
    database: Database, verifier: Any = None, recorder: Any = None, limits: Limits | None = None
) -> AsyncIterator[Door]:
    def clock() -> datetime:
        return datetime.now(UTC)

    async with AsyncExitStack() as opened:
        verifier = verifier or Credentials(database, clock, CACHE_SECONDS)
        gate = Gate(
            verifier,
            recorder or Audit(database, clock),
            limits,
            default_deadline=0.5,
            max_deadline=1.0,
            max_message_bytes=MAX_BYTES,
        )
        server = grpc.aio.server(options=(("grpc.max_receive_message_length", 4 * MAX_BYTES),))
        points = Points()
        server.add_generic_rpc_handlers([guarded(POINTS, methods(POINTS, points, gate)), UnknownMethods()])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        opened.push_async_callback(server.stop, None)
        channel = await opened.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        program = await new_program(database)
        made = Door(channel, database, program, points, gate)
        for kind in (CallerKind.TERMINAL, CallerKind.SERVICE, CallerKind.STAFF):
            made.keys[kind] = await new_key(database, program, kind)
        yield made


@pytest.fixture
async def gate(database: Database) -> AsyncIterator[Door]:
    async with door(database) as opened:
        yield opened


def assert_unauthenticated(refused: Refusal) -> None:
    assert (refused.code, refused.reason) == (StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")


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


async def limited(opened: Door, method: str, request: Message, key: str | CallerKind) -> list[Refusal]:
    """The refusals among ten calls; the limit is five, and none comes back while a test runs."""
    refused = []
    for _ in range(10):
        try:
            await opened.send(method, request, key)
        except grpc.aio.AioRpcError as error:
            refused.append(read(error))
    return refused


FIVE = Limit(rate=0.001, burst=5)


async def test_a_credential_calls_so_often_and_no_more_in_each_class(database: Database) -> None:
    limits = Limits(credential={RateClass.READ: FIVE})
    async with door(database, limits=limits) as opened:
        request = points_pb2.GetBalanceRequest(member_id=MEMBER)
        refused = await limited(opened, "GetBalance", request, CallerKind.SERVICE)
        assert [r.code for r in refused] == [StatusCode.RESOURCE_EXHAUSTED] * 5
        assert refused[0].reason == "RATE_LIMITED"
        assert refused[0].metadata == {"limit": "credential", "rate_class": "read"}
        assert refused[0].retry_seconds
        assert len(opened.points.calls) == 5
        assert not await limited(opened, "Accrue", points_pb2.AccrueRequest(), CallerKind.SERVICE)
        assert len(await limited(opened, "GetBalance", request, CallerKind.TERMINAL)) == 5


async def test_what_is_not_admitted_counts_against_the_credential_too(database: Database) -> None:
    async with door(database, limits=Limits(credential={RateClass.WRITE: FIVE})) as opened:
        refused = await limited(opened, "Accrue", points_pb2.AccrueRequest(), CallerKind.STAFF)
        assert [r.reason for r in refused] == ["CALLER_NOT_ADMITTED"] * 5 + ["RATE_LIMITED"] * 5


async def test_a_member_is_asked_about_so_often_whoever_asks_and_however_the_id_is_written(
    database: Database,
) -> None:
    async with door(database, limits=Limits(member={RateClass.READ: FIVE})) as opened:
        spellings = [MEMBER, MEMBER.upper(), MEMBER.replace("-", ""), f"{{{MEMBER}}}", f"urn:uuid:{MEMBER}"]
        for spelling, key in zip(spellings, [CallerKind.SERVICE, CallerKind.TERMINAL] * 3, strict=False):
            await opened.send("GetBalance", points_pb2.GetBalanceRequest(member_id=spelling), key)
        refused = await refusal(opened.balance(CallerKind.STAFF))
        assert (refused.reason, refused.metadata["limit"]) == ("RATE_LIMITED", "member")
        await opened.send("GetBalance", points_pb2.GetBalanceRequest(member_id=OTHER))


async def test_a_member_who_calls_counts_as_itself(database: Database) -> None:
    async with door(database, MembersToken(), limits=Limits(member={RateClass.READ: FIVE})) as opened:
        request = points_pb2.GetBalanceRequest(member_id=MEMBER)
        assert len(await limited(opened, "GetBalance", request, "token")) == 5


async def test_a_member_found_by_an_identifier_counts_once_it_is_found(database: Database) -> None:
    async with door(database, limits=Limits(member={RateClass.REDEEM: FIVE})) as opened:

        async def behaviour(request: Any, call: Call) -> Message:
            await call.count(UUID(MEMBER))
            return points_pb2.RedeemResponse()

        opened.points.behaviour = behaviour
        named = points_pb2.RedeemRequest(identifier={"card_number": "123"})
        by_id = points_pb2.RedeemRequest(member_id=MEMBER)
        for request in (named, by_id, named, by_id, named):
            await opened.send("Redeem", request)
        for request in (named, by_id):
            assert (await refusal(opened.send("Redeem", request))).reason == "RATE_LIMITED"


async def test_after_too_many_wrong_keys_a_peer_is_heard_with_known_keys_only(database: Database) -> None:
    async with door(database, limits=Limits(failures=FIVE)) as opened:
        await opened.balance(CallerKind.SERVICE)
        for _ in range(5):
            assert_unauthenticated(await refusal(opened.balance("lrl_" + "0" * 32 + "_" + "a" * 52)))
        for key in (None, "garbage", opened.keys[CallerKind.TERMINAL]):
            refused = await refusal(opened.balance(key))
            assert (refused.code, refused.metadata["limit"]) == (StatusCode.RESOURCE_EXHAUSTED, "peer")
        await opened.balance(CallerKind.SERVICE)


class NoRecord:
    """A record that can't be written."""

    async def record(self, *_: Any) -> None:
        raise unavailable()


async def test_staff_get_no_answer_that_can_not_be_recorded(database: Database) -> None:
    async with door(database, recorder=NoRecord()) as opened:
        refused = await refusal(opened.balance(CallerKind.STAFF))
        assert refused.code is StatusCode.UNAVAILABLE
        await opened.balance(CallerKind.SERVICE)


class MembersToken:
    """Takes everybody for the member MEMBER, logged in as said."""

    def __init__(self, acr: str = "1", auth_time: float | None = None) -> None:
        self.login = Login(acr, auth_time, StepUp(("3", "2"), max_age_seconds=300, redeem_points=500))

    async def verify(self, _key: str) -> Actor:
        scopes = frozenset({"points.read", "points.redeem"})
        return Actor(
            CallerKind.MEMBER,
            UUID(int=1),
            UUID(int=2),
            "m",
            "app",
            scopes,
            member_id=UUID(MEMBER),
            login=self.login,
        )


async def test_a_member_reaches_only_itself_and_all_else_gets_one_answer(database: Database) -> None:
    async with door(database, verifier=MembersToken()) as opened:
        await opened.balance("token")
        await opened.send("GetBalance", points_pb2.GetBalanceRequest(member_id=MEMBER.upper()), "token")
        answers = [
            await refusal(opened.send("GetBalance", points_pb2.GetBalanceRequest(member_id=other), "token"))
            for other in (OTHER, "not-an-id", "", "a\0")
        ]
        assert (answers[0].code, answers[0].reason) == (StatusCode.PERMISSION_DENIED, "OUT_OF_REACH")
        assert all(answer == answers[0] for answer in answers)
        assert len(opened.points.calls) == 2


async def test_a_member_spends_only_its_own_and_is_meant_by_its_id_alone(database: Database) -> None:
    async with door(database, verifier=MembersToken()) as opened:
        await opened.send("Redeem", points_pb2.RedeemRequest(member_id=MEMBER, points=1), "token")
        card = member_pb2.Identifier(card_number="1234")
        for request in (
            points_pb2.RedeemRequest(member_id=OTHER, points=1),
            points_pb2.RedeemRequest(identifier=card, points=1),
            points_pb2.RedeemRequest(points=1),
        ):
            assert (await refusal(opened.send("Redeem", request, "token"))).reason == "OUT_OF_REACH"
        assert len(opened.points.calls) == 1


@pytest.mark.parametrize(
    ("acr", "age", "points", "admitted"),
    [
        ("1", 1, 500, True),
        ("1", None, 500, True),
        ("1", 1, 501, False),
        ("2", 1, 501, True),
        ("3", 200, 10**12, True),
        ("2", 301, 501, False),
        ("2", None, 501, False),
        ("", 1, 501, False),
    ],
)
async def test_spending_much_takes_a_login_that_is_both_strong_and_recent(
    database: Database, acr: str, age: float | None, points: int, admitted: bool
) -> None:
    auth_time = None if age is None else time.time() - age
    async with door(database, verifier=MembersToken(acr, auth_time)) as opened:
        call = opened.send("Redeem", points_pb2.RedeemRequest(member_id=MEMBER, points=points), "token")
        if admitted:
            await call
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        refused = read(caught.value)
        assert (refused.code, refused.reason) == (StatusCode.UNAUTHENTICATED, "STEP_UP_REQUIRED")
        assert refused.metadata == {
            "error": "insufficient_user_authentication",
            "acr_values": "3 2",
            "max_age": "300",
        }
        trailing = dict(caught.value.trailing_metadata())
        assert trailing["www-authenticate"] == (
            'Bearer realm="laurel", error="insufficient_user_authentication", acr_values="3 2", max_age="300"'
        )
        assert not opened.points.calls


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
