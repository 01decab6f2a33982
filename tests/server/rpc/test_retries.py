"""A request that was accepted gets its first reply again, whatever its names have come to mean since."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.type import money_pb2
from loyalty.v1 import holds_pb2, journal_pb2, member_pb2, movements_pb2, points_pb2

from tests.server.rpc.test_journal import Journal, journal_of, outcomes
from tests.support.published import publish
from tests.support.refusals import refusal
from tests.support.servers import Laurel
from tests.support.waiting import eventually

BASE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 10, "per": "1.00", "currency": "INR"}}],
}


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    await publish(laurel, BASE)
    return laurel


@pytest.fixture
async def journal(shop: Laurel) -> AsyncIterator[Journal]:
    async with journal_of(shop) as opened:
        yield opened


def card_of(number: str) -> member_pb2.Identifier:
    return member_pb2.Identifier(card_number=number)


def purchase(rupees: int = 10, **more: Any) -> points_pb2.AccrueRequest:
    said = {
        "request_id": uuid4().hex,
        "order_reference": uuid4().hex,
        "amount": money_pb2.Money(currency_code="INR", units=rupees),
    }
    return points_pb2.AccrueRequest(**{**said, **more})


async def given_up(shop: Laurel, member_id: str, card: str) -> None:
    """The card is nobody's any more."""
    other = uuid4().hex[:12]
    await shop.service.members.UpdateMember(
        member_pb2.UpdateMemberRequest(
            request_id=uuid4().hex,
            member=member_pb2.Member(member_id=member_id, card_numbers=[other]),
            update_mask=FieldMask(paths=["card_numbers"]),
        )
    )
    said = await refusal(shop.terminal.points.Accrue(purchase(identifier=card_of(card))))
    assert said.reason == "MEMBER_NOT_FOUND"


async def balance(shop: Laurel, member_id: str) -> int:
    request = points_pb2.GetBalanceRequest(member_id=member_id)
    return (await shop.terminal.points.GetBalance(request)).wallets[0].balance


async def close(shop: Laurel, member_id: str) -> None:
    await shop.service.members.CloseMember(
        member_pb2.CloseMemberRequest(request_id=uuid4().hex, member_id=member_id)
    )


# Whatever names a member by a card: the call, and a request about that card.
By = Callable[[Laurel, str, str], tuple[Callable[[Any], Awaitable[Any]], Any]]
BY_CARD: dict[str, By] = {
    "accrue": lambda shop, card, _: (shop.terminal.points.Accrue, purchase(identifier=card_of(card))),
    "redeem": lambda shop, card, _: (
        shop.terminal.points.Redeem,
        points_pb2.RedeemRequest(request_id=uuid4().hex, identifier=card_of(card), points=30),
    ),
    "hold": lambda shop, card, _: (
        shop.terminal.holds.PlaceHold,
        holds_pb2.PlaceHoldRequest(request_id=uuid4().hex, identifier=card_of(card), points=30),
    ),
    "transfer": lambda shop, card, getter: (
        shop.service.points.TransferPoints,
        movements_pb2.TransferPointsRequest(
            request_id=uuid4().hex, identifier=card_of(card), to_member_id=getter, points=30
        ),
    ),
    "transfer to": lambda shop, card, giver: (
        shop.service.points.TransferPoints,
        movements_pb2.TransferPointsRequest(
            request_id=uuid4().hex, member_id=giver, to_identifier=card_of(card), points=30
        ),
    ),
    "adjust": lambda shop, card, _: (
        shop.service.points.AdjustPoints,
        movements_pb2.AdjustPointsRequest(
            request_id=uuid4().hex, identifier=card_of(card), points=30, reason="late"
        ),
    ),
    "return": lambda shop, card, _: (
        shop.terminal.points.ReturnPurchase,
        movements_pb2.ReturnPurchaseRequest(
            request_id=uuid4().hex,
            identifier=card_of(card),
            items=[movements_pb2.ReturnItem(sku="TEA", quantity=1)],
        ),
    ),
}


@pytest.mark.parametrize("what", BY_CARD)
async def test_a_retry_by_a_card_that_was_given_up_or_moved(shop: Laurel, what: str) -> None:
    card = uuid4().hex[:12]
    member_id, other = await shop.register(card_numbers=[card]), await shop.register()
    for rich in (member_id, other):
        await shop.terminal.points.Accrue(purchase(100, member_id=rich))
    call, request = BY_CARD[what](shop, card, other)
    first = await call(request)
    before = await balance(shop, member_id), await balance(shop, other)
    await given_up(shop, member_id, card)
    assert await call(request) == first
    finder = await shop.register(card_numbers=[card])
    assert await call(request) == first
    assert (await balance(shop, member_id), await balance(shop, other)) == before
    assert await balance(shop, finder) == 0
    # Who merely uses the same request_id gets no reply of another's.
    await given_up(shop, finder, card)
    changed = type(request).FromString(request.SerializeToString())
    changed.ClearField("identifier")
    changed.identifier.card_number = uuid4().hex[:12]
    assert (await refusal(call(changed))).reason == "REQUEST_ID_REUSED"


async def test_what_was_refused_is_no_request_that_was_accepted(shop: Laurel) -> None:
    card = uuid4().hex[:12]
    request = purchase(identifier=card_of(card))
    assert (await refusal(shop.terminal.points.Accrue(request))).reason == "MEMBER_NOT_FOUND"
    member_id = await shop.register(card_numbers=[card])
    assert (await shop.terminal.points.Accrue(request)).member_id == member_id


async def test_a_return_by_receipt_after_the_receipt_got_a_namesake(shop: Laurel) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    await shop.terminal.points.Accrue(purchase(7, member_id=member_id, order_reference=receipt, store="pune"))
    request = movements_pb2.ReturnPurchaseRequest(
        request_id=uuid4().hex, order=movements_pb2.PurchaseOrder(order_reference=receipt)
    )
    first = await shop.terminal.points.ReturnPurchase(request)
    assert first.points == 70
    await shop.terminal.points.Accrue(
        purchase(5, member_id=await shop.register(), order_reference=receipt, store="agra")
    )
    assert await shop.terminal.points.ReturnPurchase(request) == first
    new = movements_pb2.ReturnPurchaseRequest(request_id=uuid4().hex, order=request.order)
    assert (await refusal(shop.terminal.points.ReturnPurchase(new))).reason == "PURCHASE_AMBIGUOUS"
    other = movements_pb2.ReturnPurchaseRequest(request_id=request.request_id, order=request.order, part="2")
    assert (await refusal(shop.terminal.points.ReturnPurchase(other))).reason == "REQUEST_ID_REUSED"


async def test_an_adjustment_whose_expiry_has_passed_meanwhile(shop: Laurel) -> None:
    member_id = await shop.register()
    margin = timedelta(seconds=0.5)
    while True:
        expires_at = datetime.now(UTC) + margin
        request = movements_pb2.AdjustPointsRequest(
            request_id=uuid4().hex, member_id=member_id, points=5, reason="a gift for now"
        )
        request.expire_time.FromDatetime(expires_at)
        try:
            first = await shop.service.points.AdjustPoints(request)
        except Exception:  # noqa: BLE001 - the machine was too slow for that
            margin *= 2
        else:
            break

    async def passed() -> bool:
        return datetime.now(UTC) > expires_at

    await eventually(passed, seconds=margin.total_seconds() + 30)
    assert await shop.service.points.AdjustPoints(request) == first
    late = movements_pb2.AdjustPointsRequest.FromString(request.SerializeToString())
    late.request_id = uuid4().hex
    said = await refusal(shop.service.points.AdjustPoints(late))
    assert said.violations == {"expire_time": "must lie in the future"}


async def test_everything_about_a_member_who_was_merged_or_closed_since(shop: Laurel) -> None:
    for end in ("merged", "closed"):
        card = uuid4().hex[:12]
        member_id = await shop.register(card_numbers=[card])
        bought = purchase(100, identifier=card_of(card))
        spent = points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=60)
        calls: list[tuple[Any, Any]] = [
            (shop.terminal.points.Accrue, bought),
            (shop.terminal.points.Redeem, spent),
        ]
        replies = [await call(request) for call, request in calls]
        refund = movements_pb2.RefundRedemptionRequest(
            request_id=uuid4().hex, transaction_id=replies[1].transaction_id, points=10
        )
        back = movements_pb2.ReturnPurchaseRequest(
            request_id=uuid4().hex, order=movements_pb2.PurchaseOrder(order_reference=bought.order_reference)
        )
        more: list[tuple[Any, Any]] = [
            (shop.terminal.points.RefundRedemption, refund),
            (shop.terminal.points.ReturnPurchase, back),
        ]
        replies += [await call(request) for call, request in more]
        if end == "merged":
            survivor = await shop.register()
            await shop.service.members.MergeMembers(
                member_pb2.MergeMembersRequest(
                    request_id=uuid4().hex, member_id=survivor, merged_member_id=member_id
                )
            )
        else:
            await close(shop, member_id)
        assert [await call(request) for call, request in calls + more] == replies, end


async def test_entries_of_a_journal_are_answered_as_the_first_time(shop: Laurel, journal: Journal) -> None:
    card = uuid4().hex[:12]
    member_id = await shop.register(card_numbers=[card])
    entries = [
        journal_pb2.JournalEntry(accrue=purchase(10, identifier=card_of(card))),
        journal_pb2.JournalEntry(
            redeem=points_pb2.RedeemRequest(request_id=uuid4().hex, identifier=card_of(card), points=30)
        ),
        journal_pb2.JournalEntry(accrue=purchase(1, member_id=member_id)),
    ]
    first = await journal.batch(*entries)
    assert outcomes(first) == ["accrue", "redeem", "accrue"]
    await given_up(shop, member_id, card)
    assert await journal.batch(*entries) == first
    upload = await journal.upload(entries)
    assert (upload.accepted, upload.replayed, upload.refused) == (3, 3, 0)
    assert list(upload.results) == first
    assert [reply.replayed for reply in await journal.exchanged(entries)] == [True] * 3
    changed = journal_pb2.JournalEntry.FromString(entries[0].SerializeToString())
    changed.accrue.amount.units += 1
    unknown = journal_pb2.JournalEntry(accrue=purchase(10, identifier=card_of(card)))
    assert outcomes(await journal.batch(changed, unknown)) == ["REQUEST_ID_REUSED", "MEMBER_NOT_FOUND"]
    assert await balance(shop, member_id) == 80


async def test_a_request_id_of_another_kind_of_request(shop: Laurel) -> None:
    request_id = uuid4().hex
    member = member_pb2.Member(email=f"{uuid4().hex}@example.com")
    registered = await shop.terminal.members.RegisterMember(
        member_pb2.RegisterMemberRequest(request_id=request_id, member=member)
    )
    bought = purchase(member_id=registered.member.member_id, request_id=request_id)
    assert (await refusal(shop.terminal.points.Accrue(bought))).reason == "REQUEST_ID_REUSED"


async def test_every_purchase_of_a_number_can_be_told_from_the_others(shop: Laurel) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    keys: list[dict[str, str]] = [
        {},
        {"part": "2"},
        {"store": "pune"},
        {"store": "pune", "part": "2"},
    ]
    for rupees, key in enumerate(keys, 1):
        await shop.terminal.points.Accrue(
            purchase(rupees, member_id=member_id, order_reference=receipt, **key)
        )

    async def back(**named: Any) -> Any:
        return await shop.terminal.points.ReturnPurchase(
            movements_pb2.ReturnPurchaseRequest(
                request_id=uuid4().hex,
                order=movements_pb2.PurchaseOrder(order_reference=receipt, **named),
                part=uuid4().hex,
            )
        )

    assert (await refusal(back())).metadata == {"purchases": "4", "differ": "store,part"}
    assert (await refusal(back(store="pune"))).metadata == {"purchases": "2", "differ": "part"}
    assert (await refusal(back(source_system="elsewhere"))).reason == "PURCHASE_NOT_FOUND"
    for rupees, key in enumerate(keys, 1):
        assert (await back(exact=True, **key)).points == rupees * 10
