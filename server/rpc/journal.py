"""JournalService: many requests with one call, each through the gate by itself."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from loyalty.v1 import holds_pb2, points_pb2
from loyalty.v1 import journal_pb2 as pb

from server.domain.errors import Refused, invalid
from server.domain.reviews import PutAside, TooLongAgo
from server.operations.lines import Line, Turn
from server.operations.points import Points
from server.rpc.access import declarations
from server.rpc.entries import Entries, Results, given, sent
from server.rpc.errors import status_of
from server.rpc.gate import Call, Failed, Gate, Handler
from server.rpc.holds import HoldService
from server.rpc.points import PointsService
from server.rpc.results import RESULTS_BYTES, Uploaded, size_of, without_room
from server.rpc.watch import EntriesTold

POINTS = points_pb2.DESCRIPTOR.services_by_name["PointsService"].methods_by_name
HOLDS = holds_pb2.DESCRIPTOR.services_by_name["HoldService"].methods_by_name
# Each kind of entry with the RPC that it stands for. Its result has the same name.
KINDS: Mapping[str, MethodDescriptor] = MappingProxyType(
    {
        "accrue": POINTS["Accrue"],
        "event": POINTS["SubmitEvent"],
        "redeem": POINTS["Redeem"],
        "capture_hold": HOLDS["CaptureHold"],
        "void_hold": HOLDS["VoidHold"],
        "return_purchase": POINTS["ReturnPurchase"],
    }
)
MOST_IN_A_BATCH = 1000
# An entry that waits for a person, in JSON.
MOST_PUT_ASIDE_BYTES = 256 * 1024


def handlers_of(points_calls: PointsService, holds_calls: HoldService) -> Mapping[str, Handler]:
    """What answers each kind of entry."""
    calls = {"PointsService": points_calls, "HoldService": holds_calls}
    return {kind: getattr(calls[rpc.containing_service.name], rpc.name) for kind, rpc in KINDS.items()}


class JournalService:
    """The RPCs of JournalService, called by the gate."""

    def __init__(
        self, gate: Gate, points: Points, handlers: Mapping[str, Handler], told: EntriesTold
    ) -> None:
        self._gate = gate
        self._points = points
        self._told = told
        self._kinds = {
            kind: (declarations(rpc.containing_service)[rpc.name], handlers[kind])
            for kind, rpc in KINDS.items()
        }

    async def BatchAccrue(self, request: pb.BatchAccrueRequest, call: Call) -> pb.BatchAccrueResponse:
        """Record a list of entries."""
        if not 1 <= len(request.entries) <= MOST_IN_A_BATCH:
            raise invalid("entries", f"must be 1 to {MOST_IN_A_BATCH:,}")
        reply, room = pb.BatchAccrueResponse(), RESULTS_BYTES
        async with aclosing(self._answered(given(request.entries), call, patient=False)) as done:
            async for result, *_ in done:
                room -= min(size_of(result), room)
                reply.results.append(result if room else without_room(result))
        return reply

    async def UploadJournal(
        self, requests: AsyncIterator[Message | Refused], call: Call
    ) -> pb.UploadJournalResponse:
        """Record entries as they come, as many as there is room for their results, and tell at the end."""
        uploaded = Uploaded()
        async with aclosing(self._exchanged(requests, call)) as done:
            async for result, replayed, _ in done:
                # What is recorded behind the last that is told of is answered to whoever sends it again.
                if not uploaded.add(result, replayed=replayed):
                    break
        return uploaded.reply

    async def Exchange(
        self, requests: AsyncIterator[Message | Refused], call: Call
    ) -> AsyncGenerator[pb.ExchangeResponse, None]:
        """Record entries as they come, and tell of each."""
        async with aclosing(self._exchanged(requests, call)) as done:
            async for result, replayed, _ in done:
                yield pb.ExchangeResponse(result=result, replayed=replayed)

    async def _exchanged(self, requests: AsyncIterator[Message | Refused], call: Call) -> Results:
        """The results of a stream, until it ends or an entry must be sent again. Raises Failed."""
        count = 0
        try:
            async with aclosing(self._answered(sent(requests), call, patient=True)) as done:
                async for one in done:
                    if one.fault is not None:
                        raise one.fault
                    yield one
                    count += 1
        except Refused as end:
            raise Failed(status_of(end, {"answered": str(count)})) from end

    async def _answered(self, items: AsyncIterator[Any], call: Call, *, patient: bool) -> Results:
        async def answer(entry: pb.JournalEntry, turn: Turn) -> pb.JournalResult:
            return await self._answer(entry, turn, call)

        async with aclosing(Entries(answer, patient=patient).answered(items)) as results:
            async for one in results:
                self._told.tell(one.result)
                yield one

    async def _answer(self, entry: pb.JournalEntry, turn: Turn, call: Call) -> pb.JournalResult:
        """What the entry's own call would be answered. Raises what that would."""
        kind = entry.WhichOneof("entry")
        if kind is None:
            raise invalid("entry", "is required")
        declaration, handler = self._kinds[kind]
        said = getattr(entry, kind)
        reply: Any
        try:
            reply = await self._gate.within(call, declaration, handler, said, turn)
        except TooLongAgo as late:
            aside = await self._put_aside(late, kind, said, call, turn)
            if aside is not None:
                return pb.JournalResult(request_id=said.request_id, review=aside)
            # Somebody approved of it just now.
            reply = await self._gate.within(call, declaration, handler, said, Line().join())
        return pb.JournalResult(request_id=said.request_id, **{kind: reply})

    async def _put_aside(
        self, late: TooLongAgo, kind: str, said: Any, call: Call, turn: Turn
    ) -> pb.PutAside | None:
        """Let a person decide on an entry that came too late; None if one has agreed.

        Raises ``late`` for one that is too large.
        """
        entry = type(said).FromString(said.SerializeToString())
        # A hold leads to its member by itself.
        if "member_id" in entry.DESCRIPTOR.fields_by_name:
            entry.ClearField("identifier")
            entry.member_id = str(late.command.member_id)
        text = json_format.MessageToJson(entry, indent=None)
        if len(text) > MOST_PUT_ASIDE_BYTES:
            raise late
        # No wallet changes, so there is no order to keep.
        again = Line(patient=turn.patient).join()
        outcome = await self._points.commit(PutAside.of(late, kind, text), call.deadline, again)
        turn.replayed = again.replayed
        if not outcome.review:
            return None
        status = pb.ReviewStatus.Value(f"REVIEW_STATUS_{outcome.review.upper()}")
        return pb.PutAside(review_id=str(outcome.event_id), status=status)
