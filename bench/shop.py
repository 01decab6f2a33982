"""What is measured on: a program with 20 rules that earn, and members with points to spend."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf import json_format
from google.type import money_pb2
from loyalty.v1 import member_pb2, member_pb2_grpc, points_pb2, points_pb2_grpc, rules_pb2

from laurel.client import Client
from migrations import migrate
from server.domain.actor import CallerKind
from server.domain.program import Program, Tier
from server.ids import new_id
from server.operations import credentials
from server.rpc.access import declared_scopes
from server.store import programs
from server.store.database import Database

PROGRAM = Program(
    program_id=new_id(),
    name="bench",
    currency="INR",
    time_zone="Asia/Kolkata",
    tiers=(Tier("bronze", 0), Tier("silver", 1000), Tier("gold", 5000)),
)
STORE = "pune-1"
CHANNEL = "pos"
# Enough to redeem from for as long as anybody measures.
FIRST_PURCHASE = 10_000_000
# Who enrols waits on a machine that is busy with something else, and sends the same request again.
ENROLLING_AT_ONCE = 16
PATIENT = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.5s",
                "maxBackoff": "5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def purchase(*conditions: dict[str, Any]) -> dict[str, Any]:
    """The condition of a rule: a purchase of which all this holds."""
    return {"all": [{"event": "PURCHASE"}, *conditions]}


def equal(field: str, value: str) -> dict[str, Any]:
    """The condition that a field has this value."""
    return {"field": field, "op": "eq", "value": value}


def spent(amount: int) -> dict[str, Any]:
    """The condition that at least so much was spent."""
    return {"field": "amount", "op": "gte", "value": f"{amount}.00", "currency": "INR"}


def earning() -> list[dict[str, Any]]:
    """3 rules that a purchase of 500 rupees at the till of our store meets; one has a cap."""
    base = {
        "rule": "base",
        "type": "earn",
        "when": {"event": "PURCHASE"},
        "then": [{"earn": {"points": 20, "per": "100.00"}}],
    }
    double = {
        "rule": "double-at-the-till",
        "type": "earn",
        "priority": 10,
        "when": purchase(equal("channel", CHANNEL)),
        "then": [{"multiply": {"by": 2, "of": "base"}}],
        "caps": {"member": {"points": 1_000_000_000, "per": "day"}},
    }
    bonus = {
        "rule": "bonus",
        "type": "earn",
        "when": purchase(equal("store", STORE), spent(100)),
        "then": [{"fixed": {"points": 10}}],
    }
    return [base, double, bonus]


def rules() -> list[dict[str, Any]]:
    """20 rules that earn, 3 of them for every purchase here; and one that redeems."""
    others = [purchase(equal("channel", f"app-{n}")) for n in range(9)]
    others += [purchase(spent(20_000_000 + n)) for n in range(8)]
    unmet = [
        {"rule": f"unmet-{n}", "type": "earn", "when": when, "then": [{"fixed": {"points": 1}}]}
        for n, when in enumerate(others)
    ]
    worth = {
        "rule": "worth",
        "type": "redeem",
        "then": [{"value": {"points": 4, "money": "1.00", "currency": "INR"}}],
    }
    return [*earning(), *unmet, worth]


async def found(url: str) -> str:
    """Migrate the database and put the program into it; the key of a service."""
    await migrate(url, lambda line: None)
    database = await Database.open(url, connections=2)
    try:
        async with database.transaction() as connection:
            await programs.create(connection, PROGRAM)
        _, key = await credentials.create(
            database,
            PROGRAM.program_id,
            CallerKind.SERVICE,
            "bench",
            declared_scopes=declared_scopes(),
            now=datetime.now(UTC),
        )
    finally:
        await database.close()
    return key


def publish(address: str, key: str) -> None:
    """Put the rules in force."""
    with grpc.insecure_channel(address) as channel:
        client = Client(channel, key)
        versions = []
        for definition in rules():
            request = rules_pb2.CreateRuleRequest()
            json_format.ParseDict(definition, request.definition)
            rule = client.call(client.rules.CreateRule, request).rule
            versions.append(rules_pb2.RuleVersion(name=rule.name, version=rule.version))
        client.call(client.rules.PublishRules, rules_pb2.PublishRulesRequest(publish=versions))


async def enrol(address: str, key: str, number: int) -> list[str]:
    """The ids of so many members who have points to spend."""
    metadata = (("authorization", f"Bearer {key}"),)
    few = asyncio.Semaphore(ENROLLING_AT_ONCE)
    options = [("grpc.service_config", json.dumps(PATIENT))]
    async with grpc.aio.insecure_channel(address, options) as channel:
        members = member_pb2_grpc.MemberServiceStub(channel)
        points = points_pb2_grpc.PointsServiceStub(channel)

        async def one() -> str:
            async with few:
                member = member_pb2.Member(email=f"{uuid4().hex}@example.com")
                request = member_pb2.RegisterMemberRequest(request_id=uuid4().hex, member=member)
                reply = await members.RegisterMember(request, metadata=metadata)
                first = points_pb2.AccrueRequest(
                    request_id=uuid4().hex,
                    member_id=reply.member.member_id,
                    order_reference=uuid4().hex,
                    amount=money_pb2.Money(currency_code="INR", units=FIRST_PURCHASE),
                )
                await points.Accrue(first, metadata=metadata)
                return str(reply.member.member_id)

        return list(await asyncio.gather(*(one() for _ in range(number))))
