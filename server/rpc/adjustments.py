"""AdjustmentService: parse, act, render."""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from loyalty.v1 import adjustments_pb2 as pb

from server.domain import commands
from server.domain.adjustments import Adjustment, AdjustmentStatus
from server.operations.adjustments import Adjustments
from server.operations.points import Points
from server.rpc.fields import Fields
from server.rpc.gate import Call
from server.rpc.movements import circumstances
from server.rpc.pages import Pages
from server.rpc.versions import Versions

STATUSES: Mapping[AdjustmentStatus, pb.AdjustmentStatus.ValueType] = MappingProxyType(
    {
        AdjustmentStatus.PENDING: pb.ADJUSTMENT_STATUS_PENDING,
        AdjustmentStatus.APPROVED: pb.ADJUSTMENT_STATUS_APPROVED,
        AdjustmentStatus.REJECTED: pb.ADJUSTMENT_STATUS_REJECTED,
    }
)

Decision = type[commands.ApproveAdjustment] | type[commands.RejectAdjustment]


class AdjustmentService:
    """The RPCs of AdjustmentService, called by the gate."""

    def __init__(
        self,
        adjustments: Adjustments,
        points: Points,
        pages: Pages,
        versions: Versions,
        clock: Callable[[], datetime],
    ) -> None:
        self._adjustments = adjustments
        self._points = points
        self._pages = pages
        self._versions = versions
        self._clock = clock

    async def ApproveAdjustment(
        self, request: pb.ApproveAdjustmentRequest, call: Call
    ) -> pb.ApproveAdjustmentResponse:
        """Make an adjustment that somebody else asked for."""
        outcome, decided = await self._decide(commands.ApproveAdjustment, request, call)
        return pb.ApproveAdjustmentResponse(
            adjustment=_message(decided),
            event_id=str(outcome.event_id),
            transaction_id=str(outcome.awards[0].transaction_id),
            balance=outcome.balance,
            debt=outcome.debt,
            version=outcome.version,
            consistency_token=self._token(call, outcome),
        )

    async def RejectAdjustment(
        self, request: pb.RejectAdjustmentRequest, call: Call
    ) -> pb.RejectAdjustmentResponse:
        """Leave the wallet as it is."""
        outcome, decided = await self._decide(commands.RejectAdjustment, request, call)
        return pb.RejectAdjustmentResponse(
            adjustment=_message(decided), consistency_token=self._token(call, outcome)
        )

    def _token(self, call: Call, outcome: commands.Outcome) -> str:
        return self._versions.token(call.actor.program_id, outcome.member_id, outcome.version)

    async def _decide(
        self,
        kind: Decision,
        request: pb.ApproveAdjustmentRequest | pb.RejectAdjustmentRequest,
        call: Call,
    ) -> tuple[commands.Outcome, Adjustment]:
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        adjustment_id = fields.uuid("adjustment_id", request.adjustment_id)
        fields.check()
        program_id = call.actor.program_id
        asked = await self._adjustments.get(program_id, adjustment_id)
        call.touched.append(asked.member_id)
        await call.count(asked.member_id)
        command = kind(
            member_id=asked.member_id,
            member_given="",
            adjustment_id=adjustment_id,
            received_at=self._clock(),
            **said,
        )
        outcome = await self._points.commit(command, call.deadline)
        return outcome, await self._adjustments.get(program_id, adjustment_id)

    async def GetAdjustment(self, request: pb.GetAdjustmentRequest, call: Call) -> pb.GetAdjustmentResponse:
        """Show an adjustment."""
        fields = Fields()
        adjustment_id = fields.uuid("adjustment_id", request.adjustment_id)
        fields.check()
        found = await self._adjustments.get(call.actor.program_id, adjustment_id)
        call.touched.append(found.member_id)
        return pb.GetAdjustmentResponse(adjustment=_message(found))

    async def ListAdjustments(
        self, request: pb.ListAdjustmentsRequest, call: Call
    ) -> pb.ListAdjustmentsResponse:
        """Page through the adjustments."""
        fields = Fields()
        size = fields.page_size("page_size", request.page_size)
        status = _status(fields, request.status)
        member_id = fields.uuid("member_id", request.member_id, required=False)
        fields.check()
        filters = {
            "program": str(call.actor.program_id),
            "status": status or "",
            "member_id": str(member_id or ""),
        }
        position = self._pages.decode("ListAdjustments", filters, request.page_token)
        found, more = await self._adjustments.page(
            call.actor.program_id,
            before=UUID(position[0]) if position else None,
            size=size,
            status=status,
            member_id=member_id,
        )
        call.touched.extend(asked.member_id for asked in found)
        last = [str(found[-1].adjustment_id)] if more else []
        return pb.ListAdjustmentsResponse(
            adjustments=[_message(asked) for asked in found],
            next_page_token=self._pages.encode("ListAdjustments", filters, last) if more else "",
        )


def _status(fields: Fields, value: int) -> AdjustmentStatus | None:
    if value == pb.ADJUSTMENT_STATUS_UNSPECIFIED:
        return None
    found = next((status for status, number in STATUSES.items() if number == value), None)
    if found is None:
        fields.add("status", "must be an AdjustmentStatus")
    return found


def _message(asked: Adjustment) -> pb.Adjustment:
    message = pb.Adjustment(
        adjustment_id=str(asked.adjustment_id),
        member_id=str(asked.member_id),
        point_type=asked.point_type,
        points=asked.points,
        reason=asked.reason,
        status=STATUSES[asked.status],
        requester=asked.requested_by,
        decider=asked.decided_by,
        decision_reason=asked.decision_reason,
        transaction_id="" if asked.transaction_id is None else str(asked.transaction_id),
    )
    message.create_time.FromDatetime(asked.requested_at)
    if asked.expires_at is not None:
        message.expire_time.FromDatetime(asked.expires_at)
    if asked.decided_at is not None:
        message.decide_time.FromDatetime(asked.decided_at)
    return message
