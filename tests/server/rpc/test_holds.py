"""Points reserved at the start of a payment, as a till sees it over gRPC."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from loyalty.v1 import holds_pb2 as pb
from loyalty.v1 import movements_pb2, points_pb2

from server.domain.actor import CallerKind
from tests.support.refusals import refusal
from tests.support.servers import Caller, Laurel
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
async def staff(laurel: Laurel) -> Caller:
    """Who may put points in."""
    return await laurel.caller(await laurel.new_key(CallerKind.STAFF, scopes=["points.*"]))


async def member_with(laurel: Laurel, staff: Caller, points: int) -> str:
    member_id = await laurel.register()
    await staff.points.AdjustPoints(
        movements_pb2.AdjustPointsRequest(
            request_id=uuid4().hex, member_id=member_id, points=points, reason="a present"
        )
    )
    return member_id


async def figures(laurel: Laurel, member_id: str) -> tuple[int, int]:
    """Balance and held."""
    reply = await laurel.terminal.points.GetBalance(points_pb2.GetBalanceRequest(member_id=member_id))
    return reply.wallets[0].balance, reply.wallets[0].held


async def place(laurel: Laurel, member_id: str, points: int, **more: Any) -> pb.PlaceHoldResponse:
    return await laurel.terminal.holds.PlaceHold(
        pb.PlaceHoldRequest(request_id=uuid4().hex, member_id=member_id, points=points, **more)
    )


def capture(hold_id: str, points: int = 0, *, keep_rest: bool = False) -> pb.CaptureHoldRequest:
    return pb.CaptureHoldRequest(request_id=uuid4().hex, hold_id=hold_id, points=points, keep_rest=keep_rest)


def void(hold_id: str) -> pb.VoidHoldRequest:
    return pb.VoidHoldRequest(request_id=uuid4().hex, hold_id=hold_id)


async def test_what_is_held_is_not_spent_by_others_and_its_rest_comes_back(
    laurel: Laurel, staff: Caller
) -> None:
    member_id = await member_with(laurel, staff, 100)
    hold = (await place(laurel, member_id, 60)).hold
    assert await figures(laurel, member_id) == (40, 60)
    assert (hold.points, hold.open_points, hold.status) == (60, 60, pb.HOLD_STATUS_OPEN)
    spending = points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=41)
    assert (await refusal(laurel.terminal.points.Redeem(spending))).reason == "INSUFFICIENT_POINTS"
    reply = await laurel.terminal.holds.CaptureHold(capture(hold.hold_id, 25))
    assert (reply.points, reply.balance, reply.hold.status) == (25, 75, pb.HOLD_STATUS_CAPTURED)
    assert await figures(laurel, member_id) == (75, 0)


async def test_an_allowance_is_captured_in_parts(laurel: Laurel, staff: Caller) -> None:
    member_id = await member_with(laurel, staff, 100)
    hold_id = (await place(laurel, member_id, 90, time_limit_seconds=86_400)).hold.hold_id
    for points in (30, 20):
        await laurel.terminal.holds.CaptureHold(capture(hold_id, points, keep_rest=True))
    assert await figures(laurel, member_id) == (10, 40)
    said = await refusal(laurel.terminal.holds.CaptureHold(capture(hold_id, 41)))
    assert (said.reason, said.metadata) == ("HOLD_EXCEEDED", {"open": "40", "requested": "41"})
    listed = await laurel.terminal.holds.ListHolds(pb.ListHoldsRequest(member_id=member_id))
    assert [(hold.open_points, hold.captured_points) for hold in listed.holds] == [(40, 50)]
    await laurel.terminal.holds.CaptureHold(capture(hold_id))
    assert await figures(laurel, member_id) == (10, 0)
    listed = await laurel.terminal.holds.ListHolds(pb.ListHoldsRequest(member_id=member_id))
    assert not listed.holds


async def test_captures_and_voids_that_race_spend_or_release_each_point_once(
    laurel: Laurel, staff: Caller
) -> None:
    for _ in range(5):
        member_id = await member_with(laurel, staff, 100)
        hold_id = (await place(laurel, member_id, 60)).hold.hold_id
        holds = laurel.terminal.holds
        results = await asyncio.gather(
            *(holds.CaptureHold(capture(hold_id, 7, keep_rest=True)) for _ in range(12)),
            holds.VoidHold(void(hold_id)),
            return_exceptions=True,
        )
        captured = sum(isinstance(result, pb.CaptureHoldResponse) for result in results)
        hold = (await holds.GetHold(pb.GetHoldRequest(hold_id=hold_id))).hold
        assert hold.captured_points == 7 * captured
        assert await figures(laurel, member_id) == (100 - 7 * captured - hold.open_points, hold.open_points)


async def test_a_hold_that_nobody_answers_ends_by_itself(laurel: Laurel, staff: Caller) -> None:
    member_id = await member_with(laurel, staff, 100)
    hold_id = (await place(laurel, member_id, 60, time_limit_seconds=1)).hold.hold_id

    async def expired() -> bool:
        request = pb.GetHoldRequest(hold_id=hold_id)
        return (await laurel.terminal.holds.GetHold(request)).hold.status == pb.HOLD_STATUS_EXPIRED

    await eventually(expired)
    spending = points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=100)
    assert (await laurel.terminal.points.Redeem(spending)).balance == 0
    said = await refusal(laurel.terminal.holds.CaptureHold(capture(hold_id)))
    assert (said.reason, said.metadata) == ("HOLD_NOT_OPEN", {"status": "expired"})


async def test_the_same_request_gets_the_same_reply(laurel: Laurel, staff: Caller) -> None:
    member_id = await member_with(laurel, staff, 100)
    asked = pb.PlaceHoldRequest(request_id=uuid4().hex, member_id=member_id, points=60)
    placed = [await laurel.terminal.holds.PlaceHold(asked) for _ in range(2)]
    assert placed[0] == placed[1]
    request = capture(placed[0].hold.hold_id, 10)
    captured = [await laurel.terminal.holds.CaptureHold(request) for _ in range(2)]
    assert captured[0] == captured[1]
    assert await figures(laurel, member_id) == (90, 0)


async def test_a_hold_of_another_program_is_not_found(laurel: Laurel) -> None:
    unknown = str(uuid4())
    for call in (
        laurel.terminal.holds.GetHold(pb.GetHoldRequest(hold_id=unknown)),
        laurel.terminal.holds.CaptureHold(capture(unknown)),
        laurel.terminal.holds.VoidHold(void(unknown)),
    ):
        assert (await refusal(call)).reason == "HOLD_NOT_FOUND"
    said = await refusal(place(laurel, await laurel.register(), 1, time_limit_seconds=40 * 86_400))
    assert said.violations.keys() == {"time_limit_seconds"}


async def test_an_order_is_not_paid_by_capture_and_by_redemption(laurel: Laurel, staff: Caller) -> None:
    member_id, receipt = await member_with(laurel, staff, 100), uuid4().hex
    hold_id = (await place(laurel, member_id, 60)).hold.hold_id
    request = capture(hold_id, 20)
    request.order_reference = receipt
    await laurel.terminal.holds.CaptureHold(request)
    spending = points_pb2.RedeemRequest(
        request_id=uuid4().hex, member_id=member_id, points=20, order_reference=receipt
    )
    assert (await refusal(laurel.terminal.points.Redeem(spending))).reason == "ORDER_ALREADY_RECORDED"
    page = await laurel.terminal.points.ListHistory(points_pb2.ListHistoryRequest(member_id=member_id))
    named = {row.kind: row.order_reference for row in page.transactions}
    assert named[points_pb2.TRANSACTION_KIND_CAPTURE] == receipt
    assert named[points_pb2.TRANSACTION_KIND_RELEASE] == "", "the order's rows are those of its event"


async def test_staff_leave_a_trace_of_whose_points_they_touch(laurel: Laurel, staff: Caller) -> None:
    member_id = await laurel.register()
    too_much = movements_pb2.AdjustPointsRequest(
        request_id=uuid4().hex, member_id=member_id, points=-5, reason="a try"
    )
    assert (await refusal(staff.points.AdjustPoints(too_much))).reason == "INSUFFICIENT_POINTS"
    async with laurel.database.connection() as connection:
        method = await connection.fetchval(
            "SELECT method FROM access_audit WHERE $1::uuid = ANY(member_ids)", member_id
        )
    assert method == "loyalty.v1.PointsService.AdjustPoints"
