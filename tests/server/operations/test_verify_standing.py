"""What decisions look at beside the ledger's rows: whoever edits it behind the servers' backs is found."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from google.type.money_pb2 import Money
from loyalty.v1 import adjustments_pb2, holds_pb2, member_pb2, movements_pb2, points_pb2

from server.domain.actor import CallerKind
from server.domain.lots import Expiry, LotTerms, Until
from server.domain.program import LedgerTerms
from server.domain.proof import Check
from server.store import programs
from server.store.standing import IMMUTABLE, PERMANENT
from tests.support.published import publish
from tests.support.servers import Laurel
from tests.support.tampering import Customer, as_owner, found_after, verified

BASE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 1, "per": "1.00"}}],
    "caps": {"member": {"points": 1000, "per": "ever"}},
}
ROLLING = LotTerms(expiry=Expiry(Until.ROLLING_DAYS, 30))
NEW_YEAR = datetime(2035, 1, 1, tzinfo=UTC)
WAITING = LotTerms(activates_on="VISIT", expiry=Expiry(Until.DAYS, 3))


@dataclass
class Regular(Customer):
    """A member to whom everything has happened: rows by what they are, an open hold, adjustments.

    The first row earned 100 with a basket, the second spent 60 of it; the last two earned 50 each, the
    second of these waits for a visit. ``holds``: one, of 10 points. ``asked``: an adjustment that waits, one
    that was agreed to, one that wasn't.
    """

    holds: list[UUID]
    asked: list[UUID]
    merged_id: UUID


def once() -> dict[str, str]:
    """A request of its own."""
    return {"request_id": uuid4().hex}


async def terms(shop: Laurel, lots: LotTerms) -> None:
    """How points live from now on."""
    ledger = LedgerTerms(lots={"points": lots}, approval_points=100)
    async with shop.database.connection() as connection:
        await programs.set_ledger_terms(connection, shop.program.name, ledger)


async def buy(shop: Laurel, member_id: str, rupees: str, quantity: int = 1) -> points_pb2.AccrueResponse:
    """So many units of one thing."""
    amount = Money(currency_code="INR", units=int(Decimal(rupees)), nanos=int(Decimal(rupees) % 1 * 10**9))
    line = points_pb2.LineItem(sku="tea", quantity=quantity, amount=amount)
    request = points_pb2.AccrueRequest(
        **once(), member_id=member_id, order_reference=uuid4().hex, amount=amount, lines=[line]
    )
    return await shop.terminal.points.Accrue(request)


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """A rupee is a point, a thousand of them at most; a correction above a hundred takes two persons."""
    await publish(laurel, BASE)
    return laurel


@pytest.fixture(scope="module")
async def regular(shop: Laurel) -> Regular:
    """Everything happens once to somebody."""
    await terms(shop, ROLLING)
    till = shop.terminal
    anna, ben = [
        await shop.caller(
            await shop.new_key(CallerKind.STAFF, name=name, scopes=["points.adjust", "points.approve"])
        )
        for name in ("anna", "ben")
    ]
    member_id, merged_id = await shop.register(), await shop.register()
    await buy(shop, merged_id, "20")
    bought = await buy(shop, member_id, "100", quantity=4)
    spent = await till.points.Redeem(points_pb2.RedeemRequest(**once(), member_id=member_id, points=60))
    await till.points.RefundRedemption(
        movements_pb2.RefundRedemptionRequest(**once(), transaction_id=spent.transaction_id, points=10)
    )
    await till.points.ReturnPurchase(
        movements_pb2.ReturnPurchaseRequest(
            **once(),
            member_id=member_id,
            event_id=bought.event_id,
            items=[movements_pb2.ReturnItem(sku="tea", quantity=1)],
        )
    )
    nothing = await buy(shop, member_id, "0.50")
    await till.points.ReturnPurchase(
        movements_pb2.ReturnPurchaseRequest(**once(), member_id=member_id, event_id=nothing.event_id)
    )
    held = await till.holds.PlaceHold(
        holds_pb2.PlaceHoldRequest(**once(), member_id=member_id, points=10, time_limit_seconds=3600)
    )
    asked = [
        await anna.points.AdjustPoints(
            movements_pb2.AdjustPointsRequest(
                **once(), member_id=member_id, points=500, reason="a lost parcel", expire_time=NEW_YEAR
            )
        )
        for _ in range(3)
    ]
    pending, agreed, refused = (reply.adjustment_id for reply in asked)
    await ben.adjustments.ApproveAdjustment(
        adjustments_pb2.ApproveAdjustmentRequest(**once(), adjustment_id=agreed)
    )
    await ben.adjustments.RejectAdjustment(
        adjustments_pb2.RejectAdjustmentRequest(**once(), adjustment_id=refused, reason="no")
    )
    await shop.service.members.MergeMembers(
        member_pb2.MergeMembersRequest(
            **once(), member_id=member_id, merged_member_id=merged_id, reason="one"
        )
    )
    now = await buy(shop, member_id, "50")
    await terms(shop, WAITING)
    later = await buy(shop, member_id, "50")
    rows = [
        UUID(row)
        for row in (
            bought.awards[0].transaction_id,
            spent.transaction_id,
            now.awards[0].transaction_id,
            later.awards[0].transaction_id,
        )
    ]
    return Regular(
        shop.program.program_id,
        UUID(member_id),
        rows,
        [UUID(held.hold.hold_id)],
        [UUID(pending), UUID(agreed), UUID(refused)],
        UUID(merged_id),
    )


async def test_what_servers_wrote_is_found_in_order(shop: Laurel, regular: Regular) -> None:
    results = await verified(shop)
    assert [r for r in results.values() if r.faults] == []
    looked = {check: results[check].checked for check in (Check.REFUNDED, Check.RETURNED, Check.ADJUSTMENTS)}
    assert looked == {Check.REFUNDED: 1, Check.RETURNED: 2, Check.ADJUSTMENTS: 3}
    assert results[Check.ACTIVITIES].checked == 4


MINE = "WHERE member_id = $m"
EARNED = "event_type = 'points.earned' AND payload -> 'transaction_ids' ->> 0 = $1"
FIRST = "SELECT occurred_at FROM ledger_transaction WHERE transaction_id = $1"
ANSWERED = "reply #>> '{awards,0,0}'"
BOUGHT = f"{ANSWERED} = replace($1, '-', '')"
FIRST_TWO = "replace($1, '-', ''), replace($2, '-', '')"
PUT = "UPDATE event_log SET payload = jsonb_set(payload,"
TAMPERINGS: dict[str, tuple[str, Check, str]] = {
    "a refund is forgotten": (f"DELETE FROM refund {MINE}", Check.REFUNDED, "10 points of redemption"),
    "a refund is made smaller": (
        f"UPDATE refund SET points = 1 {MINE}",
        Check.REFUNDED,
        ", 1 are noted of 60",
    ),
    "a refund was never": (
        "INSERT INTO refund SELECT program_id, member_id, transaction_id, 1 FROM ledger_transaction "
        "WHERE transaction_id = $1",
        Check.REFUNDED,
        "0 points of redemption",
    ),
    "a return is forgotten": (
        f"DELETE FROM returned_line {MINE}", Check.RETURNED, "1 units of line",
    ),
    "more is back than came": (
        f"UPDATE returned_line SET quantity = 2 {MINE}", Check.RETURNED, "are back, 2 are noted",
    ),
    "a return is somebody else's": (
        f"UPDATE returned_line SET member_id = gen_random_uuid() {MINE}", Check.RETURNED, "whose it is not",
    ),
    "a refund is somebody else's": (
        f"UPDATE refund SET member_id = gen_random_uuid() {MINE}", Check.REFUNDED, "10 are noted",
    ),
    "an event tells of another return": (
        """UPDATE event_log SET payload = jsonb_set(payload, '{lines,0,2}', '2')
            WHERE member_id = $m AND event_type = 'points.returned'""",
        Check.RETURNED,
        "are back, 1 are noted",
    ),
    "the clock is stopped": (
        f"UPDATE wallet SET next_due = NULL {MINE}", Check.DUE, "it waits for nothing",
    ),
    "the clock is put off": (
        f"UPDATE wallet SET next_due = next_due + interval '1 hour' {MINE}", Check.DUE, "it waits until",
    ),
    "a member was active later": (
        f"UPDATE wallet SET active_at = active_at + interval '1 day' {MINE}",
        Check.ACTIVE,
        "was last active at",
    ),
    "a member was active before": (
        f"UPDATE wallet SET active_at = ({FIRST}) {MINE}",
        Check.ACTIVE,
        "was last active at",
    ),
    "a member was never active": (
        f"UPDATE wallet SET active_at = NULL {MINE}", Check.ACTIVE, "was last active never",
    ),
    "lots change places": (
        "UPDATE lot SET active = NOT active WHERE transaction_id IN ($3, $4)",
        Check.ACTIVE_LOTS,
        "its lot",
    ),
    "an adjustment grows": (
        "UPDATE adjustment SET points = 50000 WHERE adjustment_id = $p",
        Check.ADJUSTMENTS,
        "is of 50000 points",
    ),
    "an adjustment is somebody else's": (
        "UPDATE adjustment SET requested_by = 'staff:zoe' WHERE adjustment_id = $p",
        Check.ADJUSTMENTS,
        "asked by staff:zoe",
    ),
    "an adjustment goes to somebody else": (
        "UPDATE adjustment SET member_id = gen_random_uuid() WHERE adjustment_id = $p",
        Check.ADJUSTMENTS,
        "is of 500 points, for",
    ),
    "an adjustment lasts longer": (
        "UPDATE adjustment SET expires_at = now() WHERE adjustment_id = $p", Check.ADJUSTMENTS, "until",
    ),
    "an adjustment is to be agreed to again": (
        """UPDATE adjustment SET status = 'pending', decided_at = NULL, transaction_id = NULL
            WHERE adjustment_id = $q""",
        Check.ADJUSTMENTS,
        "approved as",
    ),
    "a refused adjustment waits again": (
        "UPDATE adjustment SET status = 'pending', decided_at = NULL WHERE adjustment_id = $r",
        Check.ADJUSTMENTS,
        "asked by staff:anna, a lost parcel, rejected",
    ),
    "an adjustment vanishes": (
        "DELETE FROM adjustment WHERE adjustment_id = $p", Check.ADJUSTMENTS, "is gone",
    ),
    "an adjustment nobody asked for": (
        """INSERT INTO adjustment
           SELECT program_id, gen_random_uuid(), member_id, point_type, points, expires_at, reason,
                  status, requested_by, requested_credential, requested_at, '', NULL, '', NULL
             FROM adjustment WHERE adjustment_id = $p""",
        Check.ADJUSTMENTS,
        "was never asked for",
    ),
    "a cap has room again": (
        f"UPDATE cap_usage SET points = points - 100 {MINE}", Check.CAPS, "rule base has given",
    ),
    "a cap is forgotten": (f"DELETE FROM cap_usage {MINE}", Check.CAPS, "0 are counted"),
    "a hold pays for another": (
        "UPDATE hold SET spender_id = gen_random_uuid() WHERE hold_id = $a", Check.HELD, "for ",
    ),
    "a hold lasts longer, and its event too": (
        """UPDATE hold SET expires_at = '2036-01-01Z' WHERE hold_id = $a;
           UPDATE event_log SET payload = jsonb_set(payload, '{until}', '"2036-01-01T00:00:00+00:00"')
            WHERE member_id = $m AND event_type = 'points.held'""",
        Check.HELD,
        "until 2036",
    ),
    "an order that earned nothing is forgotten": (
        f"DELETE FROM business_key {MINE} AND transaction_ids = '{{}}'",
        Check.ORDERED,
        "could be recorded again",
    ),
    "a request gets another answer": (
        """UPDATE request_key SET reply = jsonb_set(reply, '{awards,0,2}', '999')
            WHERE reply -> 'awards' -> 0 ->> 0 = replace($2, '-', '')""",
        Check.REQUESTS,
        "is answered with 999 points",
    ),
    "a request gets the answer of another": (
        f"""UPDATE request_key k SET reply = o.reply FROM request_key o
             WHERE k.{ANSWERED} IN ({FIRST_TWO}) AND o.{ANSWERED} IN ({FIRST_TWO}) AND k <> o""",
        Check.REQUESTS,
        "which is none of its rows",
    ),
    "a request is said to have brought more": (
        f"UPDATE request_key SET reply = jsonb_set(reply, '{{points}}', '101') WHERE {BOUGHT}",
        Check.REQUESTS,
        "101 points, its rows have 100",
    ),
    "a request is said to have left what there was later": (
        f"UPDATE request_key SET reply = jsonb_set(reply, '{{balance}}', '40') WHERE {BOUGHT}",
        Check.REQUESTS,
        "a balance of 40, which the wallet did not have",
    ),
    "a request that earned nothing is said to have left more": (
        """UPDATE request_key SET reply = jsonb_set(reply, '{balance}', '999')
            WHERE reply -> 'awards' = '[]'""",
        Check.REQUESTS,
        "a balance of 999",
    ),
    "a request that earned nothing is said to have been another": (
        """UPDATE request_key SET reply = jsonb_set(reply, '{event_id}', to_jsonb(repeat('0', 32)))
            WHERE reply -> 'awards' = '[]'""",
        Check.REQUESTS,
        "which did not come of it",
    ),
    "a request is said to have reserved for longer": (
        """UPDATE request_key SET reply = jsonb_set(reply, '{hold,6}', '"2036-01-01T00:00:00+00:00"')
            WHERE reply #>> '{hold,0}' = replace($a, '-', '')""",
        Check.REQUESTS,
        "which is another",
    ),
    "a request was somebody else's": (
        f"""UPDATE request_key SET reply = jsonb_set(reply, '{{member_id}}', to_jsonb(repeat('0', 32)))
             WHERE {BOUGHT}""",
        Check.REQUESTS,
        "which is none of its rows",
    ),
    "a purchase had more units": (
        f"{PUT} '{{activity,lines,0,3}}', '40') WHERE {EARNED}",
        Check.ACTIVITIES,
        "does not tell of what earned it",
    ),
    "a purchase was of something else": (
        f"{PUT} '{{activity,lines,0,1}}', '\"x\"') WHERE {EARNED}",
        Check.ACTIVITIES,
        "does not tell of what earned it",
    ),
    "a member bought less often": (
        f"UPDATE member SET purchases = 0 {MINE}", Check.COUNTED, "has 0 purchases",
    ),
    "a member took over more": (
        f"UPDATE member SET inherited = 9999 {MINE}", Check.COUNTED, "took over 9999 lifetime points",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERINGS)
async def test_tampering_is_found(shop: Laurel, regular: Regular, what: str) -> None:
    tampering, check, words = TAMPERINGS[what]
    for letter, adjustment in zip("pqr", regular.asked, strict=True):
        tampering = tampering.replace(f"${letter}", f"'{adjustment}'")
    found = (await found_after(shop, regular, tampering))[check]
    assert words in found[0].problem, found
    if "somebody else" not in what:
        assert found[0].member_id in (regular.member_id, None)
    assert [r for r in (await verified(shop)).values() if r.faults] == []


JSON: dict[str, Any] = {
    "nothing": None,
    "a list": [1],
    "text": "x",
    "an object": {"lines": 1},
    "a number": 1e300,
}


@pytest.mark.parametrize("shape", JSON)
async def test_no_shape_of_json_ends_a_verification(shop: Laurel, regular: Regular, shape: str) -> None:
    """Whatever traces, events and replies are made to hold, there are findings and no error."""
    value = json.dumps(JSON[shape])
    tampering = f"""UPDATE ledger_transaction SET trace = '{value}' {MINE};
                    UPDATE event_log SET payload = '{value}' {MINE};
                    UPDATE request_key SET reply = '{value}'"""
    assert Check.CHAIN in await found_after(shop, regular, tampering)


async def test_of_adjustments_of_old_nobody_knows_how_long_they_were_to_last(
    shop: Laurel, regular: Regular
) -> None:
    of_old = "UPDATE event_log SET payload = payload - 'expires_at' WHERE event_type = 'adjustment.requested'"
    assert await found_after(shop, regular, of_old) == {}


async def test_a_member_that_was_merged_is_looked_at_with_who_lives_on(
    shop: Laurel, regular: Regular
) -> None:
    """A cap that counted for the one counts for the other, and a refund of the one's is the other's."""
    async with as_owner(shop) as connection:
        counted = await connection.fetch("SELECT member_id, points FROM cap_usage")
    by_member = {row["member_id"]: row["points"] for row in counted}
    assert by_member == {regular.member_id: 195, regular.merged_id: 20}


@pytest.mark.parametrize("table", [*IMMUTABLE, *PERMANENT])
async def test_what_nobody_may_change_is_refused_to_the_owner_too(shop: Laurel, table: str) -> None:
    statements = [f"DELETE FROM {table} WHERE false", f"TRUNCATE {table}"]
    if table in IMMUTABLE:
        statements.append(f"UPDATE {table} SET program_id = program_id WHERE false")
    for statement in statements:
        async with shop.database.connection() as connection:
            with pytest.raises(asyncpg.RestrictViolationError, match=f"on {table} is refused"):
                await connection.execute(statement)


@pytest.mark.parametrize(
    ("done", "undone", "words"),
    [
        (
            "ALTER TABLE allocation DISABLE TRIGGER immutable",
            "ALTER TABLE allocation ENABLE TRIGGER immutable",
            "the trigger immutable of allocation is switched off",
        ),
        (
            "ALTER TABLE refund DISABLE TRIGGER ALL",
            "ALTER TABLE refund ENABLE TRIGGER ALL",
            "the trigger permanent of refund is switched off",
        ),
        (
            "ALTER TABLE wallet ENABLE REPLICA TRIGGER permanent",
            "ALTER TABLE wallet ENABLE TRIGGER permanent",
            "the trigger permanent of wallet is switched off",
        ),
        (
            "DROP TRIGGER immutable ON event_log",
            "CREATE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON event_log "
            "EXECUTE FUNCTION refuse_change()",
            "the trigger immutable of event_log is missing",
        ),
        (
            "CREATE OR REPLACE TRIGGER immutable BEFORE UPDATE ON request_key "
            "EXECUTE FUNCTION refuse_change()",
            "CREATE OR REPLACE TRIGGER immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON request_key "
            "EXECUTE FUNCTION refuse_change()",
            "the trigger immutable of request_key is missing",
        ),
    ],
)
async def test_a_trigger_that_does_not_refuse_is_named(
    shop: Laurel, done: str, undone: str, words: str
) -> None:
    async with shop.database.connection() as connection:
        await connection.execute(done)
    try:
        result = (await verified(shop))[Check.GUARDS]
    finally:
        async with shop.database.connection() as connection:
            await connection.execute(undone)
    assert [finding.problem for finding in result.findings] == [words]
    assert (await verified(shop))[Check.GUARDS].faults == 0
