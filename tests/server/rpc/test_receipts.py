"""A dispute, from the receipt's number to all that stands under it."""

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.type import date_pb2, money_pb2
from loyalty.v1 import movements_pb2
from loyalty.v1 import points_pb2 as pb

from server.domain.actor import CallerKind
from server.store import receipts
from tests.support.programs import new_key
from tests.support.published import publish
from tests.support.refusals import refusal
from tests.support.servers import Laurel

BASE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 20, "per": "100.00", "currency": "INR"}}],
}


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    await publish(laurel, BASE)
    return laurel


async def bought(shop: Laurel, member_id: str, receipt: str, paid: int, **changes: Any) -> pb.AccrueResponse:
    request = pb.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=receipt,
        amount=money_pb2.Money(currency_code="INR", units=paid),
        **changes,
    )
    return await shop.service.points.Accrue(request)


def asked(receipt: str, store: str = "") -> pb.FindTransactionsRequest:
    return pb.FindTransactionsRequest(order_reference=receipt, store=store)


async def test_a_receipt_shows_what_was_bought_spent_and_returned(shop: Laurel) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    earned = await bought(shop, member_id, receipt, 500, store="pune-1")
    spent = await shop.service.points.Redeem(
        pb.RedeemRequest(
            request_id=uuid4().hex, member_id=member_id, points=30, order_reference=receipt, store="pune-1"
        )
    )
    back = await shop.service.points.ReturnPurchase(
        movements_pb2.ReturnPurchaseRequest(
            request_id=uuid4().hex,
            order=movements_pb2.PurchaseOrder(order_reference=receipt),  # whose number the credit note bears
            store="pune-1",
        )
    )
    reply = await shop.staff.points.FindTransactions(asked(receipt))
    assert not reply.more
    assert [(order.action, order.event_id) for order in reply.orders] == [
        ("RETURN", back.event_id),
        ("REDEMPTION", spent.event_id),
        ("PURCHASE", earned.event_id),
    ]
    assert [row.transaction_id for order in reply.orders[1:] for row in order.transactions] == [
        spent.transaction_id,
        earned.awards[0].transaction_id,
    ]
    assert sum(row.points for row in reply.orders[0].transactions) == 100
    assert {order.member_id for order in reply.orders} == {member_id}


async def test_what_earned_nothing_is_found_too(shop: Laurel) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    day = date_pb2.Date(year=2026, month=11, day=20)
    reply = await bought(shop, member_id, receipt, 1, part="card", business_date=day)
    assert not reply.awards
    [order] = (await shop.staff.points.FindTransactions(asked(receipt))).orders
    assert (order.event_id, order.member_id, order.part) == (reply.event_id, member_id, "card")
    assert (order.business_date, list(order.transactions)) == (day, [])


async def test_a_number_of_two_stores_is_told_apart(shop: Laurel) -> None:
    one, other, receipt = await shop.register(), await shop.register(), uuid4().hex
    await bought(shop, one, receipt, 100, store="pune-1")
    await bought(shop, other, receipt, 200, store="pune-2")

    async def found(caller: Any, store: str = "") -> list[str]:
        reply = await caller.points.FindTransactions(asked(receipt, store))
        return [order.member_id for order in reply.orders]

    assert await found(shop.service) == [other, one]
    assert await found(shop.service, "pune-1") == [one]
    bound = await shop.caller(
        await new_key(shop.database, shop.program, CallerKind.SERVICE, store_id="pune-2")
    )
    assert await found(bound) == [other]
    elsewhere = await refusal(bound.points.FindTransactions(asked(receipt, "pune-1")))
    assert elsewhere.reason == "STORE_NOT_ALLOWED"
    assert await found(shop.staff) == [other, one]
    async with shop.database.connection() as connection:
        looked_at = await connection.fetchval(
            """SELECT member_ids FROM access_audit WHERE method LIKE '%FindTransactions'
                ORDER BY audit_id DESC LIMIT 1"""
        )
    assert set(looked_at) == {UUID(one), UUID(other)}


async def test_a_receipt_that_nobody_recorded_and_one_without_a_number(shop: Laurel) -> None:
    assert not (await shop.staff.points.FindTransactions(asked(uuid4().hex))).orders
    assert "order_reference" in (await refusal(shop.staff.points.FindTransactions(asked("")))).violations
    till = await refusal(shop.terminal.points.FindTransactions(asked("R-1")))
    assert till.code == grpc.StatusCode.PERMISSION_DENIED


async def test_indexes_lead_from_the_number_to_the_rows(shop: Laurel) -> None:
    async with shop.database.connection() as connection, connection.transaction():
        # The tables of a test are so small that reading them whole would be cheaper.
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch(f"EXPLAIN {receipts.FIND}", shop.program.program_id, "R-1", "", 501)
    text = "\n".join(row[0] for row in plan)
    assert "using business_key_pkey on business_key" in text or "on business_key_pkey" in text, text
    assert "ledger_transaction_pkey" in text, text
    assert "Seq Scan" not in text, text
