"""Returns, refunds, transfers and adjustments as tills and staff see them, over gRPC."""

import asyncio
from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

import pytest
from google.type import money_pb2
from loyalty.v1 import movements_pb2 as pb
from loyalty.v1 import points_pb2

from server.domain.actor import CallerKind
from server.domain.program import Clawback, LedgerTerms
from server.store import programs
from tests.support.published import publish
from tests.support.refusals import Refusal, refusal
from tests.support.servers import Caller, Laurel

BASE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 10, "per": "1.00", "currency": "INR"}}],
}


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """Ten points a rupee, line by line."""
    await publish(laurel, BASE)
    return laurel


async def buy(shop: Laurel, member_id: str, receipt: str = "", **lines: tuple[int, int]) -> Any:
    """A purchase of goods: sku=(units, rupees of the line)."""
    return await shop.terminal.points.Accrue(
        points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=receipt or uuid4().hex,
            lines=[
                points_pb2.LineItem(
                    line_id=sku.lower(),
                    sku=sku,
                    quantity=units,
                    amount=money_pb2.Money(currency_code="INR", units=rupees),
                )
                for sku, (units, rupees) in lines.items()
            ],
        )
    )


async def redeem(shop: Laurel, member_id: str, points: int) -> Any:
    return await shop.terminal.points.Redeem(
        points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=points)
    )


async def refused(call: Awaitable[Any], reason: str) -> Refusal:
    said = await refusal(call)
    assert said.reason == reason, said
    return said


async def balance(shop: Laurel, member_id: str) -> Any:
    reply = await shop.terminal.points.GetBalance(points_pb2.GetBalanceRequest(member_id=member_id))
    return reply.wallets[0]


async def back(shop: Laurel, request: pb.ReturnPurchaseRequest) -> pb.ReturnPurchaseResponse:
    return await shop.terminal.points.ReturnPurchase(request)


def bring_back(receipt: str, *items: tuple[str, int], **more: Any) -> pb.ReturnPurchaseRequest:
    return pb.ReturnPurchaseRequest(
        request_id=uuid4().hex,
        order=pb.PurchaseOrder(order_reference=receipt),
        items=[pb.ReturnItem(sku=sku, quantity=quantity) for sku, quantity in items],
        **more,
    )


async def test_two_of_three_units_take_back_two_thirds_rounded_down_and_the_last_the_rest(
    shop: Laurel,
) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    await buy(shop, member_id, receipt, LADOO=(3, 1), TEA=(1, 4))
    first = await back(shop, bring_back(receipt, ("LADOO", 2), part="1"))
    assert (first.points, first.balance, first.shortfall) == (6, 44, 0)
    assert [(line.line_id, line.quantity) for line in first.lines] == [("ladoo", 2)]
    last = await back(shop, bring_back(receipt, ("LADOO", 1), part="2"))
    assert (last.points, last.balance) == (4, 40)
    whole = await back(shop, bring_back(receipt, part="3"))
    assert (whole.points, whole.balance) == (40, 0)


async def test_more_than_was_bought_does_not_come_back(shop: Laurel) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    await buy(shop, member_id, receipt, LADOO=(2, 1))
    said = await refused(back(shop, bring_back(receipt, ("LADOO", 3))), "RETURN_EXCEEDS_PURCHASE")
    assert said.metadata["missing"] == "1"
    await back(shop, bring_back(receipt, ("LADOO", 2), part="1"))
    await refused(back(shop, bring_back(receipt, part="2")), "RETURN_EXCEEDS_PURCHASE")
    assert (await balance(shop, member_id)).balance == 0


async def test_a_return_sent_twice_takes_back_once(shop: Laurel) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    await buy(shop, member_id, receipt, LADOO=(4, 4))
    request = bring_back(receipt, ("LADOO", 1))
    replies = await asyncio.gather(*(back(shop, request) for _ in range(20)))
    assert all(reply == replies[0] for reply in replies)
    await refused(back(shop, bring_back(receipt, ("LADOO", 1))), "ORDER_ALREADY_RECORDED")
    assert (await balance(shop, member_id)).balance == 30


async def test_points_already_spent_are_owed_and_the_next_purchase_pays_them_first(shop: Laurel) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    await buy(shop, member_id, receipt, LADOO=(1, 5))
    await redeem(shop, member_id, 40)
    reply = await back(shop, bring_back(receipt))
    assert (reply.points, reply.balance, reply.debt, reply.shortfall) == (50, 0, 40, 0)
    wallet = await balance(shop, member_id)
    assert (wallet.balance, wallet.debt, wallet.lifetime) == (0, 40, 0)
    await buy(shop, member_id, TEA=(1, 7))
    wallet = await balance(shop, member_id)
    assert (wallet.balance, wallet.debt, wallet.lifetime) == (30, 0, 70)


@pytest.mark.parametrize("clawback", [Clawback.WITHIN_BALANCE, Clawback.REFUSE])
async def test_a_program_may_bear_what_was_spent_or_refuse_the_return(
    shop: Laurel, clawback: Clawback
) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    await buy(shop, member_id, receipt, LADOO=(1, 5))
    await redeem(shop, member_id, 40)
    async with terms(shop, LedgerTerms(clawback=clawback)):
        if clawback is Clawback.REFUSE:
            said = await refused(back(shop, bring_back(receipt)), "POINTS_ALREADY_SPENT")
            assert said.metadata["missing"] == "40"
            return
        reply = await back(shop, bring_back(receipt))
    assert (reply.points, reply.balance, reply.debt, reply.shortfall) == (10, 0, 0, 40)
    wallet = await balance(shop, member_id)
    assert (wallet.balance, wallet.debt, wallet.lifetime) == (0, 0, 0)


async def test_without_a_purchase_the_latest_that_has_the_goods_is_taken(shop: Laurel) -> None:
    member_id = await shop.register()
    old = await buy(shop, member_id, LADOO=(2, 2), TEA=(1, 3))
    new = await buy(shop, member_id, LADOO=(1, 4))
    reply = await back(
        shop,
        pb.ReturnPurchaseRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference="C-1",
            items=[pb.ReturnItem(sku="LADOO", quantity=2), pb.ReturnItem(sku="BARFI", quantity=9)],
        ),
    )
    assert {(line.event_id, line.line_id, line.quantity) for line in reply.lines} == {
        (new.event_id, "ladoo", 1),
        (old.event_id, "ladoo", 1),
    }
    assert [(item.sku, item.quantity) for item in reply.unmatched] == [("BARFI", 9)]
    assert (reply.points, reply.balance) == (50, 40)


async def test_a_purchase_of_another_member_is_not_found(shop: Laurel) -> None:
    member_id, stranger = await shop.register(), await shop.register()
    bought = await buy(shop, member_id, LADOO=(1, 1))
    request = pb.ReturnPurchaseRequest(request_id="x", member_id=stranger, event_id=bought.event_id)
    await refused(back(shop, request), "PURCHASE_NOT_FOUND")
    await refused(back(shop, bring_back("no-such-receipt")), "PURCHASE_NOT_FOUND")


async def test_a_receipt_that_two_stores_have_must_be_told_apart(shop: Laurel) -> None:
    receipt = uuid4().hex
    for store in ("pune", "agra"):
        request = points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=await shop.register(),
            order_reference=receipt,
            store=store,
            amount=money_pb2.Money(currency_code="INR", units=1),
        )
        await shop.terminal.points.Accrue(request)
    said = await refused(back(shop, bring_back(receipt)), "PURCHASE_AMBIGUOUS")
    assert said.metadata == {"purchases": "2", "differ": "store"}
    request = bring_back(receipt)
    request.order.store = "agra"
    assert (await back(shop, request)).points == 10


async def test_a_refund_in_parts_gives_back_what_was_spent_and_no_more(shop: Laurel) -> None:
    member_id = await shop.register()
    await buy(shop, member_id, LADOO=(1, 10))
    spent = await redeem(shop, member_id, 70)

    def request(points: int) -> pb.RefundRedemptionRequest:
        return pb.RefundRedemptionRequest(
            request_id=uuid4().hex, transaction_id=spent.transaction_id, points=points
        )

    assert (await shop.terminal.points.RefundRedemption(request(30))).balance == 60
    await refused(shop.terminal.points.RefundRedemption(request(41)), "REFUND_EXCEEDS_REDEMPTION")
    assert (await shop.terminal.points.RefundRedemption(request(0))).points == 40
    await refused(shop.terminal.points.RefundRedemption(request(0)), "REFUND_EXCEEDS_REDEMPTION")
    assert (await balance(shop, member_id)).balance == 100


async def test_parallel_refunds_give_back_once(shop: Laurel) -> None:
    member_id = await shop.register()
    await buy(shop, member_id, LADOO=(1, 10))
    spent = await redeem(shop, member_id, 100)
    replies = await asyncio.gather(
        *(
            shop.terminal.points.RefundRedemption(
                pb.RefundRedemptionRequest(
                    request_id=uuid4().hex, transaction_id=spent.transaction_id, points=30
                )
            )
            for _ in range(10)
        ),
        return_exceptions=True,
    )
    assert sum(not isinstance(reply, BaseException) for reply in replies) == 3
    assert (await balance(shop, member_id)).balance == 90


async def test_a_transfer_changes_both_wallets_and_not_the_sum(shop: Laurel) -> None:
    giver, getter = await shop.register(), await shop.register()
    await buy(shop, giver, LADOO=(1, 10))
    reply = await shop.service.points.TransferPoints(handing_on(giver, getter, 30))
    assert (reply.points, reply.balance) == (30, 70)
    assert (await balance(shop, getter)).balance == 30
    assert (await balance(shop, getter)).lifetime == 0
    await refused(shop.service.points.TransferPoints(handing_on(giver, getter, 71)), "INSUFFICIENT_POINTS")
    await refused(shop.service.points.TransferPoints(handing_on(giver, giver, 1)), "INVALID_FIELD")
    async with terms(shop, LedgerTerms(transfer_points=5)):
        await refused(shop.service.points.TransferPoints(handing_on(giver, getter, 6)), "TRANSFER_LIMIT")
        await shop.service.points.TransferPoints(handing_on(getter, giver, 5))


async def test_transfers_to_and_fro_at_once_neither_block_nor_lose_points(shop: Laurel) -> None:
    ann, ben = await shop.register(), await shop.register()
    await buy(shop, ann, LADOO=(1, 10))
    await buy(shop, ben, LADOO=(1, 10))
    await asyncio.gather(
        *(
            shop.service.points.TransferPoints(handing_on(*pair, 1))
            for _ in range(30)
            for pair in ((ann, ben), (ben, ann))
        )
    )
    assert [(await balance(shop, who)).balance for who in (ann, ben)] == [100, 100]


def handing_on(giver: str, getter: str, points: int) -> pb.TransferPointsRequest:
    return pb.TransferPointsRequest(
        request_id=uuid4().hex, member_id=giver, to_member_id=getter, points=points
    )


async def test_an_adjustment_needs_a_reason_and_a_large_one_a_second_person(shop: Laurel) -> None:
    member_id = await shop.register()
    staff = await shop.caller(await shop.new_key(CallerKind.STAFF, scopes=["points.adjust", "points.read"]))

    async def adjust(points: int, reason: str = "a wrong receipt") -> Any:
        return await staff.points.AdjustPoints(
            pb.AdjustPointsRequest(request_id=uuid4().hex, member_id=member_id, points=points, reason=reason)
        )

    assert (await adjust(500)).balance == 500
    assert (await adjust(-200)).balance == 300
    await refused(adjust(-301), "INSUFFICIENT_POINTS")
    await refused(adjust(1, reason=""), "INVALID_FIELD")
    await refused(adjust(0), "INVALID_FIELD")
    wallet = await balance(shop, member_id)
    assert (wallet.balance, wallet.lifetime) == (300, 0)
    async with terms(shop, LedgerTerms(approval_points=100)):
        await adjust(100)


async def test_every_movement_is_explained(shop: Laurel) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    await buy(shop, member_id, receipt, LADOO=(2, 10))
    spent = await redeem(shop, member_id, 80)
    await shop.terminal.points.RefundRedemption(
        pb.RefundRedemptionRequest(request_id="r", transaction_id=spent.transaction_id, points=10)
    )
    await back(shop, bring_back(receipt, reason="stale"))
    page = await shop.terminal.points.ListHistory(points_pb2.ListHistoryRequest(member_id=member_id))
    told = {
        points_pb2.TransactionKind.Name(row.kind): (await explain(shop.service, row.transaction_id))
        for row in page.transactions
    }
    assert "were taken back, because goods came back" in told["TRANSACTION_KIND_REVERSE_EARN"]
    assert "stale" in told["TRANSACTION_KIND_REVERSE_EARN"]
    assert f"reverses transaction {spent.transaction_id}" in told["TRANSACTION_KIND_REVERSE_REDEEM"]


async def explain(caller: Caller, transaction_id: str) -> str:
    reply = await caller.points.Explain(points_pb2.ExplainRequest(transaction_id=transaction_id))
    return " ".join(reply.sentences)


class terms:  # noqa: N801 - reads as a statement
    """The program lives by other terms for a while."""

    def __init__(self, shop: Laurel, ledger: LedgerTerms) -> None:
        self._shop, self._ledger = shop, ledger

    async def _set(self, ledger: LedgerTerms) -> None:
        async with self._shop.database.connection() as connection:
            assert await programs.set_ledger_terms(connection, self._shop.program.name, ledger)

    async def __aenter__(self) -> None:
        await self._set(self._ledger)

    async def __aexit__(self, *_: object) -> None:
        await self._set(LedgerTerms())
