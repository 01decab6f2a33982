"""What moves points other than earning and redeeming: returns, refunds, transfers, adjustments."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from loyalty.v1 import adjustments_pb2
from loyalty.v1 import movements_pb2 as pb

from server.domain.actor import Actor, CallerKind
from server.domain.commands import Adjust, Item, Outcome, Refund, Return, Transfer
from server.domain.errors import PermissionDenied
from server.domain.ledger import MAX_POINTS
from server.domain.members import Identifier
from server.operations.points import Named, Points
from server.rpc import activities, profiles
from server.rpc.fields import Fields
from server.rpc.gate import Call
from server.rpc.outcomes import NOBODY, outcome_of, the_member
from server.rpc.versions import Versions
from server.store.keys import NamedPurchase

MAX_REASON = 500
MAX_ITEMS = 1000


class Movements:
    """Those RPCs of PointsService."""

    def __init__(self, points: Points, versions: Versions, clock: Callable[[], datetime]) -> None:
        self._points = points
        self._versions = versions
        self._clock = clock

    def _token(self, call: Call, outcome: Outcome) -> str:
        return self._versions.token(call.actor.program_id, outcome.member_id, outcome.version)

    async def ReturnPurchase(
        self, request: pb.ReturnPurchaseRequest, call: Call
    ) -> pb.ReturnPurchaseResponse:
        """Take back what returned goods had earned."""
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        items = _items(fields, request)
        which = request.WhichOneof("purchase")
        event_id = fields.uuid("event_id", request.event_id) if which == "event_id" else None
        receipt = _receipt(fields, request.order) if which == "order" else None
        named = activities.member(fields, "", request) if _names_member(request) else None
        if which is None and not items:
            fields.add("items", "are required where no purchase is named")
        if which != "order" and named is None:
            fields.add("member_id", "is required where the purchase is not named by its order")
        fields.check()
        who = None if named is None else self._points.named(call.actor.program_id, named)
        if receipt is not None:
            said["reference"] = said["reference"] or receipt.order_reference
        command = partial(
            Return,
            member_id=NOBODY,
            member_given="" if who is None else who.given,
            event_id=event_id,
            purchase_given=_purchase_given(event_id, receipt),
            items=items,
            received_at=self._clock(),
            **said,
        )
        meant = self._bought(call.actor.program_id, who, event_id, receipt)
        outcome = await outcome_of(self._points, call, command, meant)
        return _returned(outcome, self._token(call, outcome))

    async def _bought(
        self, program_id: UUID, who: Named | None, event_id: UUID | None, receipt: NamedPurchase | None
    ) -> Mapping[str, Any]:
        """Who brings back, and of which purchase if one is named."""
        member_id = None if who is None else await self._points.member(who)
        if receipt is not None:
            owner, event_id = await self._points.purchase(program_id, receipt)
            member_id = member_id or owner
        return {"member_id": member_id, "event_id": event_id}

    async def RefundRedemption(
        self, request: pb.RefundRedemptionRequest, call: Call
    ) -> pb.RefundRedemptionResponse:
        """Give redeemed points back."""
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        transaction_id = fields.uuid("transaction_id", request.transaction_id)
        points = fields.count("points", request.points, 0, MAX_POINTS)
        fields.check()
        command = partial(
            Refund,
            member_id=NOBODY,
            member_given="",
            transaction_id=transaction_id,
            points=points,
            received_at=self._clock(),
            **said,
        )
        meant = self._spent(call.actor.program_id, transaction_id)
        outcome = await outcome_of(self._points, call, command, meant)
        return pb.RefundRedemptionResponse(debt=outcome.debt, **one_row(outcome, self._token(call, outcome)))

    async def _spent(self, program_id: UUID, transaction_id: UUID) -> Mapping[str, Any]:
        return {"member_id": (await self._points.transaction(program_id, transaction_id)).member_id}

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
        giving = self._points.named(call.actor.program_id, giver)
        getting = self._points.named(call.actor.program_id, getter)
        command = partial(
            Transfer,
            member_id=NOBODY,
            member_given=giving.given,
            to_member_id=NOBODY,
            to_given=getting.given,
            points=points,
            point_type=point_type,
            received_at=self._clock(),
            **said,
        )
        meant = self._both(giving, getting, call)
        outcome = await outcome_of(self._points, call, command, meant)
        return pb.TransferPointsResponse(**one_row(outcome, self._token(call, outcome)))

    async def _both(self, giver: Named, getter: Named, call: Call) -> Mapping[str, Any]:
        member_id = await self._points.member(giver)
        # Before the other is looked for, so that nobody tries out many names.
        await call.count(member_id)
        return {"member_id": member_id, "to_member_id": await self._points.member(getter)}

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
        if expires_at is not None and points < 0:
            fields.add("expire_time", "means nothing where points are taken out")
        point_type = _point_type(fields, request)
        fields.check()
        who = self._points.named(call.actor.program_id, named)
        command = partial(
            Adjust,
            member_id=NOBODY,
            member_given=who.given,
            points=points,
            point_type=point_type,
            expires_at=expires_at,
            received_at=self._clock(),
            **said,
        )
        outcome = await outcome_of(self._points, call, command, the_member(self._points, who))
        return _adjusted(outcome, self._token(call, outcome))


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


def one_row(outcome: Outcome, token: str) -> dict[str, Any]:
    """What is told of a movement of one row."""
    return {
        "event_id": str(outcome.event_id),
        "member_id": str(outcome.member_id),
        "transaction_id": str(outcome.awards[0].transaction_id),
        "point_type": outcome.point_type,
        "points": outcome.points,
        "balance": outcome.balance,
        "version": outcome.version,
        "consistency_token": token,
    }


def _point_type(fields: Fields, request: Any) -> str:
    return fields.text("point_type", request.point_type, max_length=activities.MAX_LABEL, required=False)


def _names_member(request: pb.ReturnPurchaseRequest) -> bool:
    return request.WhichOneof("member") is not None


def _receipt(fields: Fields, order: pb.PurchaseOrder) -> NamedPurchase:
    def label(name: str, *, max_length: int = activities.MAX_LABEL, required: bool = False) -> str:
        return fields.text(f"order.{name}", getattr(order, name), max_length=max_length, required=required)

    return NamedPurchase(
        label("order_reference", required=True),
        label("store"),
        fields.date("order.business_date", order),
        label("part", max_length=activities.MAX_PART),
        label("source_system"),
        order.exact,
    )


def _purchase_given(event_id: UUID | None, receipt: NamedPurchase | None) -> str:
    """How the caller named the purchase, as requests have been remembered from the first on."""
    if receipt is None:
        return "" if event_id is None else json.dumps([str(event_id)])
    reference, store, day, *more = receipt
    return json.dumps([reference, store, str(day or ""), *(more if any(more) else ())])


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


def _adjusted(outcome: Outcome, token: str) -> pb.AdjustPointsResponse:
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
        consistency_token=token,
        status=adjustments_pb2.ADJUSTMENT_STATUS_PENDING
        if pending
        else adjustments_pb2.ADJUSTMENT_STATUS_APPROVED,
        adjustment_id=str(outcome.adjustment_id) if pending else "",
    )


def _returned(outcome: Outcome, token: str) -> pb.ReturnPurchaseResponse:
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
        consistency_token=token,
    )
