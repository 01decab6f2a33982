"""Adjustments that take a second person, over gRPC."""

import asyncio
from dataclasses import dataclass
from uuid import uuid4

import grpc
import pytest
from loyalty.v1 import adjustments_pb2 as pb
from loyalty.v1 import movements_pb2, points_pb2

from server.domain.actor import CallerKind
from server.domain.program import LedgerTerms
from server.store import programs
from tests.support.refusals import read, refusal
from tests.support.servers import Caller, Laurel

ASK, DECIDE = ["points.adjust", "points.read"], ["points.approve", "points.read"]


@dataclass(frozen=True)
class Office:
    """A program that lets one person adjust a hundred points, and its people."""

    laurel: Laurel
    anna: Caller  # asks, and has the right to decide
    ben: Caller  # decides

    async def ask(self, member_id: str, points: int = 500, request_id: str = "") -> str:
        """An adjustment that waits."""
        reply = await self.anna.points.AdjustPoints(asking(member_id, points, request_id))
        assert (reply.status, reply.transaction_id) == (pb.ADJUSTMENT_STATUS_PENDING, "")
        return reply.adjustment_id

    async def balance(self, member_id: str) -> int:
        """Of the main wallet."""
        request = points_pb2.GetBalanceRequest(member_id=member_id)
        return (await self.laurel.terminal.points.GetBalance(request)).wallets[0].balance

    async def show(self, adjustment_id: str) -> pb.Adjustment:
        """The adjustment as it is."""
        request = pb.GetAdjustmentRequest(adjustment_id=adjustment_id)
        return (await self.ben.adjustments.GetAdjustment(request)).adjustment


@pytest.fixture(scope="module")
async def office(laurel: Laurel) -> Office:
    """The office."""
    async with laurel.database.connection() as connection:
        await programs.set_ledger_terms(connection, laurel.program.name, LedgerTerms(approval_points=100))
    anna = await laurel.new_key(CallerKind.STAFF, name="anna", scopes=[*ASK, "points.approve"])
    ben = await laurel.new_key(CallerKind.STAFF, name="ben", scopes=DECIDE)
    return Office(laurel, await laurel.caller(anna), await laurel.caller(ben))


def asking(member_id: str, points: int, request_id: str = "") -> movements_pb2.AdjustPointsRequest:
    return movements_pb2.AdjustPointsRequest(
        request_id=request_id or uuid4().hex, member_id=member_id, points=points, reason="a lost parcel"
    )


def approval(adjustment_id: str, request_id: str = "") -> pb.ApproveAdjustmentRequest:
    return pb.ApproveAdjustmentRequest(request_id=request_id or uuid4().hex, adjustment_id=adjustment_id)


def rejection(adjustment_id: str, reason: str = "") -> pb.RejectAdjustmentRequest:
    return pb.RejectAdjustmentRequest(request_id=uuid4().hex, adjustment_id=adjustment_id, reason=reason)


async def test_a_large_adjustment_moves_nothing_until_another_person_agrees(office: Office) -> None:
    member_id = await office.laurel.register()
    adjustment_id = await office.ask(member_id)
    assert await office.balance(member_id) == 0
    waiting = await office.show(adjustment_id)
    assert (waiting.points, waiting.reason, waiting.requester) == (500, "a lost parcel", "staff:anna")
    assert not waiting.HasField("decide_time")

    reply = await office.ben.adjustments.ApproveAdjustment(approval(adjustment_id))
    assert (reply.balance, reply.adjustment.status) == (500, pb.ADJUSTMENT_STATUS_APPROVED)
    assert (reply.adjustment.decider, reply.adjustment.transaction_id) == ("staff:ben", reply.transaction_id)
    assert await office.balance(member_id) == 500

    why = points_pb2.ExplainRequest(transaction_id=reply.transaction_id)
    told = await office.laurel.service.points.Explain(why)
    assert "staff:anna asked for it, staff:ben agreed to it." in told.sentences
    assert (told.transaction.reason, told.transaction.actor) == ("a lost parcel", "staff:ben")


async def test_up_to_the_limit_one_person_is_enough(office: Office) -> None:
    member_id = await office.laurel.register()
    reply = await office.anna.points.AdjustPoints(asking(member_id, 100))
    assert (reply.balance, reply.status, reply.adjustment_id) == (100, pb.ADJUSTMENT_STATUS_APPROVED, "")
    reply = await office.anna.points.AdjustPoints(asking(member_id, -100))
    assert reply.balance == 0
    said = await refusal(office.anna.points.AdjustPoints(asking(member_id, -101)))
    assert said.reason == "INSUFFICIENT_POINTS"


async def test_who_asked_may_not_approve_by_any_key_of_theirs_and_may_withdraw(office: Office) -> None:
    member_id = await office.laurel.register()
    adjustment_id = await office.ask(member_id)
    other_key = await office.laurel.new_key(CallerKind.STAFF, name="Anna", scopes=DECIDE)
    for caller in (office.anna, await office.laurel.caller(other_key)):
        said = await refusal(caller.adjustments.ApproveAdjustment(approval(adjustment_id)))
        assert (said.code, said.reason) == (grpc.StatusCode.PERMISSION_DENIED, "APPROVAL_REQUIRED")
        assert said.metadata == {"requested_by": "staff:anna"}
    reply = await office.anna.adjustments.RejectAdjustment(rejection(adjustment_id, "found it"))
    assert (reply.adjustment.status, reply.adjustment.decision_reason) == (
        pb.ADJUSTMENT_STATUS_REJECTED,
        "found it",
    )
    assert await office.balance(member_id) == 0


async def test_asking_and_approving_take_rights_of_their_own_and_a_person(office: Office) -> None:
    member_id = await office.laurel.register()
    adjustment_id = await office.ask(member_id)
    said = await refusal(office.ben.points.AdjustPoints(asking(member_id, 1)))
    assert said.metadata == {"scope": "points.adjust"}
    said = await refusal(office.laurel.staff.adjustments.ApproveAdjustment(approval(adjustment_id)))
    assert said.metadata == {"scope": "points.approve"}
    said = await refusal(office.laurel.service.adjustments.ApproveAdjustment(approval(adjustment_id)))
    assert said.reason == "CALLER_NOT_ADMITTED"


async def test_of_many_who_decide_at_once_one_does(office: Office) -> None:
    member_id = await office.laurel.register()
    adjustment_id = await office.ask(member_id)
    calls = [office.ben.adjustments.ApproveAdjustment(approval(adjustment_id)) for _ in range(10)]
    calls += [office.ben.adjustments.RejectAdjustment(rejection(adjustment_id)) for _ in range(10)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    lost = [read(r) for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert (len(lost), {r.reason for r in lost}) == (19, {"ADJUSTMENT_NOT_PENDING"})
    approved = (await office.show(adjustment_id)).status == pb.ADJUSTMENT_STATUS_APPROVED
    assert await office.balance(member_id) == (500 if approved else 0)


async def test_both_steps_happen_once_by_their_request_ids(office: Office) -> None:
    member_id = await office.laurel.register()
    request_id = uuid4().hex
    ids = {await office.ask(member_id, request_id=request_id) for _ in range(3)}
    assert len(ids) == 1
    request = approval(ids.pop())
    replies = await asyncio.gather(*(office.ben.adjustments.ApproveAdjustment(request) for _ in range(5)))
    assert all(reply == replies[0] for reply in replies)
    assert await office.balance(member_id) == 500


async def test_what_is_no_longer_there_is_not_taken_out_and_stays_pending(office: Office) -> None:
    member_id = await office.laurel.register()
    await office.ben.adjustments.ApproveAdjustment(approval(await office.ask(member_id)))
    adjustment_id = await office.ask(member_id, -400)
    spending = points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=101)
    await office.laurel.terminal.points.Redeem(spending)
    said = await refusal(office.ben.adjustments.ApproveAdjustment(approval(adjustment_id)))
    assert (said.reason, said.metadata["missing"]) == ("INSUFFICIENT_POINTS", "1")
    assert (await office.show(adjustment_id)).status == pb.ADJUSTMENT_STATUS_PENDING
    await office.anna.points.AdjustPoints(asking(member_id, 1))
    reply = await office.ben.adjustments.ApproveAdjustment(approval(adjustment_id))
    assert reply.balance == 0


async def test_the_list_shows_what_waits_page_by_page(office: Office) -> None:
    member_id = await office.laurel.register()
    asked = [await office.ask(member_id) for _ in range(3)]
    await office.ben.adjustments.RejectAdjustment(rejection(asked[1]))

    async def listed(**wishes: object) -> list[str]:
        request = pb.ListAdjustmentsRequest(member_id=member_id, page_size=1, **wishes)
        found = []
        while True:
            page = await office.ben.adjustments.ListAdjustments(request)
            found += [adjustment.adjustment_id for adjustment in page.adjustments]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    assert await listed() == asked[::-1]
    assert await listed(status=pb.ADJUSTMENT_STATUS_PENDING) == [asked[2], asked[0]]
    assert await listed(status=pb.ADJUSTMENT_STATUS_APPROVED) == []


async def test_another_programs_adjustment_is_not_found(office: Office) -> None:
    said = await refusal(office.ben.adjustments.ApproveAdjustment(approval(str(uuid4()))))
    assert (said.code, said.reason) == (grpc.StatusCode.NOT_FOUND, "ADJUSTMENT_NOT_FOUND")
