"""The pool of a household, over gRPC: given to, reserved, spent, and what comes back."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from loyalty.v1 import holds_pb2, movements_pb2, points_pb2
from loyalty.v1 import households_pb2 as pb

from server import secrets
from server.domain.actor import CallerKind
from server.operations.verify import Result, verify
from server.settings import Settings
from server.store.database import Database
from tests.server.rpc.test_journal import journal_of, outcomes
from tests.server.rpc.test_offline import capture, void
from tests.server.rpc.test_reviews import approve, late, reject
from tests.support.families import (
    LIMIT,
    Family,
    families,
    giving,
    refused,
    spending,
)
from tests.support.mailbox import AT_ONCE, Reader, inbox, set_terms
from tests.support.watching import watching


@pytest.fixture(scope="module")
async def family(settings: Settings, database: Database, folder: Path) -> AsyncIterator[Family]:
    async with families(settings, database, folder) as family:
        yield family


async def test_giving_takes_a_strong_login_and_spending_the_pool_above_the_limit(family: Family) -> None:
    subject = uuid4().hex
    ann, by_ann = await family.member(2 * LIMIT, subject)
    weakly = await family.logs_in(subject, acr="1")
    await family.forms(ann, weakly)
    await refused(weakly.households.ContributePoints(giving(ann, 1)), "STEP_UP_REQUIRED")
    await by_ann.households.ContributePoints(giving(ann, 2 * LIMIT))
    await refused(weakly.points.Redeem(spending(ann, LIMIT + 1)), "STEP_UP_REQUIRED")
    await weakly.points.Redeem(spending(ann, LIMIT))


async def test_a_till_reserves_the_pool_captures_it_and_gives_it_back(family: Family) -> None:
    till = family.laurel.terminal
    ann, by_ann = await family.member(100)
    household = await family.forms(ann, by_ann)
    await by_ann.households.ContributePoints(giving(ann, 100))
    place = holds_pb2.PlaceHoldRequest(
        request_id=uuid4().hex, member_id=ann, points=80, from_household=True, order_reference=uuid4().hex
    )
    hold = (await till.holds.PlaceHold(place)).hold
    assert (hold.member_id, hold.spender_id) == (household.household_id, ann)
    over = pb.DissolveHouseholdRequest(
        request_id=uuid4().hex, household_id=household.household_id, member_id=ann
    )
    await refused(by_ann.households.DissolveHousehold(over), "MEMBER_HAS_HOLDS")
    capture = holds_pb2.CaptureHoldRequest(
        request_id=uuid4().hex, hold_id=hold.hold_id, points=30, order_reference=place.order_reference
    )
    captured = await till.holds.CaptureHold(capture)
    assert await till.holds.CaptureHold(capture) == captured
    assert await family.pool(household) == 70
    back = movements_pb2.RefundRedemptionRequest(
        request_id=uuid4().hex, transaction_id=captured.transaction_id
    )
    assert (await till.points.RefundRedemption(back)).balance == 100
    explained = await family.laurel.staff.points.Explain(
        points_pb2.ExplainRequest(transaction_id=captured.transaction_id)
    )
    assert f"The pool of household {household.household_id} pays for member {ann}." in explained.sentences


async def test_a_till_that_was_offline_captures_the_pool_also_if_it_comes_late(family: Family) -> None:
    ann, by_ann = await family.member(100)
    household = await family.forms(ann, by_ann)
    await by_ann.households.ContributePoints(giving(ann, 100))
    place = holds_pb2.PlaceHoldRequest(request_id=uuid4().hex, member_id=ann, points=80, from_household=True)
    hold_id = (await family.laurel.terminal.holds.PlaceHold(place)).hold.hold_id
    own = capture(hold_id, 30)
    overdue, unwanted = late(capture(hold_id, 20)), late(capture(hold_id, 1))
    async with journal_of(family.laurel) as journal:
        results = await journal.batch(own, overdue, unwanted)
        assert outcomes(results) == ["capture_hold", "review", "review"]
        staff = CallerKind.STAFF
        anna = await family.laurel.caller(await family.laurel.new_key(staff, scopes=["points.review"]))
        approved = (await approve(anna, results[1].review.review_id)).result.capture_hold
        assert (approved.hold.member_id, approved.hold.spender_id) == (household.household_id, ann)
        await reject(anna, results[2].review.review_id)
        again = await journal.batch(own, overdue)
        assert [again[0].capture_hold, again[1].capture_hold] == [results[0].capture_hold, approved]
        assert outcomes(await journal.batch(void(hold_id))) == ["void_hold"]
    assert await family.pool(household) == 50


async def test_who_spends_the_pool_sees_it_live_and_hears_of_much_of_it_whoever_gave_the_points(
    family: Family,
) -> None:
    laurel = family.laurel
    ann, by_ann = await family.member(900)
    household = await family.forms(ann, by_ann)
    ben, _ = await family.joins(household, by_ann)
    await by_ann.households.ContributePoints(giving(ann, 900))
    await set_terms(laurel, replace(AT_ONCE, large_redemption=300))
    reader = Reader(laurel)
    await reader.events()
    till = laurel.terminal
    async with watching(laurel.address, laurel.service.key, ben) as stream:
        await stream.next("standing")
        await till.points.Redeem(spending(ben, 300))
        await till.points.Redeem(spending(ben, 299))
        place = holds_pb2.PlaceHoldRequest(
            request_id=uuid4().hex, member_id=ben, points=301, from_household=True
        )
        hold = (await till.holds.PlaceHold(place)).hold
        capture = holds_pb2.CaptureHoldRequest(request_id=uuid4().hex, hold_id=hold.hold_id)
        await till.holds.CaptureHold(capture)
        await till.holds.CaptureHold(capture)
        spent = "You've spent {} points of your household"
        for said, points, left in (
            (spent, 300, 600),
            (spent, 299, 301),
            ("{} points of your household reserved", 301, 0),
            (spent, 301, 0),
        ):
            update = await stream.next("points")
            assert (update.message, update.household_id) == (said.format(points), household.household_id)
            [moved] = update.moved
            assert (moved.points, moved.wallet.balance) == (points, left)
    await reader.tell()
    told = [m for m in (await inbox(laurel, ben)).messages if m.occasion == "large_redemption"]
    assert [message.subject for message in told] == ["301 points were redeemed", "300 points were redeemed"]
    assert told[1].text.startswith("600 are left.")
    assert [m for m in (await inbox(laurel, ann)).messages if m.occasion == "large_redemption"] == []


async def test_goods_that_come_back_take_points_out_of_the_pool_again(family: Family) -> None:
    ann, by_ann = await family.member()
    household = await family.forms(ann, by_ann, contributes=True)
    receipt = uuid4().hex
    await family.buys(ann, 40, receipt)
    await family.buys(ann, 25)
    await by_ann.points.Redeem(spending(ann, 30))
    back = movements_pb2.ReturnPurchaseRequest(
        request_id=uuid4().hex, order=movements_pb2.PurchaseOrder(order_reference=receipt)
    )
    reply = await family.laurel.terminal.points.ReturnPurchase(back)
    # Ten of the purchase's own, 25 of the other: the last five nobody has.
    assert (reply.points, reply.shortfall, reply.debt) == (40, 0, 5)
    assert await family.pool(household) == 0


async def test_the_ledger_of_all_this_is_proved(family: Family) -> None:
    keys = secrets.load(family.laurel.settings.secrets_file).ledger.keys
    results = [step async for step in verify(family.laurel.database, keys) if isinstance(step, Result)]
    assert [(r.check, f.problem) for r in results for f in r.findings] == []
