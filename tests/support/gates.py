"""A gate to knock at: over a real connection, before real tables of keys, with nothing behind it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode
from loyalty.v1 import points_pb2

from server.domain.actor import Actor, CallerKind, Login, StepUp
from server.domain.program import Program
from server.operations.audit import Audit
from server.operations.credentials import Credentials
from server.operations.limits import Limits
from server.rpc.gate import Call, Gate
from server.rpc.handlers import UnknownMethods, guarded, methods
from server.store.database import Database
from tests.support.programs import new_key, new_program
from tests.support.refusals import Refusal

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


def assert_unauthenticated(refused: Refusal) -> None:
    assert (refused.code, refused.reason) == (StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")
