"""The largest, the smallest and the oddest values in every field of every call: none is a fault of ours."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from google.type import money_pb2
from loyalty.v1 import holds_pb2, points_pb2, rules_pb2

from server.domain.actor import CallerKind
from server.rpc.access import SERVICES, declarations, declared_scopes
from tests.support.messages import chosen, filled, give
from tests.support.published import publish
from tests.support.refusals import read
from tests.support.servers import Laurel

F = FieldDescriptor
CALLS = [
    pytest.param(method, id=f"{service.name}.{method.name}")
    for service in SERVICES
    for method in service.methods
    if not method.client_streaming and not method.server_streaming
]
FAULTS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE})
DEEPEST = 4
# What must be another in every request, and numbers that are not simply 1.
NEW = frozenset({"request_id", "order_reference", "reference"})
NUMBERS = {"year": 1990, "units": 5, "nanos": 0}

# Rules that look at times and amounts in every way.
RULES: list[dict[str, Any]] = [
    {
        "rule": "base",
        "when": {"event": "PURCHASE"},
        "then": [{"earn": {"points": 10, "per": "1.00"}}],
        "caps": {"member": [{"points": 10**9, "per": p} for p in ("event", "day", "week", "month", "year")]},
        "expire": {"years": 1},
    },
    {
        "rule": "evening",
        "when": {
            "any": [
                {"field": "member.days_since_joining", "op": "gte", "value": 0},
                {"field": "member.birthday_month", "op": "eq", "value": True},
                {"sum_items": {"of": "amount", "op": "gte", "value": 1}},
                {"sum_items": {"of": "quantity", "op": "gte", "value": 1}},
            ]
        },
        "then": [{"multiply": {"by": 3}}],
        "stacking": {"group": "evening", "mode": "best"},
        "active": {"from": "1971-01-01", "until": "2199-12-31", "hours": "22:00-20:00"},
        "pending": {"days": 3000},
    },
    {
        "rule": "stars",
        "when": {"field": "time.date", "op": "gte", "value": "2000-01-01"},
        "then": [{"fixed": {"points": 10**9}}],
        "expire": {"months": 1200},
    },
]
DEFINITION = {"rule": "own", "then": [{"fixed": {"points": 1}}]}


def whole(bits: int, signed: bool) -> list[int]:
    """The bounds of whole numbers, and what lies beside the bounds that ours have."""
    bounds = {-1, 0, 2**31, 10**12 + 1}
    first, last = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return sorted({n for n in bounds if first <= n <= last} | {first, last})


EXTREMES: dict[int, list[Any]] = {
    F.TYPE_INT32: whole(32, signed=True),
    F.TYPE_INT64: whole(64, signed=True),
    F.TYPE_UINT32: whole(32, signed=False),
    F.TYPE_UINT64: whole(64, signed=False),
    F.TYPE_DOUBLE: [math.nan, math.inf, -1e308, 5e-324],
    F.TYPE_ENUM: [99],
    F.TYPE_STRING: ["", "\0", "x" * 20_000, "\U0010ffff" * 60, "-1"],
    F.TYPE_BYTES: [b"", b"\0" * 20_000],
}
WHOLE: dict[str, list[Any]] = {
    "google.protobuf.Timestamp": [
        {"seconds": seconds, "nanos": nanos}
        for seconds in (-62135596800, -62135510400, -1, 0, 253402214399, 253402300799)
        for nanos in (0, 999_999_999)
    ],
    "google.type.Date": [
        {"year": 1, "month": 1, "day": 1},
        {"year": 1, "month": 1, "day": 2},
        {"year": 9999, "month": 12, "day": 31},
        {"year": 9999, "month": 12, "day": 30},
        {"year": 2023, "month": 2, "day": 29},
    ],
    "google.protobuf.Duration": [{"seconds": n} for n in (-315576000000, -1, 0, 315576000000)],
    "google.type.Money": [
        {"currency_code": "INR", "units": units, "nanos": nanos}
        for units, nanos in ((2**63 - 1, 999_999_999), (-(2**63), -999_999_999), (10**12, 0), (0, 1), (1, -1))
    ],
}


class World:
    """A member with something of everything, and requests about it that are mostly right."""

    def __init__(self, laurel: Laurel, known: dict[str, Any]) -> None:
        self.laurel = laurel
        self.known = known

    @classmethod
    async def made(cls, laurel: Laurel) -> "World":
        """With members of its own."""
        member_id = await laurel.register()
        purchase = await laurel.service.points.Accrue(
            points_pb2.AccrueRequest(
                request_id=uuid4().hex,
                member_id=member_id,
                order_reference=(order := uuid4().hex),
                amount=money_pb2.Money(currency_code="INR", units=500),
            )
        )
        redeemed = await laurel.service.points.Redeem(
            points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=10)
        )
        hold = await laurel.service.holds.PlaceHold(
            holds_pb2.PlaceHoldRequest(request_id=uuid4().hex, member_id=member_id, points=10)
        )
        return cls(
            laurel,
            {
                "member_id": member_id,
                "to_member_id": await laurel.register(),
                "merged_member_id": await laurel.register(),
                "transaction_id": redeemed.transaction_id,
                "hold_id": hold.hold.hold_id,
                "event_id": purchase.event_id,
                "order_reference": order,
                "currency_code": "INR",
                "point_type": "points",
                "paths": "given_name",
                "channels": "email",
                "country_code": "IN",
                "time_zone": "Asia/Kolkata",
                "subject": "",
                "html": "",
                "sku": "",
                "etag": "",
                "event_type": "STARS",
                "language_code": "en",
                "name": "base",
                "reason": "a test",
                "email": f"{uuid4().hex}@example.com",
                "occasion": "welcome",
                "channel": "sms",
                "url": "https://partner.example/hooks",
                "phone": "+919876543210",
                "card_numbers": "4711471147",
                "event_types": "points.*",
                "text": "hello",
                "line_id": "1",
            },
        )

    def request(self, kind: Descriptor, depth: int = 0) -> Any:
        """A message with every field set, but of each choice the first alone."""
        return filled(
            kind, lambda so_far, field: None if chosen(so_far, field) else self._usual(field, depth)
        )

    def put(self, message: Any, path: Sequence[FieldDescriptor], value: Any) -> None:
        """Set what stands at the path; of a list the first."""
        for field in path[:-1]:
            if field.is_repeated:
                part = getattr(message, field.name)
                message = part[0] if part else part.add()
            else:
                part = getattr(message, field.name)
                if not message.HasField(field.name):
                    part.CopyFrom(self.request(field.message_type))
                message = part
        field = path[-1]
        message.ClearField(field.name)
        give(message, field, value)

    def _usual(self, field: FieldDescriptor, depth: int) -> Any:
        if field.type == F.TYPE_STRING:
            return self._usual_text(field)
        if field.type == F.TYPE_MESSAGE:
            return self._usual_message(field, depth)
        if field.type == F.TYPE_ENUM:
            return field.enum_type.values[-1].number
        usual: dict[int, Any] = {F.TYPE_BOOL: field.name != "from_household", F.TYPE_BYTES: b"x"}
        return usual.get(field.type, NUMBERS.get(field.name, 1))

    def _usual_text(self, field: FieldDescriptor) -> str:
        if field.name in NEW and field.containing_type.name.endswith("Request"):
            return uuid4().hex
        if field.name.endswith(("_id", "_ids")) and field.name not in self.known:
            return str(uuid4())
        return str(self.known.get(field.name, "" if field.name.endswith(("token", "_type")) else "other"))

    def _usual_message(self, field: FieldDescriptor, depth: int) -> Any:
        kind = field.message_type
        if kind.GetOptions().map_entry or depth == DEEPEST:
            return None
        if kind.full_name == "google.protobuf.Struct":
            says = DEFINITION if field.name in ("definition", "drafts") else {"stars": 5.0}
            return ParseDict(says, Struct())
        if kind.full_name == "google.protobuf.Timestamp":
            message = GetMessageClass(kind)()
            message.FromDatetime(
                datetime.now(UTC) + timedelta(days=3000 if field.name == "expire_time" else 0)
            )
            return None if field.name in ("occur_time", "as_of_time") else message
        return self.request(kind, depth + 1)


def odd(world: World, method: MethodDescriptor) -> Iterator[tuple[str, Any]]:
    """Requests in which one field is extreme, each with what that is."""
    for path, value in places(method.input_type, ()):
        request = world.request(method.input_type)
        world.put(request, path, value)
        yield f"{'.'.join(field.name for field in path)}: {str(value)[:50]}", request


def places(kind: Descriptor, above: tuple[FieldDescriptor, ...]) -> Iterator[tuple[Any, Any]]:
    """Every field, also of the messages within, with each of its extremes."""
    for field in kind.fields:
        path = (*above, field)
        if field.type in EXTREMES:
            yield from ((path, value) for value in EXTREMES[field.type])
        elif field.type == F.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
            name = field.message_type.full_name
            if name == "google.protobuf.Struct":
                yield from ((path, structure(field, value)) for value in EXTREMES[F.TYPE_DOUBLE])
                continue
            for values in WHOLE.get(name, []):
                yield path, GetMessageClass(field.message_type)(**values)
            if len(path) < DEEPEST:
                yield from places(field.message_type, path)


def structure(field: FieldDescriptor, value: float) -> Struct:
    """A rule, or what an event says about itself, with that number in it."""
    odd = Struct()
    if field.name in ("definition", "drafts"):
        odd.update({"rule": "own", "priority": value, "then": [{"fixed": {"points": value}}]})
    else:
        odd.update({"stars": value})
    return odd


@pytest.fixture(scope="module")
async def ruled(laurel: Laurel) -> Laurel:
    """A server whose program has rules and a type of event of its own."""
    stars = rules_pb2.EventType(name="STARS")
    stars.attributes["stars"] = "number"
    await laurel.service.rules.CreateEventType(rules_pb2.CreateEventTypeRequest(event_type=stars))
    await publish(laurel, *RULES)
    return laurel


@pytest.mark.parametrize("method", CALLS)
async def test_no_value_of_any_field_is_a_fault_of_ours(ruled: Laurel, method: MethodDescriptor) -> None:
    world = await World.made(ruled)
    admitted = declarations(method.containing_service)[method.name].callers
    scopes = sorted(scope for scope in declared_scopes() if scope)
    callers = {
        CallerKind.SERVICE: ruled.service.key,
        CallerKind.STAFF: await ruled.new_key(CallerKind.STAFF, name=uuid4().hex, scopes=scopes),
        CallerKind.TERMINAL: ruled.terminal.key,
    }
    metadata = [("authorization", f"Bearer {next(key for kind, key in callers.items() if kind in admitted)}")]
    faults, codes = [], Counter[str]()
    async with grpc.aio.insecure_channel(ruled.address) as channel:
        call = channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
        for what, request in odd(world, method):
            try:
                await call(request.SerializeToString(), metadata=metadata, timeout=20)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1
                read(error)
                if error.code() in FAULTS:
                    faults.append(f"{what}: {error.code().name}")
    assert faults == []
    assert codes.total() == 0 or codes["PERMISSION_DENIED"] < codes.total()
