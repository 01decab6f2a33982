"""A server in this process, with a program, callers of each kind and their stubs."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any
from uuid import uuid4

import grpc
from loyalty.v1 import (
    adjustments_pb2_grpc,
    dead_letters_pb2_grpc,
    holds_pb2_grpc,
    households_pb2_grpc,
    member_pb2,
    member_pb2_grpc,
    notifications_pb2_grpc,
    points_pb2_grpc,
    reports_pb2_grpc,
    reviews_pb2_grpc,
    rules_pb2_grpc,
    schedules_pb2_grpc,
    webhooks_pb2_grpc,
)

from server.domain.actor import CallerKind
from server.domain.program import Program
from server.main import Server, running
from server.settings import Settings
from server.store.database import Database
from tests.support.programs import new_key, new_program


@dataclass(frozen=True)
class Caller:
    """One holder of a key, and the services as that caller reaches them."""

    key: str
    members: "member_pb2_grpc.MemberServiceAsyncStub"
    points: "points_pb2_grpc.PointsServiceAsyncStub"
    rules: "rules_pb2_grpc.RulesServiceAsyncStub"
    holds: "holds_pb2_grpc.HoldServiceAsyncStub"
    adjustments: "adjustments_pb2_grpc.AdjustmentServiceAsyncStub"
    webhooks: "webhooks_pb2_grpc.WebhookServiceAsyncStub"
    reports: "reports_pb2_grpc.ReportServiceAsyncStub"
    reviews: "reviews_pb2_grpc.ReviewServiceAsyncStub"
    dead_letters: "dead_letters_pb2_grpc.DeadLetterServiceAsyncStub"
    notifications: "notifications_pb2_grpc.NotificationServiceAsyncStub"
    households: "households_pb2_grpc.HouseholdServiceAsyncStub"
    schedules: "schedules_pb2_grpc.ScheduleServiceAsyncStub"


class WithKey(grpc.aio.UnaryUnaryClientInterceptor):
    """Sends a key with every call."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", f"Bearer {self._key}"))
        return await continuation(details._replace(metadata=metadata), request)


@dataclass
class Laurel:
    """A running server and everything to talk to it."""

    server: Server
    settings: Settings
    database: Database
    program: Program
    terminal: Caller
    service: Caller
    staff: Caller
    _open: AsyncExitStack

    @property
    def address(self) -> str:
        """Where the server listens."""
        return f"127.0.0.1:{self.server.port}"

    async def caller(self, key: str = "", address: str = "") -> Caller:
        """The stubs of whoever holds ``key``, on a connection of their own; without one if empty."""
        interceptors = [WithKey(key)] if key else []
        channel = grpc.aio.insecure_channel(address or self.address, interceptors=interceptors)
        await self._open.enter_async_context(channel)
        return Caller(
            key,
            member_pb2_grpc.MemberServiceStub(channel),
            points_pb2_grpc.PointsServiceStub(channel),
            rules_pb2_grpc.RulesServiceStub(channel),
            holds_pb2_grpc.HoldServiceStub(channel),
            adjustments_pb2_grpc.AdjustmentServiceStub(channel),
            webhooks_pb2_grpc.WebhookServiceStub(channel),
            reports_pb2_grpc.ReportServiceStub(channel),
            reviews_pb2_grpc.ReviewServiceStub(channel),
            dead_letters_pb2_grpc.DeadLetterServiceStub(channel),
            notifications_pb2_grpc.NotificationServiceStub(channel),
            households_pb2_grpc.HouseholdServiceStub(channel),
            schedules_pb2_grpc.ScheduleServiceStub(channel),
        )

    async def new_key(self, kind: CallerKind, **wishes: Any) -> str:
        """A fresh key of the program; ``wishes`` as credentials.create takes them."""
        return await new_key(self.database, self.program, kind, **wishes)

    async def register(self, **profile: Any) -> str:
        """A new member's id; with an email that nobody else has, unless ``profile`` says otherwise."""
        request = member_pb2.RegisterMemberRequest(
            request_id=uuid4().hex,
            member=member_pb2.Member(**(profile or {"email": f"{uuid4().hex}@example.com"})),
        )
        return (await self.terminal.members.RegisterMember(request)).member.member_id


@asynccontextmanager
async def started(
    settings: Settings, database: Database, program: Program | None = None
) -> AsyncIterator[Laurel]:
    """A server with ``settings``, and callers of ``program`` or of a new one."""
    program = program or await new_program(database)
    async with AsyncExitStack() as opened, running(settings) as server:
        nobody = Caller("", *[None] * (len(fields(Caller)) - 1))
        laurel = Laurel(server, settings, database, program, nobody, nobody, nobody, opened)
        laurel.terminal = await laurel.caller(await laurel.new_key(CallerKind.TERMINAL))
        laurel.service = await laurel.caller(await laurel.new_key(CallerKind.SERVICE))
        laurel.staff = await laurel.caller(await laurel.new_key(CallerKind.STAFF))
        yield laurel
        await opened.aclose()
