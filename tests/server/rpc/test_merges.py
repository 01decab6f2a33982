"""Two memberships of one person become one, over gRPC."""

import asyncio
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.type import money_pb2
from loyalty.v1 import adjustments_pb2, holds_pb2, movements_pb2, points_pb2
from loyalty.v1 import member_pb2 as pb

from server import secrets
from server.domain.actor import CallerKind
from server.operations.verify import Result, verify
from tests.server.rpc.test_journal import accrual, journal_of, outcomes, redemption
from tests.support.published import publish
from tests.support.refusals import read, refusal
from tests.support.servers import Laurel

BASE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 10, "per": "1.00", "currency": "INR"}}],
    "caps": {"member": {"points": 30_000, "per": "ever"}},
}
LATER = {
    "rule": "later",
    "when": {"all": [{"event": "PURCHASE"}, {"field": "channel", "op": "eq", "value": "web"}]},
    "then": [{"fixed": {"points": 70}}],
    "pending": {"days": 14},
    "expire": {"rolling_days": 90},
}
# Wallets whose figures are not what their lots hold, and what all wallets of a program hold.
LOTS_APART = """
    SELECT count(*) FROM wallet w
     WHERE balance + held <> (SELECT coalesce(sum(remaining), 0) FROM lot l
                               WHERE active AND (l.program_id, l.member_id, l.point_type)
                                                = (w.program_id, w.member_id, w.point_type))
        OR pending <> (SELECT coalesce(sum(remaining), 0) FROM lot l
                        WHERE NOT active AND (l.program_id, l.member_id, l.point_type)
                                             = (w.program_id, w.member_id, w.point_type))
        OR (debt > 0 AND balance > 0)"""
NET = """
    SELECT coalesce(sum(points) FILTER (WHERE credit_account = 'program.transfer'), 0)
           - coalesce(sum(points) FILTER (WHERE debit_account = 'program.transfer'), 0)
      FROM ledger_transaction"""


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """Ten points a rupee, and seventy more on the web that can be spent after two weeks."""
    await publish(laurel, BASE, LATER)
    return laurel


@pytest.fixture(autouse=True)
async def nothing_amiss(shop: Laurel) -> Any:
    """After every test each wallet agrees with its lots, and what went out came in."""
    yield
    async with shop.database.connection() as connection:
        assert await connection.fetchval(LOTS_APART) == 0
        assert await connection.fetchval(NET) == 0


async def buy(shop: Laurel, member_id: str, rupees: int, **more: Any) -> Any:
    request = points_pb2.AccrueRequest(
        request_id=more.pop("request_id", "") or uuid4().hex,
        member_id=member_id,
        order_reference=more.pop("order", "") or uuid4().hex,
        amount=money_pb2.Money(currency_code="INR", units=rupees),
        **more,
    )
    return await shop.terminal.points.Accrue(request)


async def redeem(shop: Laurel, member_id: str, points: int) -> Any:
    request = points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=points)
    return await shop.terminal.points.Redeem(request)


async def bring_back(shop: Laurel, order: str) -> Any:
    request = movements_pb2.ReturnPurchaseRequest(
        request_id=uuid4().hex, order=movements_pb2.PurchaseOrder(order_reference=order)
    )
    return await shop.terminal.points.ReturnPurchase(request)


def joining(survivor: str, merged: str, request_id: str = "") -> pb.MergeMembersRequest:
    return pb.MergeMembersRequest(
        request_id=request_id or uuid4().hex, member_id=survivor, merged_member_id=merged, reason="two cards"
    )


async def merge(shop: Laurel, survivor: str, merged: str) -> pb.MergeMembersResponse:
    return await shop.service.members.MergeMembers(joining(survivor, merged))


async def wallet(shop: Laurel, member_id: str) -> pb.Wallet:
    request = points_pb2.GetBalanceRequest(member_id=member_id)
    return (await shop.terminal.points.GetBalance(request)).wallets[0]


async def member(shop: Laurel, member_id: str) -> pb.Member:
    return (await shop.staff.members.GetMember(pb.GetMemberRequest(member_id=member_id))).member


async def history(shop: Laurel, member_id: str) -> list[str]:
    request = points_pb2.ListHistoryRequest(member_id=member_id, page_size=500)
    rows = (await shop.staff.points.ListHistory(request)).transactions
    return [points_pb2.TransactionKind.Name(r.kind).removeprefix("TRANSACTION_KIND_") for r in rows]


async def test_everything_goes_to_the_one_that_lives_on(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    await buy(shop, old, 90, channel="web")
    await buy(shop, new, 50)
    reply = await merge(shop, new, old)
    assert sorted(row.points for row in reply.moved) == [70, 900]
    # 970 and 500 points ever: neither alone was silver.
    assert (reply.member.member_id, reply.member.tier) == (new, "silver")
    held = await wallet(shop, new)
    assert (held.balance, held.pending, held.lifetime) == (1400, 70, 500)

    over = await member(shop, old)
    assert (over.status, over.merged_into) == (pb.MEMBER_STATUS_MERGED, new)
    assert [(w.balance, w.pending, w.lifetime) for w in over.wallets] == [(0, 0, 970)]
    assert await history(shop, old) == ["TRANSFER_OUT", "TRANSFER_OUT", "EARN", "EARN"]
    assert await history(shop, new) == ["TRANSFER_IN", "TRANSFER_IN", "EARN"]
    listed = await shop.staff.members.ListMembers(pb.ListMembersRequest(status=pb.MEMBER_STATUS_MERGED))
    assert old in [m.member_id for m in listed.members]


async def test_lots_go_on_as_they_would_have(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    await buy(shop, old, 1, channel="web")
    query = """SELECT active, activates_at, expires_at, activates_on, rolling_days, remaining FROM lot
                WHERE member_id = $1 AND remaining > 0 ORDER BY remaining"""
    async with shop.database.connection() as connection:
        before = await connection.fetch(query, old)
        await merge(shop, new, old)
        assert await connection.fetch(query, new) == before
        assert await connection.fetch(query, old) == []


async def test_whatever_found_either_finds_the_one_that_lives_on(shop: Laurel) -> None:
    card, email = uuid4().hex[:12].upper(), f"{uuid4().hex}@example.com"
    old, new = await shop.register(card_numbers=[card], email=email), await shop.register()
    await merge(shop, new, old)
    for identifier in (pb.Identifier(card_number=card), pb.Identifier(email=email)):
        found = await shop.terminal.members.FindMember(pb.FindMemberRequest(identifier=identifier))
        assert found.member.member_id == new
        taken = pb.RegisterMemberRequest(request_id=uuid4().hex, member=pb.Member(email=email))
        assert (await refusal(shop.terminal.members.RegisterMember(taken))).reason == "IDENTIFIER_TAKEN"
    # The one that lives on may show it, and give it up.
    for cards in ([card], []):
        change = pb.UpdateMemberRequest(
            request_id=uuid4().hex, member=pb.Member(member_id=new, card_numbers=cards)
        )
        change.update_mask.paths.append("card_numbers")
        await shop.service.members.UpdateMember(change)
    await shop.register(card_numbers=[card])


async def test_calls_by_the_old_id_are_about_the_one_that_lives_on(shop: Laurel) -> None:
    old, new, friend = await shop.register(), await shop.register(), await shop.register()
    await merge(shop, new, old)
    assert (await buy(shop, old, 20)).member_id == new
    assert (await redeem(shop, old, 50)).member_id == new
    reply = await shop.terminal.points.GetBalance(points_pb2.GetBalanceRequest(member_id=old))
    assert (reply.member_id, reply.wallets[0].balance) == (new, 150)
    for giver, getter in ((old, friend), (friend, old)):
        handing_on = movements_pb2.TransferPointsRequest(
            request_id=uuid4().hex, member_id=giver, to_member_id=getter, points=30
        )
        await shop.service.points.TransferPoints(handing_on)
    holding = holds_pb2.PlaceHoldRequest(request_id=uuid4().hex, member_id=old, points=150)
    hold = (await shop.terminal.holds.PlaceHold(holding)).hold
    assert hold.member_id == new
    change = pb.UpdateMemberRequest(
        request_id=uuid4().hex, member=pb.Member(member_id=old, given_name="Asha")
    )
    change.update_mask.paths.append("given_name")
    assert (await shop.service.members.UpdateMember(change)).member.member_id == new
    suspending = pb.SuspendMemberRequest(request_id=uuid4().hex, member_id=old)
    for _ in range(2):
        suspended = (await shop.service.members.SuspendMember(suspending)).member
        assert (suspended.member_id, suspended.status) == (new, pb.MEMBER_STATUS_SUSPENDED)
    said = await refusal(buy(shop, old, 1))
    assert (said.reason, said.metadata) == ("MEMBER_NOT_ACTIVE", {"status": "suspended"})
    assert await history(shop, old) == []


async def test_a_purchase_told_again_after_the_merge_is_still_the_same(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    first = await buy(shop, old, 3, request_id="told-again", order="R-told-again")
    await merge(shop, new, old)
    assert await buy(shop, old, 3, request_id="told-again", order="R-told-again") == first
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await buy(shop, old, 3, order="R-told-again")
    assert read(caught.value).reason == "ORDER_ALREADY_RECORDED"
    after = await buy(shop, old, 4, request_id="after", order="R-after")
    assert await buy(shop, old, 4, request_id="after", order="R-after") == after
    assert (await wallet(shop, new)).balance == 70


async def test_goods_bought_before_come_back_after_and_take_what_they_had_earned(shop: Laurel) -> None:
    old, middle, new = [await shop.register() for _ in range(3)]
    order = uuid4().hex
    await buy(shop, old, 100, order=order, channel="web")
    await buy(shop, new, 10)
    await merge(shop, middle, old)
    await merge(shop, new, middle)
    reply = await bring_back(shop, order)
    assert (reply.member_id, reply.points, reply.balance, reply.debt) == (new, 1070, 100, 0)
    # Those that could not be spent yet were among them.
    assert (await wallet(shop, new)).pending == 0
    assert (await member(shop, new)).tier == "bronze"
    said = await refusal(bring_back(shop, order))
    assert said.reason in ("RETURN_EXCEEDS_PURCHASE", "ORDER_ALREADY_RECORDED")


async def test_goods_without_a_receipt_are_found_among_the_purchases_of_both(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    line = points_pb2.LineItem(
        line_id="1", sku="TEA", quantity=2, amount=money_pb2.Money(currency_code="INR", units=8)
    )
    for member_id in (old, new):
        request = points_pb2.AccrueRequest(
            request_id=uuid4().hex, member_id=member_id, order_reference=uuid4().hex, lines=[line]
        )
        await shop.terminal.points.Accrue(request)
    await merge(shop, new, old)
    back = movements_pb2.ReturnPurchaseRequest(
        request_id=uuid4().hex,
        member_id=old,
        order_reference="C-1",
        items=[movements_pb2.ReturnItem(sku="TEA", quantity=4)],
    )
    reply = await shop.terminal.points.ReturnPurchase(back)
    assert (reply.points, reply.balance, len(reply.lines), len(reply.unmatched)) == (160, 0, 2, 0)


async def test_a_redemption_made_before_is_refunded_after(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    await buy(shop, old, 100)
    spent = await redeem(shop, old, 800)
    await merge(shop, new, old)
    for points, balance in ((300, 500), (500, 1000)):
        refund = movements_pb2.RefundRedemptionRequest(
            request_id=uuid4().hex, transaction_id=spent.transaction_id, points=points
        )
        reply = await shop.terminal.points.RefundRedemption(refund)
        assert (reply.member_id, reply.balance) == (new, balance)
    refund.request_id = uuid4().hex
    said = await refusal(shop.terminal.points.RefundRedemption(refund))
    assert said.reason == "REFUND_EXCEEDS_REDEMPTION"
    await redeem(shop, new, 1000)


@pytest.mark.parametrize("has", [0, 300, 900])
async def test_a_debt_goes_over_and_is_paid_from_what_is_there(shop: Laurel, has: int) -> None:
    old, new = await shop.register(), await shop.register()
    order = uuid4().hex
    await buy(shop, old, 60, order=order)
    await redeem(shop, old, 600)
    await bring_back(shop, order)
    if has:
        await buy(shop, new, has // 10)
    await merge(shop, new, old)
    left = await wallet(shop, new)
    assert (left.balance, left.debt) == (max(has - 600, 0), max(600 - has, 0))
    assert (await member(shop, old)).wallets[0].debt == 0


async def test_one_who_owes_is_paid_by_the_one_who_joins(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    order = uuid4().hex
    await buy(shop, new, 60, order=order)
    await redeem(shop, new, 600)
    await bring_back(shop, order)
    await buy(shop, old, 70)
    await merge(shop, new, old)
    left = await wallet(shop, new)
    assert (left.balance, left.debt) == (100, 0)


async def test_open_holds_keep_a_merge_waiting(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    await buy(shop, old, 10)
    holding = holds_pb2.PlaceHoldRequest(request_id=uuid4().hex, member_id=old, points=40)
    hold_id = (await shop.terminal.holds.PlaceHold(holding)).hold.hold_id
    said = await refusal(merge(shop, new, old))
    assert (said.reason, said.metadata) == ("MEMBER_HAS_HOLDS", {"holds": hold_id})
    # The one that lives on may have some.
    await merge(shop, old, new)
    capturing = holds_pb2.CaptureHoldRequest(request_id=uuid4().hex, hold_id=hold_id)
    assert (await shop.terminal.holds.CaptureHold(capturing)).balance == 60


async def test_caps_count_what_both_were_given(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    await buy(shop, old, 2000)
    await buy(shop, new, 900)
    await merge(shop, new, old)
    assert (await buy(shop, new, 500)).points == 1000


async def test_of_two_decisions_the_refusal_counts_and_a_lone_one_goes_over(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    decisions = {
        "both-agreed": (True, True),
        "old-refused": (False, True),
        "new-refused": (True, False),
        "only-old": (True, None),
        "only-new": (None, True),
    }
    for place, member_id in enumerate((old, new)):
        for purpose, said in decisions.items():
            if said[place] is not None:
                consent = pb.Consent(purpose=purpose, granted=said[place], policy_version=f"v{place}")
                request = pb.RecordConsentRequest(
                    request_id=uuid4().hex, member_id=member_id, consent=consent
                )
                await shop.service.members.RecordConsent(request)
    await merge(shop, new, old)
    page = await shop.staff.members.ListConsents(pb.ListConsentsRequest(member_id=new))
    in_force = {c.purpose: (c.granted, c.policy_version) for c in reversed(page.consents)}
    assert in_force == {
        "both-agreed": (True, "v1"),
        "old-refused": (False, "v0"),
        "new-refused": (False, "v1"),
        "only-old": (True, "v0"),
        "only-new": (True, "v1"),
    }
    left = await shop.staff.members.ListConsents(pb.ListConsentsRequest(member_id=old))
    assert len(left.consents) == 4


async def test_who_is_merged_once_is_merged_and_retries_change_nothing(shop: Laurel) -> None:
    old, new, other = [await shop.register() for _ in range(3)]
    await buy(shop, old, 10)
    request = joining(new, old)
    replies = await asyncio.gather(*(shop.service.members.MergeMembers(request) for _ in range(8)))
    assert {reply.event_id for reply in replies} == {replies[0].event_id}
    assert (await wallet(shop, new)).balance == 100
    for survivor, merged in ((new, old), (other, old), (old, other)):
        said = await refusal(merge(shop, survivor, merged))
        assert (said.reason, said.metadata) == ("MEMBER_MERGED", {"member_id": old})
    assert (await refusal(merge(shop, new, new))).reason == "INVALID_FIELD"
    assert (await refusal(merge(shop, new, str(uuid4())))).reason == "MEMBER_NOT_FOUND"


async def test_both_must_be_active_and_the_caller_entitled(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    await shop.service.members.SuspendMember(pb.SuspendMemberRequest(request_id=uuid4().hex, member_id=old))
    assert (await refusal(merge(shop, new, old))).reason == "MEMBER_NOT_ACTIVE"
    assert (await refusal(merge(shop, old, new))).reason == "MEMBER_NOT_ACTIVE"
    key = await shop.new_key(CallerKind.SERVICE, scopes=["members.read", "members.write"])
    caller = await shop.caller(key)
    assert (await refusal(caller.members.MergeMembers(joining(new, old)))).reason == "SCOPE_MISSING"
    said = await refusal(shop.terminal.members.MergeMembers(joining(new, old)))
    assert said.reason == "CALLER_NOT_ADMITTED"


async def test_purchases_by_the_old_id_that_race_with_the_merge_are_all_counted(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    await asyncio.gather(
        *(buy(shop, old, 1) for _ in range(40)),
        merge(shop, new, old),
        *(buy(shop, old, 1) for _ in range(40)),
        *(redeem_at_most(shop, old, 3) for _ in range(20)),
    )
    spent = (await history(shop, old) + await history(shop, new)).count("REDEEM")
    assert (await wallet(shop, old)).balance == 800 - 3 * spent


async def redeem_at_most(shop: Laurel, member_id: str, points: int) -> None:
    """Spend, or be told that there is too little."""
    try:
        await redeem(shop, member_id, points)
    except grpc.aio.AioRpcError as error:
        if read(error).reason != "INSUFFICIENT_POINTS":
            raise


async def test_merges_that_race_leave_one_who_has_it_all(shop: Laurel) -> None:
    people = [await shop.register() for _ in range(5)]
    for member_id in people:
        await buy(shop, member_id, 10)
    pairs = [(a, b) for a in people for b in people if a != b]
    results = await asyncio.gather(*(merge(shop, *pair) for pair in pairs), return_exceptions=True)
    refused = [read(r).reason for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert (len(refused), set(refused)) == (len(pairs) - 4, {"MEMBER_MERGED"})
    states = [await member(shop, member_id) for member_id in people]
    [survivor] = [m.member_id for m in states if m.status == pb.MEMBER_STATUS_ACTIVE]
    assert {m.merged_into for m in states} == {"", survivor}
    assert [(await wallet(shop, member_id)).balance for member_id in people] == [500] * 5


async def test_an_adjustment_that_waited_for_approval_is_made_where_the_points_are(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    asking = movements_pb2.AdjustPointsRequest(
        request_id=uuid4().hex, member_id=old, points=20_000, reason="a prize"
    )
    adjustment_id = (await shop.service.points.AdjustPoints(asking)).adjustment_id
    await merge(shop, new, old)
    staff = await shop.caller(await shop.new_key(CallerKind.STAFF, scopes=["points.approve"]))
    approval = adjustments_pb2.ApproveAdjustmentRequest(request_id=uuid4().hex, adjustment_id=adjustment_id)
    assert (await staff.adjustments.ApproveAdjustment(approval)).balance == 20_000
    assert (await wallet(shop, new)).balance == 20_000


async def test_the_ledger_of_all_this_is_proved(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    order = uuid4().hex
    await buy(shop, old, 60, order=order, channel="web")
    await redeem(shop, old, 600)
    await bring_back(shop, order)
    await buy(shop, new, 20)
    await merge(shop, new, old)
    keys = secrets.load(shop.settings.secrets_file).ledger.keys
    results = [step async for step in verify(shop.database, keys) if isinstance(step, Result)]
    assert [(r.check, f.problem) for r in results for f in r.findings] == []


async def test_entries_keep_their_order_whichever_id_they_name(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    await merge(shop, new, old)
    entries = []
    for _ in range(40):
        # Nothing is ever left, so one that overtook another would find too little.
        entries += [accrual(old, 10), redemption(new, 100), accrual(new, 10), redemption(old, 100)]
    async with journal_of(shop) as journal:
        results = await journal.batch(*entries)
        assert outcomes(results) == ["accrue", "redeem"] * 80
        versions = [r.accrue.version or r.redeem.version for r in results]
        assert versions == list(range(versions[0], versions[0] + 160))
        assert {r.accrue.member_id or r.redeem.member_id for r in results} == {new}
        assert await journal.batch(*entries) == results
