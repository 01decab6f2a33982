"""A shop whose ledger somebody tampers with who owns the database, and what is found then."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.type.money_pb2 import Money
from loyalty.v1 import holds_pb2, points_pb2, rules_pb2

from server import secrets
from server.domain.proof import Check, Finding
from server.operations.verify import Result, verify
from server.store.database import Connection
from tests.support.servers import Laurel

TABLES = (
    "ledger_transaction", "allocation", "event_log", "business_key", "request_key", "wallet", "lot", "hold",
    "refund", "returned_line", "cap_usage", "adjustment", "member",
)  # fmt: skip


@dataclass
class Customer:
    """A member with the ledger's rows: earned 100, earned 40, spent 120, earned 7."""

    program_id: UUID
    member_id: UUID
    rows: list[UUID]

    def row(self, finding: Finding) -> int | None:
        """Which of the rows a finding names, from 1."""
        assert (finding.program_id, finding.member_id) == (self.program_id, self.member_id)
        if finding.transaction_id is None:
            return None
        return self.rows.index(finding.transaction_id) + 1


async def open_shop(laurel: Laurel) -> Laurel:
    """The program of ``laurel``, where a rupee is a point from now on."""
    rule = {"rule": "base", "when": {"event": "PURCHASE"}, "then": [{"earn": {"points": 1, "per": "1.00"}}]}
    created = await laurel.service.rules.CreateRule(
        rules_pb2.CreateRuleRequest(definition=ParseDict(rule, Struct()))
    )
    version = rules_pb2.RuleVersion(name="base", version=created.rule.version)
    await laurel.service.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=[version]))
    return laurel


async def new_customer(shop: Laurel) -> Customer:
    """Somebody who earned and spent."""
    member_id = await shop.register()
    rows = [
        await earn(shop, member_id, 100),
        await earn(shop, member_id, 40),
        await spend(shop, member_id, 120),
        await earn(shop, member_id, 7),
    ]
    return Customer(shop.program.program_id, UUID(member_id), rows)


async def earn(shop: Laurel, member_id: str, points: int) -> UUID:
    """Buy for so many rupees; the row."""
    request = points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=f"R-{uuid4().hex}",
        amount=Money(currency_code="INR", units=points),
    )
    return UUID((await shop.terminal.points.Accrue(request)).awards[0].transaction_id)


async def spend(shop: Laurel, member_id: str, points: int) -> UUID:
    """Redeem; the row."""
    request = points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=points)
    return UUID((await shop.terminal.points.Redeem(request)).transaction_id)


@dataclass
class Reserved(Customer):
    """A member whose rows are: earned 100, earned 40, reserved 110, spent 30 of it, reserved 5, gave that up.

    ``holds``: the first is open, of 80 points in both lots, the second is over.
    """

    holds: list[UUID]


async def new_reserved(shop: Laurel) -> Reserved:
    """Somebody with a payment under way."""
    member_id = await shop.register()
    rows = [await earn(shop, member_id, 100), await earn(shop, member_id, 40)]
    holds = []
    for points in (110, 5):
        placed = await shop.terminal.holds.PlaceHold(
            holds_pb2.PlaceHoldRequest(request_id=uuid4().hex, member_id=member_id, points=points)
        )
        holds.append(UUID(placed.hold.hold_id))
        rows.append(UUID(placed.transaction_id))
    captured = await shop.terminal.holds.CaptureHold(
        holds_pb2.CaptureHoldRequest(request_id=uuid4().hex, hold_id=str(holds[0]), points=30, keep_rest=True)
    )
    await shop.terminal.holds.VoidHold(
        holds_pb2.VoidHoldRequest(request_id=uuid4().hex, hold_id=str(holds[1]))
    )
    rows.append(UUID(captured.transaction_id))
    page = await shop.terminal.points.ListHistory(points_pb2.ListHistoryRequest(member_id=member_id))
    rows.append(UUID(page.transactions[0].transaction_id))
    return Reserved(shop.program.program_id, UUID(member_id), rows, holds)


async def verified(shop: Laurel, **wishes: Any) -> dict[Check, Result]:
    """How each check ends; ``wishes`` as `verify` takes them."""
    keys = secrets.load(shop.settings.secrets_file).ledger.keys
    steps = verify(shop.database, keys, **wishes)
    return {step.check: step async for step in steps if isinstance(step, Result)}


async def found_after(
    shop: Laurel, customer: Customer, tampering: str, **wishes: Any
) -> dict[Check, list[Finding]]:
    """What `verify` finds after the owner of the database did that; it is undone afterwards."""
    async with tampered(shop, customer, tampering):
        results = await verified(shop, **wishes)
    return {check: list(r.findings) for check, r in results.items() if r.faults}


@asynccontextmanager
async def tampered(shop: Laurel, customer: Customer, tampering: str) -> AsyncIterator[None]:
    """The block sees what the owner of the database did; it is undone afterwards.

    In ``tampering`` $m is the member, $1 and so on are the rows, and $a and $b the holds if there are any.
    """
    for letter, hold in zip("ab", getattr(customer, "holds", ()), strict=False):
        tampering = tampering.replace(f"${letter}", f"'{hold}'")
    for number, row in enumerate(customer.rows, 1):
        tampering = tampering.replace(f"${number}", f"'{row}'")
    tampering = tampering.replace("$m", f"'{customer.member_id}'")
    async with as_owner(shop) as connection:
        for table in TABLES:
            await connection.execute(f"CREATE TABLE kept_{table} AS TABLE {table}")
        await connection.execute(tampering)
    try:
        yield
    finally:
        async with as_owner(shop) as connection:
            for table in TABLES:
                await connection.execute(f"DELETE FROM {table}")
                await connection.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE kept_{table}")
                await connection.execute(f"DROP TABLE kept_{table}")


@asynccontextmanager
async def as_owner(shop: Laurel) -> AsyncIterator[Connection]:
    """A transaction of somebody who may switch the triggers off."""
    async with shop.database.transaction() as connection:
        for table in TABLES:
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        yield connection
        for table in TABLES:
            await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
