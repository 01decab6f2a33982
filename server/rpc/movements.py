"""What moves points other than earning and redeeming: returns, refunds, transfers, adjustments."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from loyalty.v1 import adjustments_pb2
from loyalty.v1 import movements_pb2 as pb

from server.domain.actor import Actor, CallerKind
from server.domain.commands import Adjust, Item, Outcome, Refund, Return, Transfer
from server.domain.errors import PermissionDenied
from server.domain.ledger import MAX_POINTS
from server.domain.members import Identifier
from server.operations.points import Points
from server.rpc import activities, profiles
from server.rpc.fields import Fields
from server.rpc.gate import Call

MAX_REASON = 500
MAX_ITEMS = 1000


class Movements:
    """Those RPCs of PointsService."""

    def __init__(self, points: Points, clock: Callable[[], datetime]) -> None:
        self._points = points
        self._clock = clock

    async def ReturnPurchase(
        self, request: pb.ReturnPurchaseRequest, call: Call
    ) -> pb.ReturnPurchaseResponse:
        """Take back what returned goods had earned."""
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        items = _items(fields, request)
        which = request.WhichOneof("purchase")
        event_id = fields.uuid("event_id", request.event_id) if which == "event_id" else None
        receipt = fields.text(
            "order.order_reference",
            request.order.order_reference,
            max_length=activities.MAX_LABEL,
            required=which == "order",
        )
        store = fields.text(
            "order.store", request.order.store, max_length=activities.MAX_LABEL, required=False
        )
        day = fields.date("order.business_date", request.order)
        named = activities.member(fields, "", request) if _names_member(request) else None
        if which is None and not items:
            fields.add("items", "are required where no purchase is named")
        if which != "order" and named is None:
            fields.add("member_id", "is required where the purchase is not named by its order")
        fields.check()
        member_id, given = None, ""
        if named is not None:
            member_id, given = await self._points.who(call.actor.program_id, named)
        if which == "order":
            owner, event_id = await self._points.purchase(call.actor.program_id, receipt, store, day)
            member_id = member_id or owner
        assert member_id is not None
        await call.count(member_id)
        purchase_given = [str(event_id)] if which == "event_id" else [receipt, store, str(day or "")]
        said["reference"] = said["reference"] or receipt
        command = Return(
            member_id=member_id,
            member_given=given,
            event_id=event_id,
            purchase_given="" if which is None else json.dumps(purchase_given),
            items=items,
            received_at=self._clock(),
            **said,
        )
        return _returned(await self._points.commit(command, call.deadline))

    async def RefundRedemption(
        self, request: pb.RefundRedemptionRequest, call: Call
    ) -> pb.RefundRedemptionResponse:
        """Give redeemed points back."""
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        transaction_id = fields.uuid("transaction_id", request.transaction_id)
        points = fields.count("points", request.points, 0, MAX_POINTS)
        fields.check()
        row = await self._points.transaction(call.actor.program_id, transaction_id)
        await call.count(row.member_id)
        command = Refund(
            member_id=row.member_id,
            member_given="",
            transaction_id=transaction_id,
            points=points,
            received_at=self._clock(),
            **said,
        )
        outcome = await self._points.commit(command, call.deadline)
        return pb.RefundRedemptionResponse(debt=outcome.debt, **one_row(outcome))

    async def TransferPoints(
        self, request: pb.TransferPointsRequest, call: Call
    ) -> pb.TransferPointsResponse:
        """Hand points on to another member."""
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        giver = activities.member(fields, "", request)
        getter: UUID | Identifier
        if request.WhichOneof("to") == "to_identifier":
            _check_probing(request, call)
            getter = profiles.identifier(fields, "to_identifier", request.to_identifier)
        else:
            getter = fields.uuid("to_member_id", request.to_member_id)
        points = fields.count("points", request.points, 1, MAX_POINTS)
        point_type = _point_type(fields, request)
        fields.check()
        member_id, given = await self._points.who(call.actor.program_id, giver)
        await call.count(member_id)
        to_member_id, to_given = await self._points.who(call.actor.program_id, getter)
        command = Transfer(
            member_id=member_id,
            member_given=given,
            to_member_id=to_member_id,
            to_given=to_given,
            points=points,
            point_type=point_type,
            received_at=self._clock(),
            **said,
        )
        return pb.TransferPointsResponse(**one_row(await self._points.commit(command, call.deadline)))

    async def AdjustPoints(self, request: pb.AdjustPointsRequest, call: Call) -> pb.AdjustPointsResponse:
        """Correct a wallet by hand."""
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        fields.text("reason", request.reason, max_length=MAX_REASON)
        said["reference"] = fields.text(
            "reference", request.reference, max_length=activities.MAX_LABEL, required=False
        )
        named = activities.member(fields, "", request)
        points = fields.count("points", request.points, -MAX_POINTS, MAX_POINTS)
        if points == 0:
            fields.add("points", "must not be 0")
        expires_at = fields.timestamp("expire_time", request)
        now = self._clock()
        if expires_at is not None and (expires_at <= now or points < 0):
            fields.add("expire_time", "must lie in the future, and only where points are put in")
        point_type = _point_type(fields, request)
        fields.check()
        member_id, given = await self._points.who(call.actor.program_id, named)
        call.touched.append(member_id)
        await call.count(member_id)
        command = Adjust(
            member_id=member_id,
            member_given=given,
            points=points,
            point_type=point_type,
            expires_at=expires_at,
            received_at=now,
            **said,
        )
        return _adjusted(await self._points.commit(command, call.deadline))


def _check_probing(request: pb.TransferPointsRequest, call: Call) -> None:
    """Members can't find out by trial whose email or phone number belongs to a member."""
    kind = request.to_identifier.WhichOneof("kind")
    if call.actor.kind is CallerKind.MEMBER and kind in {"email", "phone"}:
        raise PermissionDenied(
            "CALLER_NOT_ADMITTED",
            "a member names who gets points by id or card",
            {"method": call.method, "fields": f"to_identifier.{kind}"},
        )


def circumstances(fields: Fields, request: Any, actor: Actor) -> dict[str, Any]:
    """What commands have in common, from those of the usual fields that the request has."""
    names = request.DESCRIPTOR.fields_by_name

    def label(name: str, max_length: int = activities.MAX_LABEL) -> str:
        if name not in names:
            return ""
        return fields.text(name, getattr(request, name), max_length=max_length, required=False)

    return {
        "actor": actor,
        "request_id": fields.token("request_id", request.request_id),
        "reference": label("order_reference"),
        "store": label("store") or actor.store,
        "channel": label("channel"),
        "occurred_at": fields.timestamp("occur_time", request) if "occur_time" in names else None,
        "business_date": fields.date("business_date", request) if "business_date" in names else None,
        "part": label("part", activities.MAX_PART),
        "reason": label("reason", MAX_REASON),
    }


def one_row(outcome: Outcome) -> dict[str, Any]:
    """What is told of a movement of one row."""
    return {
        "event_id": str(outcome.event_id),
        "member_id": str(outcome.member_id),
        "transaction_id": str(outcome.awards[0].transaction_id),
        "point_type": outcome.point_type,
        "points": outcome.points,
        "balance": outcome.balance,
        "version": outcome.version,
    }


def _point_type(fields: Fields, request: Any) -> str:
    return fields.text("point_type", request.point_type, max_length=activities.MAX_LABEL, required=False)


def _names_member(request: pb.ReturnPurchaseRequest) -> bool:
    return request.WhichOneof("member") is not None


def _items(fields: Fields, request: pb.ReturnPurchaseRequest) -> tuple[Item, ...]:
    if len(request.items) > MAX_ITEMS:
        fields.add("items", f"must be at most {MAX_ITEMS:,}")
        return ()
    items: list[Item] = []
    seen: set[tuple[str, str]] = set()
    for place, message in enumerate(request.items):
        path = f"items[{place}]"
        line_id = fields.text(
            f"{path}.line_id", message.line_id, max_length=activities.MAX_LABEL, required=False
        )
        sku = fields.text(f"{path}.sku", message.sku, max_length=activities.MAX_LABEL, required=False)
        if bool(line_id) == bool(sku):
            fields.add(path, "must name either a line or an SKU")
        elif line_id and request.WhichOneof("purchase") is None:
            fields.add(f"{path}.line_id", "means nothing where no purchase is named")
        elif (line_id, sku) in seen:
            fields.add(path, "stands there twice; add the quantities up")
        seen.add((line_id, sku))
        quantity = fields.count(f"{path}.quantity", message.quantity, 1, activities.MAX_QUANTITY)
        items.append(Item(line_id, sku, quantity))
    return tuple(items)


def _adjusted(outcome: Outcome) -> pb.AdjustPointsResponse:
    pending = outcome.adjustment_id is not None
    return pb.AdjustPointsResponse(
        event_id=str(outcome.event_id),
        member_id=str(outcome.member_id),
        transaction_id="" if pending else str(outcome.awards[0].transaction_id),
        point_type=outcome.point_type,
        points=outcome.points,
        balance=outcome.balance,
        debt=outcome.debt,
        version=outcome.version,
        status=adjustments_pb2.ADJUSTMENT_STATUS_PENDING
        if pending
        else adjustments_pb2.ADJUSTMENT_STATUS_APPROVED,
        adjustment_id=str(outcome.adjustment_id) if pending else "",
    )


def _returned(outcome: Outcome) -> pb.ReturnPurchaseResponse:
    return pb.ReturnPurchaseResponse(
        event_id=str(outcome.event_id),
        member_id=str(outcome.member_id),
        reversals=[
            pb.Reversal(transaction_id=str(a.transaction_id), point_type=a.point_type, points=a.points)
            for a in outcome.awards
        ],
        points=outcome.points,
        shortfall=outcome.shortfall,
        lines=[
            pb.ReturnedLine(event_id=str(line.event_id), line_id=line.line_id, quantity=line.quantity)
            for line in outcome.lines
        ],
        unmatched=[
            pb.ReturnItem(line_id=item.line_id, sku=item.sku, quantity=item.quantity)
            for item in outcome.unmatched
        ],
        balance=outcome.balance,
        debt=outcome.debt,
        tier=outcome.tier,
        version=outcome.version,
    )
