"""Everything that can be done to the points of a member, over gRPC."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from google.protobuf.message import Message
from google.type.money_pb2 import Money
from loyalty.v1 import adjustments_pb2, holds_pb2, movements_pb2, points_pb2

from tests.support.servers import Caller


def once() -> dict[str, str]:
    """A request of its own."""
    return {"request_id": uuid4().hex}


async def movements(till: Caller, service: Caller, staff: Caller, member_id: str) -> AsyncIterator[Message]:
    """Replies to everything that moves points of a member."""
    mine: dict[str, Any] = {"member_id": member_id}
    amount = Money(currency_code="INR", units=500)
    order = points_pb2.AccrueRequest(**once(), **mine, order_reference=uuid4().hex, amount=amount)
    yield await till.points.Accrue(order)
    spent = await till.points.Redeem(points_pb2.RedeemRequest(**once(), **mine, points=40))
    yield spent
    back = movements_pb2.RefundRedemptionRequest(**once(), transaction_id=spent.transaction_id, points=10)
    yield await till.points.RefundRedemption(back)
    bought = movements_pb2.PurchaseOrder(order_reference=order.order_reference)
    yield await till.points.ReturnPurchase(movements_pb2.ReturnPurchaseRequest(**once(), order=bought))
    for points in (300, 20_000, 20_000):
        wish = movements_pb2.AdjustPointsRequest(**once(), **mine, points=points, reason="a prize")
        asked = await service.points.AdjustPoints(wish)
        yield asked
        if asked.adjustment_id:
            decided: dict[str, Any] = {**once(), "adjustment_id": asked.adjustment_id}
            yield await staff.adjustments.RejectAdjustment(adjustments_pb2.RejectAdjustmentRequest(**decided))
    wish.request_id = uuid4().hex
    asked = await service.points.AdjustPoints(wish)
    agreed = adjustments_pb2.ApproveAdjustmentRequest(**once(), adjustment_id=asked.adjustment_id)
    yield await staff.adjustments.ApproveAdjustment(agreed)
    held = await till.holds.PlaceHold(holds_pb2.PlaceHoldRequest(**once(), **mine, points=30))
    yield held
    taken = holds_pb2.CaptureHoldRequest(**once(), hold_id=held.hold.hold_id, points=5, keep_rest=True)
    yield await till.holds.CaptureHold(taken)
    yield await till.holds.VoidHold(holds_pb2.VoidHoldRequest(**once(), hold_id=held.hold.hold_id))
