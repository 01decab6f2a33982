"""A shop whose members log in at an issuer that the test has in hand, and the doors into it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from google.protobuf.struct_pb2 import Struct
from google.type.money_pb2 import Money
from loyalty.v1 import member_pb2, points_pb2, rules_pb2

from server.settings import Settings
from server.store.database import Database
from tests.support.doors import Answer, Door, Rest, doors
from tests.support.issuers import (
    SYSTEM,
    Loopback,
    configuration,
    entry,
)
from tests.support.programs import new_program
from tests.support.servers import Laurel, started

BALANCE = "PointsService/GetBalance"
REDEEM = "PointsService/Redeem"
TRANSFER = "PointsService/TransferPoints"
LIMIT = 500
POINTS = 100_000


class Shop:
    """A server that trusts an issuer, two members who can log in, and the doors."""

    def __init__(self, laurel: Laurel, issuer: Loopback, ways: dict[str, Door]) -> None:
        self.laurel, self.issuer, self.ways = laurel, issuer, ways
        self.a = self.b = ""
        self.earned = False

    async def join(self, subject: str) -> str:
        """A member with points, who logs in as ``subject``."""
        external = member_pb2.ExternalId(system=SYSTEM, id=subject)
        return await self.laurel.register(given_name=subject, external_ids=[external])

    def token(self, subject: str = "a", **claims: Any) -> str:
        return self.issuer.token(subject, **claims)

    async def earn(self) -> None:
        """Points for A, by a till; once."""
        if self.earned:
            return
        self.earned = True
        rule = Struct()
        rule.update(
            {
                "rule": "base",
                "type": "earn",
                "when": {"event": "PURCHASE"},
                "then": [{"earn": {"points": 1, "per": "1.00"}}],
            }
        )
        rules = self.laurel.service.rules
        made = await rules.CreateRule(rules_pb2.CreateRuleRequest(definition=rule))
        version = rules_pb2.RuleVersion(name=made.rule.name, version=made.rule.version)
        await rules.PublishRules(rules_pb2.PublishRulesRequest(publish=[version]))
        purchase = points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=self.a,
            order_reference=uuid4().hex,
            amount=Money(currency_code="INR", units=POINTS),
        )
        await self.laurel.terminal.points.Accrue(purchase)

    def calls(self) -> int:
        """How many calls the server has answered so far, whatever the answer."""
        metrics = self.laurel.server.telemetry.metrics if self.laurel.server.telemetry else ()
        durations = next(i for i in metrics if i.about.name == "rpc.server.call.duration")
        return sum(sum(series.counts) for series in durations.read().values())  # type: ignore[union-attr]

    def strong(self, age: float = 0.0) -> str:
        return self.token(acr="2", auth_time=int(time.time() - age))


@asynccontextmanager
async def shop(settings: Settings, database: Database, folder: Path, issuer: Loopback) -> AsyncIterator[Shop]:
    program = await new_program(database, step_up_redeem_points=LIMIT)
    file = configuration(folder / f"{uuid4().hex}.yaml", entry(issuer, program.name))
    # A thousand wrong tokens from one address are no reason to refuse the next, in these tests,
    # and how soon the last of them is looked at is none of theirs.
    patient = {"failure_limit": "", "default_deadline_seconds": 60.0}
    trusting = settings.model_copy(update={"oidc_file": str(file), **patient})
    async with started(trusting, database, program) as laurel, doors(laurel.server) as ways:
        made = Shop(laurel, issuer, ways)
        made.a, made.b = await made.join("a"), await made.join("b")
        yield made


def rest(here: Shop, way: str = "rest") -> httpx.AsyncClient:
    """For requests that no RPC is like."""
    door = here.ways[way]
    assert isinstance(door, Rest)
    return door.client


def redemption(member_id: str, points: int = 1, **more: Any) -> dict[str, Any]:
    return {"requestId": uuid4().hex, "memberId": member_id, "points": str(points), **more}


def invalid_token(answer: Answer) -> None:
    assert answer.kind == ("UNAUTHENTICATED", "CREDENTIAL_INVALID")
    assert answer.challenge == 'Bearer realm="laurel", error="invalid_token"'
