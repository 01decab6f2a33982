"""DeadLetterService: parse, act, render."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

from loyalty.v1 import dead_letters_pb2 as pb

from server.domain.dead_letters import NOBODY, DeadLetter, DeadLetterKind, DeadLetterStatus
from server.operations.dead_letters import DeadLetters
from server.rpc.fields import Fields
from server.rpc.gate import Call
from server.rpc.pages import Pages

KINDS: Mapping[DeadLetterKind, pb.DeadLetterKind.ValueType] = MappingProxyType(
    {
        DeadLetterKind.EVENT: pb.DEAD_LETTER_KIND_EVENT,
        DeadLetterKind.DELIVERY: pb.DEAD_LETTER_KIND_DELIVERY,
    }
)
STATUSES: Mapping[DeadLetterStatus, pb.DeadLetterStatus.ValueType] = MappingProxyType(
    {
        DeadLetterStatus.DEAD: pb.DEAD_LETTER_STATUS_DEAD,
        DeadLetterStatus.REPLAYING: pb.DEAD_LETTER_STATUS_REPLAYING,
        DeadLetterStatus.REPLAYED: pb.DEAD_LETTER_STATUS_REPLAYED,
        DeadLetterStatus.DISCARDED: pb.DEAD_LETTER_STATUS_DISCARDED,
    }
)


class DeadLetterService:
    """The RPCs of DeadLetterService, called by the gate."""

    def __init__(self, dead_letters: DeadLetters, pages: Pages) -> None:
        self._dead_letters = dead_letters
        self._pages = pages

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, call: Call
    ) -> pb.ListDeadLettersResponse:
        """Page through the dead letters."""
        fields = Fields()
        size = fields.page_size("page_size", request.page_size)
        status = _status(fields, request.status)
        consumer = fields.text("consumer", request.consumer, max_length=64, required=False)
        fields.check()
        filters = {"program": str(call.actor.program_id), "status": status or "", "consumer": consumer}
        position = self._pages.decode("ListDeadLetters", filters, request.page_token)
        found, more = await self._dead_letters.page(
            call.actor.program_id,
            before=UUID(position[0]) if position else None,
            size=size,
            status=status,
            consumer=consumer,
        )
        for dead in found:
            _touched(call, dead)
        last = [str(found[-1].dead_letter_id)] if more else []
        return pb.ListDeadLettersResponse(
            dead_letters=[_message(dead) for dead in found],
            next_page_token=self._pages.encode("ListDeadLetters", filters, last) if more else "",
        )

    async def GetDeadLetter(self, request: pb.GetDeadLetterRequest, call: Call) -> pb.GetDeadLetterResponse:
        """Show a dead letter."""
        found, content = await self._dead_letters.get(call.actor.program_id, _id(request.dead_letter_id))
        _touched(call, found)
        return pb.GetDeadLetterResponse(dead_letter=_message(found, content))

    async def ReplayDeadLetter(
        self, request: pb.ReplayDeadLetterRequest, call: Call
    ) -> pb.ReplayDeadLetterResponse:
        """Have it tried again."""
        found = await self._dead_letters.replay(
            call.actor.program_id, _id(request.dead_letter_id), call.actor.label
        )
        _touched(call, found)
        return pb.ReplayDeadLetterResponse(dead_letter=_message(found))

    async def DiscardDeadLetter(
        self, request: pb.DiscardDeadLetterRequest, call: Call
    ) -> pb.DiscardDeadLetterResponse:
        """Leave it at that."""
        found = await self._dead_letters.discard(
            call.actor.program_id, _id(request.dead_letter_id), call.actor.label
        )
        _touched(call, found)
        return pb.DiscardDeadLetterResponse(dead_letter=_message(found))


def _id(text: str) -> UUID:
    fields = Fields()
    found = fields.uuid("dead_letter_id", text)
    fields.check()
    return found


def _status(fields: Fields, value: int) -> DeadLetterStatus | None:
    if value == pb.DEAD_LETTER_STATUS_UNSPECIFIED:
        return None
    found = next((status for status, number in STATUSES.items() if number == value), None)
    if found is None:
        fields.add("status", "must be a DeadLetterStatus")
    return found


def _touched(call: Call, dead: DeadLetter) -> None:
    if dead.member_id != NOBODY:
        call.touched.append(dead.member_id)


def _message(dead: DeadLetter, content: Mapping[str, Any] | None = None) -> pb.DeadLetter:
    message = pb.DeadLetter(
        dead_letter_id=str(dead.dead_letter_id),
        kind=KINDS[dead.kind],
        status=STATUSES[dead.status],
        consumer=dead.consumer,
        target=dead.target,
        event_id="" if dead.event_id is None else str(dead.event_id),
        event_type=dead.event_type,
        member_id="" if dead.member_id == NOBODY else str(dead.member_id),
        attempts=dead.attempts,
        error=dead.error,
        settler=dead.settled_by,
    )
    message.die_time.FromDatetime(dead.died_at)
    if dead.settled_at is not None:
        message.settle_time.FromDatetime(dead.settled_at)
    if content is not None:
        message.content.update(content)
    return message
