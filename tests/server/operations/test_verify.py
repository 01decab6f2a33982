"""Whatever the owner of the database changes behind the servers' backs is found and named."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from uuid import UUID, uuid4

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2, rules_pb2
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.proof import Check, Finding
from server.operations.verify import Progress, Result, verify
from server.store import verify as store
from server.store.database import Connection
from tests.support import processes
from tests.support.servers import Laurel

IMMUTABLE = ("ledger_transaction", "allocation", "event_log", "business_key")
MUTABLE = ("wallet", "lot", "cap_usage", "member")


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


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """A program where a rupee is a point."""
    rule = {"rule": "base", "when": {"event": "PURCHASE"}, "then": [{"earn": {"points": 1, "per": "1.00"}}]}
    created = await laurel.service.rules.CreateRule(
        rules_pb2.CreateRuleRequest(definition=ParseDict(rule, Struct()))
    )
    version = rules_pb2.RuleVersion(name="base", version=created.rule.version)
    await laurel.service.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=[version]))
    return laurel


@pytest.fixture
async def customer(shop: Laurel) -> Customer:
    member_id = await shop.register()
    rows = [
        await earn(shop, member_id, 100),
        await earn(shop, member_id, 40),
        await spend(shop, member_id, 120),
        await earn(shop, member_id, 7),
    ]
    return Customer(shop.program.program_id, UUID(member_id), rows)


async def earn(shop: Laurel, member_id: str, points: int) -> UUID:
    request = points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=f"R-{uuid4().hex}",
        amount=Money(currency_code="INR", units=points),
    )
    return UUID((await shop.terminal.points.Accrue(request)).awards[0].transaction_id)


async def spend(shop: Laurel, member_id: str, points: int) -> UUID:
    request = points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=points)
    return UUID((await shop.terminal.points.Redeem(request)).transaction_id)


async def verified(shop: Laurel, most: int = 20) -> dict[Check, Result]:
    keys = secrets.load(shop.settings.secrets_file).ledger.keys
    return {
        step.check: step async for step in verify(shop.database, keys, most=most) if isinstance(step, Result)
    }


async def found_after(shop: Laurel, customer: Customer, tampering: str) -> dict[Check, list[Finding]]:
    """What is found after the owner of the database did that; it is undone afterwards.

    In ``tampering`` $m is the member and $1 to $4 are the rows.
    """
    for number, row in enumerate(customer.rows, 1):
        tampering = tampering.replace(f"${number}", f"'{row}'")
    tampering = tampering.replace("$m", f"'{customer.member_id}'")
    async with as_owner(shop) as connection:
        for table in (*IMMUTABLE, *MUTABLE):
            await connection.execute(f"CREATE TABLE kept_{table} AS TABLE {table}")
        await connection.execute(tampering)
    try:
        results = await verified(shop)
    finally:
        async with as_owner(shop) as connection:
            for table in (*IMMUTABLE, *MUTABLE):
                await connection.execute(f"DELETE FROM {table}")
                await connection.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE kept_{table}")
                await connection.execute(f"DROP TABLE kept_{table}")
    return {check: list(r.findings) for check, r in results.items() if r.faults}


@asynccontextmanager
async def as_owner(shop: Laurel) -> AsyncIterator[Connection]:
    """A transaction of somebody who may switch the triggers off."""
    async with shop.database.transaction() as connection:
        for table in IMMUTABLE:
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER immutable")
        yield connection
        for table in IMMUTABLE:
            await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER immutable")


async def test_what_servers_wrote_is_found_in_order(shop: Laurel, customer: Customer) -> None:
    results = await verified(shop)
    assert set(results) == set(Check)
    assert [r for r in results.values() if r.faults] == []
    assert results[Check.CHAIN].checked >= 4
    assert results[Check.ALLOCATIONS].checked >= 1


async def test_an_empty_program_is_in_order_and_progress_reaches_its_total(shop: Laurel) -> None:
    steps = [step async for step in verify(shop.database, {}, program_id=uuid7())]
    progress = [step for step in steps if isinstance(step, Progress)]
    assert progress[-1].done == progress[-1].total
    assert [step for step in steps if isinstance(step, Result) and (step.faults or step.checked)] == []


ROW = "ledger_transaction"
FORGED = f"""INSERT INTO {ROW} SELECT program_id, member_id, gen_random_uuid(), point_type, 5, kind, 5000,
             debit_account, credit_account, balance_after + 5000, occurred_at, recorded_at, event_id,
             event_type, order_reference, store, channel, source_system, actor, credential_id, reason,
             trace, key_id, hash, sha256('made up') FROM {ROW} WHERE transaction_id = $4"""


@pytest.mark.parametrize(
    ("tampering", "check", "row", "words"),
    [
        (f"UPDATE {ROW} SET points = 41 WHERE transaction_id = $2", Check.CHAIN, 2, "was changed"),
        (f"UPDATE {ROW} SET points = 41 WHERE transaction_id = $2", Check.RUNNING, 2, "the rows say 141"),
        (f"UPDATE {ROW} SET points = 41 WHERE transaction_id = $2", Check.EARNED_LOTS, 2, "earned 41"),
        (f"UPDATE {ROW} SET actor = 'nobody' WHERE transaction_id = $3", Check.CHAIN, 3, "was changed"),
        (f"UPDATE {ROW} SET trace = '{{}}' WHERE transaction_id = $1", Check.CHAIN, 1, "was changed"),
        (f"UPDATE {ROW} SET kind = 'GIFT' WHERE transaction_id = $2", Check.CHAIN, 2, "no server writes"),
        (f"UPDATE {ROW} SET occurred_at = 'infinity' WHERE transaction_id = $2", Check.CHAIN, 2, "no server"),
        (f"UPDATE {ROW} SET key_id = '9' WHERE transaction_id = $1", Check.CHAIN, 1, "not among the secrets"),
        (f"DELETE FROM {ROW} WHERE transaction_id = $2", Check.CHAIN, 3, "rows are missing"),
        (f"DELETE FROM {ROW} WHERE transaction_id = $4", Check.HEAD, 3, "points at sequence 4"),
        (
            f"""UPDATE {ROW} SET sequence = 9 WHERE transaction_id = $1;
                UPDATE {ROW} SET sequence = 1 WHERE transaction_id = $2;
                UPDATE {ROW} SET sequence = 2 WHERE transaction_id = $1""",
            Check.CHAIN,
            2,
            "does not follow the row before it",
        ),
        ("UPDATE wallet SET balance = 28 WHERE member_id = $m", Check.FIGURES, 4, "balance is 28"),
        ("UPDATE wallet SET balance = 28 WHERE member_id = $m", Check.WALLET_LOTS, 4, "the wallet holds 28"),
        ("UPDATE wallet SET balance = 28 WHERE member_id = $m", Check.TOTALS, None, "issued"),
        ("UPDATE wallet SET held = 1 WHERE member_id = $m", Check.FIGURES, 4, "held is 1"),
        ("UPDATE wallet SET lifetime = 9 WHERE member_id = $m", Check.FIGURES, 4, "lifetime is 9"),
        ("UPDATE wallet SET head_hash = '\\x00' WHERE member_id = $m", Check.HEAD, 4, "another hash"),
        ("DELETE FROM wallet WHERE member_id = $m", Check.HEAD, 4, "without a wallet"),
        (f"DELETE FROM {ROW} WHERE member_id = $m", Check.WALLETS, None, "has no rows"),
        ("UPDATE lot SET remaining = 30 WHERE transaction_id = $2", Check.DRAWN_LOTS, 2, "lacks 10 points"),
        ("UPDATE lot SET remaining = 30 WHERE transaction_id = $2", Check.WALLET_LOTS, 4, "its lots 37"),
        ("UPDATE lot SET expires_at = now() WHERE transaction_id = $1", Check.CHAIN, 1, "was changed"),
        ("DELETE FROM lot WHERE transaction_id = $1", Check.DRAWN_LOTS, 3, "which is gone"),
        ("UPDATE allocation SET points = 19 WHERE points = 20 AND member_id = $m", Check.CHAIN, 3, "changed"),
        (
            "UPDATE allocation SET points = 19 WHERE points = 20 AND member_id = $m",
            Check.ALLOCATIONS,
            3,
            "drew 119",
        ),
        (f"DELETE FROM {ROW} WHERE transaction_id = $2", Check.ORDERS, 2, "is gone"),
        ("DELETE FROM business_key WHERE transaction_ids = ARRAY[$2::uuid]", Check.ORDERED, 2, "again"),
        (f"DELETE FROM {ROW} WHERE transaction_id = $3", Check.EVENTS, None, "is gone"),
        (
            "DELETE FROM event_log WHERE payload ->> 'transaction_id' = $3",
            Check.LOGGED,
            3,
            "not in the log",
        ),
        (
            """UPDATE event_log SET payload = '{"transaction_ids": "x"}'
                WHERE payload -> 'transaction_ids' ->> 0 = $2""",
            Check.LOGGED,
            2,
            "does not name it",
        ),
        ("DELETE FROM member WHERE member_id = $m", Check.MEMBERS, 1, "whom there is not"),
    ],
)
async def test_tampering_is_found_and_the_first_bad_row_named(
    shop: Laurel, customer: Customer, tampering: str, check: Check, row: int | None, words: str
) -> None:
    findings = (await found_after(shop, customer, tampering))[check]
    places = [customer.row(f) for f in findings if f.member_id is not None]
    assert places[:1] == ([row] if findings[0].member_id is not None else [])
    assert words in findings[0].problem
    assert [r for r in (await verified(shop)).values() if r.faults] == []


async def test_a_forged_row_is_found(shop: Laurel, customer: Customer) -> None:
    found = await found_after(shop, customer, FORGED)
    (finding,) = found[Check.CHAIN]
    assert (finding.member_id, finding.sequence) == (customer.member_id, 5)
    assert "forged" in finding.problem


async def test_no_rule_has_given_less_than_nothing(shop: Laurel, customer: Customer) -> None:
    insert = "INSERT INTO cap_usage VALUES ($1, $2, 'base', 'day:2026-11-23', -5)"
    async with as_owner(shop) as connection:
        await connection.execute("ALTER TABLE cap_usage DROP CONSTRAINT cap_usage_points_check")
        await connection.execute(insert, customer.program_id, customer.member_id)
    try:
        (finding,) = (await verified(shop))[Check.CAPS].findings
    finally:
        async with as_owner(shop) as connection:
            await connection.execute("DELETE FROM cap_usage WHERE points < 0")
            check = "ADD CONSTRAINT cap_usage_points_check CHECK (points >= 0)"
            await connection.execute(f"ALTER TABLE cap_usage {check}")
    assert finding.member_id == customer.member_id
    assert "has given -5 points" in finding.problem


async def test_only_so_many_findings_are_kept_and_all_are_counted(shop: Laurel, customer: Customer) -> None:
    async with as_owner(shop) as connection:
        await connection.execute("CREATE TABLE kept AS TABLE member")
        await connection.execute("DELETE FROM member WHERE member_id = $1", customer.member_id)
    try:
        result = (await verified(shop, most=2))[Check.MEMBERS]
    finally:
        async with as_owner(shop) as connection:
            await connection.execute("INSERT INTO member TABLE kept ON CONFLICT DO NOTHING")
            await connection.execute("DROP TABLE kept")
    assert (result.faults, len(result.findings)) == (7, 2)  # four rows, three orders


async def test_a_wallet_is_followed_across_batches(
    shop: Laurel, customer: Customer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ROWS_AT_ONCE", 3)
    assert [r for r in (await verified(shop)).values() if r.faults] == []
    found = await found_after(shop, customer, f"UPDATE {ROW} SET points = 8 WHERE transaction_id = $4")
    assert [customer.row(f) for f in found[Check.CHAIN]] == [4]


async def test_the_command_names_what_is_wrong_and_fails(shop: Laurel, customer: Customer) -> None:
    settings = {
        "LAUREL_DATABASE_URL": shop.settings.database_url.get_secret_value(),
        "LAUREL_SECRETS_FILE": str(shop.settings.secrets_file),
    }
    command = partial(processes.run, "verify", "--program", shop.program.name, **settings)
    clean = await asyncio.to_thread(command)
    assert (clean.returncode, clean.stderr) == (0, "")
    assert "FAILED" not in clean.stdout
    async with as_owner(shop) as connection:
        await connection.execute(
            "UPDATE wallet SET lifetime = lifetime + 1 WHERE member_id = $1", customer.member_id
        )
    bad = await asyncio.to_thread(command)
    async with as_owner(shop) as connection:
        await connection.execute(
            "UPDATE wallet SET lifetime = lifetime - 1 WHERE member_id = $1", customer.member_id
        )
    assert bad.returncode == 1
    assert bad.stdout.count("FAILED") == 1
    (line,) = [line for line in bad.stdout.splitlines() if str(customer.member_id) in line]
    assert shop.program.name in line
    assert str(customer.rows[-1]) in line
    assert "the wallet's lifetime is 148; its rows sum to 147" in line
