"""Whatever the owner of the database changes behind the servers' backs is found and named."""

import asyncio
from functools import partial
from uuid import uuid4

import pytest
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2
from uuid_utils.compat import uuid7

from server.domain.proof import Check
from server.operations.verify import Progress, Result, verify
from server.store import chains
from tests.support import processes
from tests.support.servers import Laurel
from tests.support.tampering import (
    Customer,
    Reserved,
    as_owner,
    found_after,
    new_reserved,
    verified,
)

OF_FILES = {Check.CHECKPOINT_FILE, Check.CHECKPOINTS}


@pytest.fixture
async def reserved(shop: Laurel) -> Reserved:
    return await new_reserved(shop)


async def test_what_servers_wrote_is_found_in_order(shop: Laurel, customer: Customer) -> None:
    results = await verified(shop)
    assert set(results) == set(Check) - OF_FILES
    assert [r for r in results.values() if r.faults] == []
    assert results[Check.CHAIN].checked >= 4
    assert results[Check.ALLOCATIONS].checked >= 1


async def test_an_empty_program_is_in_order_and_progress_reaches_its_total(shop: Laurel) -> None:
    steps = [step async for step in verify(shop.database, {}, program_id=uuid7())]
    progress = [step for step in steps if isinstance(step, Progress)]
    assert progress[-1].done == progress[-1].total
    results = [step for step in steps if isinstance(step, Result)]
    assert [r.check for r in results if r.checked] == [Check.GUARDS]
    assert [r for r in results if r.faults] == []


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
        (f"UPDATE {ROW} SET points = 41 WHERE transaction_id = $2", Check.EARNED_LOTS, 2, "brought in 41"),
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
            "says of which of 119",
        ),
        (f"DELETE FROM {ROW} WHERE transaction_id = $2", Check.ORDERS, 2, "is gone"),
        ("DELETE FROM business_key WHERE transaction_ids = ARRAY[$2::uuid]", Check.ORDERED, 2, "again"),
        (
            "DELETE FROM request_key WHERE reply #>> '{awards,0,0}' = replace($3, '-', '')",
            Check.REMEMBERED,
            3,
            "it would be done again",
        ),
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


HOLD = "UPDATE hold SET"


@pytest.mark.parametrize(
    ("tampering", "check", "row", "words"),
    [
        (f"{HOLD} points = 120 WHERE hold_id = $a", Check.HELD, 3, "is 120 points, 80 open"),
        (f"{HOLD} points = 120 WHERE hold_id = $a", Check.HELD, 3, "say 110 points, 80 open"),
        (f"{HOLD} open_points = 70 WHERE hold_id = $a", Check.HELD, 3, "70 open"),
        (
            f"{HOLD} open_points = 70 WHERE hold_id = $a",
            Check.HOLDS,
            None,
            "80 are held, open holds reserve 70",
        ),
        (f"{HOLD} captured = 29 WHERE hold_id = $a", Check.HELD, 3, "29 captured"),
        (
            f"{HOLD} status = 'voided', open_points = 0 WHERE hold_id = $a",
            Check.HOLDS,
            None,
            "80 are held, open holds reserve 0",
        ),
        (f"{HOLD} status = 'captured' WHERE hold_id = $b", Check.HELD, 4, "0 captured, captured, until"),
        (f"{HOLD} expires_at = expires_at + interval '1 y' WHERE hold_id = $a", Check.HELD, 3, "open, until"),
        (f"{HOLD} shares = '[]' WHERE hold_id = $a", Check.HELD, 3, "of lots"),
        (f"{HOLD} shares = '{{}}' WHERE hold_id = $a", Check.HELD, 3, "of lots"),
        (
            # Between the two lots of a hold: every sum stays as it was.
            f"""{HOLD} shares = jsonb_build_array(
                    jsonb_build_array(shares -> 0 -> 0, (shares -> 0 -> 1)::int - 1),
                    jsonb_build_array(shares -> 1 -> 0, (shares -> 1 -> 1)::int + 1)) WHERE hold_id = $a""",
            Check.HELD,
            3,
            "of lots",
        ),
        (f"{HOLD} member_id = gen_random_uuid() WHERE hold_id = $b", Check.HELD, 4, "of 5 points is gone"),
        ("DELETE FROM hold WHERE hold_id = $a", Check.HELD, 3, "of 110 points is gone"),
        ("DELETE FROM hold WHERE hold_id = $a", Check.HOLDS, None, "80 are held, open holds reserve 0"),
        ("DELETE FROM hold WHERE hold_id = $b", Check.HELD, 4, "of 5 points is gone"),
        (
            """INSERT INTO hold
               SELECT program_id, member_id, gen_random_uuid(), point_type, 9, 0, 0, 'voided',
                      expires_at, '[]'
                 FROM hold WHERE hold_id = $b""",
            Check.HELD,
            None,
            "of 9 points was never placed",
        ),
        (
            "UPDATE lot SET held = held - 1 WHERE transaction_id = $1 AND held > 0",
            Check.DRAWN_LOTS,
            1,
            "holds 69, 30 and 70 were allocated",
        ),
        (
            "UPDATE lot SET held = held - 1 WHERE transaction_id = $1 AND held > 0",
            Check.WALLET_LOTS,
            6,
            "80 of them held",
        ),
        (
            # From one lot to the other: the wallet's sum stays as it was.
            """UPDATE lot SET held = held - 1 WHERE transaction_id = $1;
               UPDATE lot SET held = held + 1 WHERE transaction_id = $2""",
            Check.DRAWN_LOTS,
            1,
            "holds 69",
        ),
    ],
)
async def test_tampering_with_holds_is_found_and_named(
    shop: Laurel, reserved: Reserved, tampering: str, check: Check, row: int | None, words: str
) -> None:
    findings = (await found_after(shop, reserved, tampering))[check]
    mine = [f for f in findings if f.member_id == reserved.member_id]
    assert [reserved.row(f) for f in mine[:1]] == [row]
    assert words in mine[0].problem, mine
    assert [r for r in (await verified(shop)).values() if r.faults] == []


async def test_a_forged_row_is_found(shop: Laurel, customer: Customer) -> None:
    found = await found_after(shop, customer, FORGED)
    (finding,) = found[Check.CHAIN]
    assert (finding.member_id, finding.sequence) == (customer.member_id, 5)
    assert "forged" in finding.problem


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
    monkeypatch.setattr(chains, "ROWS_AT_ONCE", 3)
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
    assert clean.returncode == 0
    assert clean.stderr == "no checkpoints to compare with: an end that was cut off goes unseen\n"
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


async def test_a_request_that_earned_nothing_and_is_forgotten_is_found(
    shop: Laurel, customer: Customer
) -> None:
    request = points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=str(customer.member_id),
        order_reference=uuid4().hex,
        amount=Money(currency_code="INR"),
    )
    assert not (await shop.terminal.points.Accrue(request)).awards
    forgotten = f"DELETE FROM request_key WHERE request_id = '{request.request_id}'"
    [finding] = (await found_after(shop, customer, forgotten))[Check.REMEMBERED]
    assert (finding.member_id, finding.transaction_id) == (customer.member_id, None)
    assert "not remembered" in finding.problem
