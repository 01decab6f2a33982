"""HoldService: parse, act, render."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any
from uuid import UUID

from loyalty.v1 import holds_pb2 as pb

from server.domain.commands import CaptureHold, Outcome, PlaceHold, VoidHold
from server.domain.due import hold_as_due
from server.domain.ledger import MAX_POINTS, Hold, HoldStatus
from server.operations.points import Points
from server.rpc import activities
from server.rpc.fields import Fields
from server.rpc.gate import Call
from server.rpc.money import money
from server.rpc.movements import circumstances
from server.rpc.outcomes import NOBODY, outcome_of, the_member
from server.rpc.versions import Versions

MAX_SECONDS = 366 * 24 * 3600

STATUSES: Mapping[HoldStatus, pb.HoldStatus.ValueType] = MappingProxyType(
    {
        HoldStatus.OPEN: pb.HOLD_STATUS_OPEN,
        HoldStatus.CAPTURED: pb.HOLD_STATUS_CAPTURED,
        HoldStatus.VOIDED: pb.HOLD_STATUS_VOIDED,
        HoldStatus.EXPIRED: pb.HOLD_STATUS_EXPIRED,
    }
)


class HoldService:
    """The RPCs of HoldService, called by the gate."""

    def __init__(self, points: Points, versions: Versions, clock: Callable[[], datetime]) -> None:
        self._points = points
        self._versions = versions
        self._clock = clock

    async def PlaceHold(self, request: pb.PlaceHoldRequest, call: Call) -> pb.PlaceHoldResponse:
        """Reserve points."""
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        named = activities.member(fields, "", request)
        points = fields.count("points", request.points, 1, MAX_POINTS)
        seconds = fields.count("time_limit_seconds", request.time_limit_seconds, 0, MAX_SECONDS)
        point_type = fields.text(
            "point_type", request.point_type, max_length=activities.MAX_LABEL, required=False
        )
        fields.check()
        who = self._points.named(call.actor.program_id, named)
        command = partial(
            PlaceHold,
            member_id=NOBODY,
            member_given=who.given,
            points=points,
            point_type=point_type,
            seconds=seconds,
            from_household=request.from_household,
            received_at=self._clock(),
            **said,
        )
        outcome = await outcome_of(self._points, call, command, the_member(self._points, who))
        assert outcome.hold is not None
        return pb.PlaceHoldResponse(
            event_id=str(outcome.event_id),
            transaction_id=str(outcome.awards[0].transaction_id),
            hold=_hold(outcome.member_id, outcome.hold),
            balance=outcome.balance,
            version=outcome.version,
            consistency_token=self._token(call, outcome),
        )

    async def CaptureHold(self, request: pb.CaptureHoldRequest, call: Call) -> pb.CaptureHoldResponse:
        """Spend reserved points."""
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        hold_id = fields.uuid("hold_id", request.hold_id)
        points = fields.count("points", request.points, 0, MAX_POINTS)
        fields.check()
        command = partial(
            CaptureHold,
            member_id=NOBODY,
            member_given="",
            hold_id=hold_id,
            points=points,
            keep_rest=request.keep_rest,
            received_at=self._clock(),
            **said,
        )
        meant = self._payer_and_spender(call.actor.program_id, hold_id)
        outcome = await outcome_of(self._points, call, command, meant)
        assert outcome.hold is not None
        return pb.CaptureHoldResponse(
            event_id=str(outcome.event_id),
            transaction_id=str(outcome.awards[0].transaction_id),
            hold=_hold(outcome.member_id, outcome.hold),
            points=outcome.points,
            value=None if outcome.value is None else money(outcome.currency, outcome.value),
            balance=outcome.balance,
            version=outcome.version,
            consistency_token=self._token(call, outcome),
        )

    async def VoidHold(self, request: pb.VoidHoldRequest, call: Call) -> pb.VoidHoldResponse:
        """Release reserved points."""
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        hold_id = fields.uuid("hold_id", request.hold_id)
        fields.check()
        command = partial(
            VoidHold,
            member_id=NOBODY,
            member_given="",
            hold_id=hold_id,
            received_at=self._clock(),
            **said,
        )
        outcome = await outcome_of(self._points, call, command, self._payer(call.actor.program_id, hold_id))
        assert outcome.hold is not None
        return pb.VoidHoldResponse(
            event_id=str(outcome.event_id),
            hold=_hold(outcome.member_id, outcome.hold),
            points=outcome.points,
            balance=outcome.balance,
            version=outcome.version,
            consistency_token=self._token(call, outcome),
        )

    async def GetHold(self, request: pb.GetHoldRequest, call: Call) -> pb.GetHoldResponse:
        """Show a hold."""
        fields = Fields()
        hold_id = fields.uuid("hold_id", request.hold_id)
        fields.check()
        member_id, hold = await self._points.hold(call.actor.program_id, hold_id)
        call.touched.append(member_id)
        return pb.GetHoldResponse(hold=_hold(member_id, hold_as_due(hold, self._clock())))

    async def ListHolds(self, request: pb.ListHoldsRequest, call: Call) -> pb.ListHoldsResponse:
        """Show what is reserved of a member's points."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        fields.check()
        holds = await self._points.holds(call.actor.program_id, member_id)
        return pb.ListHoldsResponse(holds=[_hold(member_id, hold) for hold in holds])

    async def _payer(self, program_id: UUID, hold_id: UUID) -> Mapping[str, Any]:
        """Whose points are reserved."""
        member_id, _ = await self._points.hold(program_id, hold_id)
        return {"member_id": member_id}

    async def _payer_and_spender(self, program_id: UUID, hold_id: UUID) -> Mapping[str, Any]:
        """Whose points are reserved, and for whom if they are a pool's."""
        member_id, hold = await self._points.hold(program_id, hold_id)
        return {"member_id": member_id, "spender_id": hold.spender_id}

    def _token(self, call: Call, outcome: Outcome) -> str:
        return self._versions.token(call.actor.program_id, outcome.member_id, outcome.version)


def _hold(member_id: UUID, hold: Hold) -> pb.Hold:
    message = pb.Hold(
        hold_id=str(hold.hold_id),
        member_id=str(member_id),
        point_type=hold.point_type,
        points=hold.points,
        open_points=hold.open_points,
        captured_points=hold.captured,
        status=STATUSES[hold.status],
        spender_id="" if hold.spender_id is None else str(hold.spender_id),
    )
    message.expire_time.FromDatetime(hold.expires_at)
    return message
