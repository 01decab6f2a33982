"""Households as members, tills and staff see them, over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.type import money_pb2
from loyalty.v1 import holds_pb2, member_pb2, movements_pb2, points_pb2
from loyalty.v1 import households_pb2 as pb

from server import secrets
from server.domain.actor import CallerKind
from server.domain.proof import Check
from server.operations.verify import Result, verify
from server.settings import Settings
from server.store.database import Database
from tests.server.rpc.test_journal import journal_of, outcomes
from tests.server.rpc.test_offline import capture, void
from tests.server.rpc.test_reviews import approve, late, reject
from tests.support.issuers import SYSTEM, Loopback, configuration, entry, loopback
from tests.support.mailbox import AT_ONCE, Reader, inbox, set_terms
from tests.support.programs import new_program
from tests.support.published import publish
from tests.support.refusals import Refusal, refusal
from tests.support.servers import Caller, Laurel, started
from tests.support.watching import watching

BASE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 1, "per": "1.00", "currency": "INR"}}],
}
LIMIT = 500
SCOPES = ["points.read", "points.redeem", "households.read", "households.write"]


class Family:
    """A server that trusts an issuer, and members who log in there."""

    def __init__(self, laurel: Laurel, issuer: Loopback) -> None:
        self.laurel, self.issuer = laurel, issuer

    async def member(self, points: int = 0, subject: str = "") -> tuple[str, Caller]:
        """A member with points, and what it calls by."""
        subject = subject or uuid4().hex
        external = member_pb2.ExternalId(system=SYSTEM, id=subject)
        member_id = await self.laurel.register(external_ids=[external])
        if points:
            await self.buys(member_id, points)
        return member_id, await self.logs_in(subject)

    async def logs_in(self, subject: str, acr: str = "2") -> Caller:
        """By a second factor, unless it is said otherwise."""
        return await self.laurel.caller(self.issuer.token(subject, acr=acr))

    async def buys(self, member_id: str, rupees: int, receipt: str = "") -> points_pb2.AccrueResponse:
        """A purchase, a point for each rupee."""
        request = points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=receipt or uuid4().hex,
            amount=money_pb2.Money(currency_code="INR", units=rupees),
        )
        reply: points_pb2.AccrueResponse = await self.laurel.terminal.points.Accrue(request)
        return reply

    async def forms(self, member_id: str, by: Caller, contributes: bool = False) -> pb.Household:
        """A household of one."""
        request = pb.CreateHouseholdRequest(
            request_id=uuid4().hex, member_id=member_id, contributes=contributes
        )
        household: pb.Household = (await by.households.CreateHousehold(request)).household
        return household

    async def joins(
        self, household: pb.Household, head: Caller, *, contributes: bool = False, may_spend: bool = True
    ) -> tuple[str, Caller]:
        """Another member, whom the head invites."""
        member_id, own = await self.member()
        token = (await head.households.InviteToHousehold(invitation(household, may_spend=may_spend))).token
        await own.households.JoinHousehold(joining(member_id, token, contributes=contributes))
        return member_id, own

    async def merges(self, merged_id: str, member_id: str) -> None:
        """Two turn out to be one."""
        request = member_pb2.MergeMembersRequest(
            request_id=uuid4().hex, member_id=member_id, merged_member_id=merged_id, reason="one"
        )
        await self.laurel.staff.members.MergeMembers(request)

    async def pool(self, household: pb.Household) -> int:
        """What the pool has to spend."""
        return await self.balance(household.household_id)

    async def balance(self, member_id: str) -> int:
        """What somebody has to spend."""
        request = points_pb2.GetBalanceRequest(member_id=member_id)
        reply = await self.laurel.service.points.GetBalance(request)
        return int(reply.wallets[0].balance)


def head_of(household: pb.Household) -> str:
    [head] = [seat.member_id for seat in household.seats if seat.role == pb.SEAT_ROLE_HEAD]
    return head


def invitation(household: pb.Household, **more: Any) -> pb.InviteToHouseholdRequest:
    said = {"member_id": head_of(household), "request_id": uuid4().hex, "may_spend": True, **more}
    return pb.InviteToHouseholdRequest(household_id=household.household_id, **said)


def joining(member_id: str, token: str, **more: Any) -> pb.JoinHouseholdRequest:
    return pb.JoinHouseholdRequest(request_id=uuid4().hex, member_id=member_id, token=token, **more)


def giving(member_id: str, points: int) -> pb.ContributePointsRequest:
    return pb.ContributePointsRequest(request_id=uuid4().hex, member_id=member_id, points=points)


def ending(household: pb.Household, seated_id: str, member_id: str = "") -> pb.EndSeatRequest:
    return pb.EndSeatRequest(
        request_id=uuid4().hex,
        household_id=household.household_id,
        seated_id=seated_id,
        member_id=member_id,
    )


def spending(member_id: str, points: int) -> points_pb2.RedeemRequest:
    return points_pb2.RedeemRequest(
        request_id=uuid4().hex, member_id=member_id, points=points, from_household=True
    )


async def refused(call: Awaitable[Any], reason: str) -> Refusal:
    said = await refusal(call)
    assert said.reason == reason, said
    return said


@pytest.fixture(scope="module")
def issuer() -> Iterator[Loopback]:
    with loopback() as running:
        yield running


@pytest.fixture(scope="module")
async def family(
    settings: Settings, database: Database, folder: Path, issuer: Loopback
) -> AsyncIterator[Family]:
    program = await new_program(database, step_up_redeem_points=LIMIT)
    members = {"external_id_system": SYSTEM, "scopes": SCOPES}
    file = configuration(folder / f"{uuid4().hex}.yaml", entry(issuer, program.name, members=members))
    trusting = settings.model_copy(update={"oidc_file": str(file)})
    async with started(trusting, database, program) as laurel:
        await publish(laurel, BASE)
        yield Family(laurel, issuer)


async def test_members_share_and_each_leaves_with_what_is_left_of_their_own(family: Family) -> None:
    ann, by_ann = await family.member(100)
    household = await family.forms(ann, by_ann)
    ben, by_ben = await family.joins(household, by_ann, contributes=True)
    given = await by_ann.households.ContributePoints(giving(ann, 60))
    assert (given.balance, given.pool_balance, given.household_id) == (40, 60, household.household_id)
    earned = await family.buys(ben, 50)
    assert (earned.points, earned.balance, earned.shared_points) == (50, 0, 50)
    # Ann's came in first, so they go first.
    paid = await by_ben.points.Redeem(spending(ben, 70))
    assert (paid.member_id, paid.spender_id, paid.balance) == (household.household_id, ben, 40)
    shown = (
        await by_ben.households.GetMemberHousehold(pb.GetMemberHouseholdRequest(member_id=ben))
    ).household
    assert [seat.member_id for seat in shown.seats] == [ann, ben]
    assert [[share.points for share in seat.shares] for seat in shown.seats] == [[], [40]]
    assert shown.wallets[0].balance == 40
    left = await by_ben.households.EndSeat(ending(household, ben, ben))
    assert (left.balance, [award.points for award in left.awards]) == (40, [40])
    assert await family.pool(household) == 0


async def test_every_call_sent_twice_is_done_once_and_answered_alike(family: Family) -> None:
    ann, by_ann = await family.member(100)
    ben, by_ben = await family.member()
    form = pb.CreateHouseholdRequest(request_id=uuid4().hex, member_id=ann)
    made = await asyncio.gather(*(by_ann.households.CreateHousehold(form) for _ in range(10)))
    household = made[0].household
    assert {reply.household.household_id for reply in made} == {household.household_id}
    invite = invitation(household)
    tokens = await asyncio.gather(*(by_ann.households.InviteToHousehold(invite) for _ in range(10)))
    assert all(reply == tokens[0] for reply in tokens)
    assert len(tokens[0].token) == 43
    join = joining(ben, tokens[0].token)
    joined = await asyncio.gather(*(by_ben.households.JoinHousehold(join) for _ in range(10)))
    assert all(len(reply.household.seats) == 2 for reply in joined)
    give = giving(ann, 30)
    gave = await asyncio.gather(*(by_ann.households.ContributePoints(give) for _ in range(10)))
    assert all(reply == gave[0] for reply in gave)
    end = ending(household, ben, ben)
    await asyncio.gather(*(by_ben.households.EndSeat(end) for _ in range(10)))
    over = pb.DissolveHouseholdRequest(
        request_id=uuid4().hex, household_id=household.household_id, member_id=ann
    )
    ended = await asyncio.gather(*(by_ann.households.DissolveHousehold(over) for _ in range(10)))
    assert all(reply.household.HasField("dissolve_time") for reply in ended)
    assert await family.balance(ann) == 100
    await refused(
        by_ann.households.ContributePoints(
            pb.ContributePointsRequest(request_id=give.request_id, member_id=ann, points=1)
        ),
        "REQUEST_ID_REUSED",
    )


async def test_a_token_is_good_once_and_all_others_get_one_answer(family: Family) -> None:
    ann, by_ann = await family.member()
    household = await family.forms(ann, by_ann)
    token = (await by_ann.households.InviteToHousehold(invitation(household))).token
    guests = [await family.member() for _ in range(20)]
    told = await asyncio.gather(
        *(caller.households.JoinHousehold(joining(guest, token)) for guest, caller in guests),
        return_exceptions=True,
    )
    assert sum(not isinstance(reply, BaseException) for reply in told) == 1
    late, by_late = await family.member()
    used = await refused(by_late.households.JoinHousehold(joining(late, token)), "INVITATION_NOT_FOUND")
    never = await refused(by_late.households.JoinHousehold(joining(late, "a" * 43)), "INVITATION_NOT_FOUND")
    assert (used.code, used.message, used.metadata) == (never.code, never.message, never.metadata)


async def test_a_hundred_joins_of_one_member_take_one_seat(family: Family) -> None:
    homes = []
    for _ in range(5):
        head, by_head = await family.member()
        homes.append((await family.forms(head, by_head), by_head))
    ben, by_ben = await family.member()
    tokens = [
        (await by_head.households.InviteToHousehold(invitation(home))).token
        for home, by_head in homes
        for _ in range(20)
    ]
    told = await asyncio.gather(
        *(by_ben.households.JoinHousehold(joining(ben, token)) for token in tokens), return_exceptions=True
    )
    assert sum(not isinstance(reply, BaseException) for reply in told) == 1
    async with family.laurel.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM seat WHERE member_id = $1", ben) == 1


async def test_whoever_sits_elsewhere_finds_no_household_whether_there_is_one_or_not(family: Family) -> None:
    ann, by_ann = await family.member()
    household = await family.forms(ann, by_ann)
    eve, by_eve = await family.member()
    nowhere = pb.Household(household_id=str(uuid4()), seats=household.seats)
    answers = []
    for home, seated in ((household, ann), (nowhere, ann), (household, str(uuid4()))):
        get = pb.GetHouseholdRequest(household_id=home.household_id, member_id=eve)
        over = pb.DissolveHouseholdRequest(
            request_id=uuid4().hex, household_id=home.household_id, member_id=eve
        )
        change = pb.UpdateSeatRequest(
            request_id=uuid4().hex,
            household_id=home.household_id,
            seated_id=seated,
            member_id=eve,
            may_spend=False,
        )
        for call in (
            by_eve.households.GetHousehold(get),
            by_eve.households.InviteToHousehold(invitation(home, member_id=eve)),
            by_eve.households.EndSeat(ending(home, seated, eve)),
            by_eve.households.UpdateSeat(change),
            by_eve.households.DissolveHousehold(over),
        ):
            said = await refused(call, "HOUSEHOLD_NOT_FOUND")
            answers.append((said.code, said.message, tuple(said.metadata.items())))
    assert len(set(answers)) == 1
    await refused(by_eve.households.EndSeat(ending(household, ann, ann)), "OUT_OF_REACH")
    await refused(by_eve.households.EndSeat(ending(household, ann)), "OUT_OF_REACH")
    await refused(
        by_eve.points.GetBalance(points_pb2.GetBalanceRequest(member_id=household.household_id)),
        "OUT_OF_REACH",
    )
    await refused(by_eve.points.Redeem(spending(eve, 1)), "HOUSEHOLD_NOT_FOUND")


async def test_the_head_alone_asks_in_sends_out_and_says_who_spends(family: Family) -> None:
    ann, by_ann = await family.member(50)
    household = await family.forms(ann, by_ann, contributes=True)
    ben, by_ben = await family.joins(household, by_ann, may_spend=False)
    carl, _ = await family.joins(household, by_ann)
    await by_ann.households.ContributePoints(giving(ann, 50))
    await refused(by_ben.points.Redeem(spending(ben, 10)), "SPENDING_NOT_ALLOWED")
    await refused(by_ben.households.EndSeat(ending(household, carl, ben)), "HOUSEHOLD_HEAD_ONLY")

    def change(**terms: Any) -> pb.UpdateSeatRequest:
        said = {"request_id": uuid4().hex, "household_id": household.household_id, "seated_id": ben, **terms}
        return pb.UpdateSeatRequest(**said)

    await refused(by_ben.households.UpdateSeat(change(member_id=ben, may_spend=True)), "HOUSEHOLD_HEAD_ONLY")
    await refused(
        by_ann.households.UpdateSeat(change(member_id=ann, contributes=True)), "HOUSEHOLD_SEAT_ONLY"
    )
    await by_ben.households.UpdateSeat(change(member_id=ben, contributes=True))
    changed = (await by_ann.households.UpdateSeat(change(member_id=ann, may_spend=True))).household
    assert [(s.may_spend, s.contributes) for s in changed.seats if s.member_id == ben] == [(True, True)]
    await by_ben.points.Redeem(spending(ben, 10))
    await refused(by_ann.households.EndSeat(ending(household, ann, ann)), "HOUSEHOLD_NEEDS_HEAD")
    await family.buys(carl, 9)
    sent = await by_ann.households.EndSeat(ending(household, carl, ann))
    assert (sent.balance, sent.debt, sent.version) == (0, 0, 0), "the head learns what else Carl has"
    heads = (await by_ann.households.UpdateSeat(change(member_id=ann, make_head=True))).household
    assert head_of(heads) == ben
    await by_ann.households.EndSeat(ending(household, ann, ann))
    all_of_them = pb.GetHouseholdRequest(household_id=household.household_id, include_former=True)
    kept = (await family.laurel.staff.households.GetHousehold(all_of_them)).household
    assert [(s.member_id, s.HasField("leave_time")) for s in kept.seats] == [
        (ann, True),
        (ben, False),
        (carl, True),
    ]


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


async def test_nobody_closes_merges_or_registers_a_household(family: Family) -> None:
    ann, by_ann = await family.member()
    household = await family.forms(ann, by_ann)
    other, _ = await family.member()
    staff = family.laurel.staff.members
    close = member_pb2.CloseMemberRequest(request_id=uuid4().hex, member_id=ann, reason="a test")
    assert (await refused(staff.CloseMember(close), "MEMBER_IN_HOUSEHOLD")).metadata == {
        "household_id": household.household_id
    }
    merge = member_pb2.MergeMembersRequest(
        request_id=uuid4().hex, member_id=other, merged_member_id=ann, reason="a test"
    )
    await refused(staff.MergeMembers(merge), "MEMBER_IN_HOUSEHOLD")
    pool = household.household_id
    close = member_pb2.CloseMemberRequest(request_id=uuid4().hex, member_id=pool, reason="a test")
    await refused(staff.CloseMember(close), "MEMBER_NOT_FOUND")
    await refused(staff.GetMember(member_pb2.GetMemberRequest(member_id=pool)), "MEMBER_NOT_FOUND")
    purchase = points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=pool,
        order_reference=uuid4().hex,
        amount=money_pb2.Money(currency_code="INR", units=1),
    )
    await refused(family.laurel.terminal.points.Accrue(purchase), "MEMBER_NOT_FOUND")
    everybody = [
        m.member_id for m in (await staff.ListMembers(member_pb2.ListMembersRequest(page_size=500))).members
    ]
    assert ann in everybody
    assert pool not in everybody


async def test_activity_of_a_merged_member_counts_for_the_pool_that_its_survivor_gave_to(
    family: Family,
) -> None:
    """Also where no points went over with it, and the survivor is merged in turn."""
    ann, by_ann = await family.member()
    household = await family.forms(ann, by_ann)
    ben, by_ben = await family.joins(household, by_ann)
    await family.buys(ben, 20)
    old, by_old = await family.member(10)
    await by_old.points.Redeem(points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=old, points=10))
    new, _ = await family.member()
    await family.merges(old, ben)
    await by_ben.households.ContributePoints(giving(ben, 15))
    await by_ben.households.EndSeat(ending(household, ben, ben))
    await family.merges(ben, new)
    assert await family.balance(new) == 20


async def test_staff_find_households_page_by_page_and_leave_a_trace(family: Family) -> None:
    made = []
    for _ in range(3):
        head, by_head = await family.member()
        made.append((await family.forms(head, by_head)).household_id)
    staff = family.laurel.staff.households
    request, found = pb.ListHouseholdsRequest(page_size=2), []
    while True:
        page = await staff.ListHouseholds(request)
        found += [household.household_id for household in page.households]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert [household_id for household_id in found if household_id in made] == made[::-1]
    async with family.laurel.database.connection() as connection:
        seen = await connection.fetchval(
            "SELECT count(*) FROM access_audit WHERE $1 = ANY(member_ids) AND method LIKE '%ListHouseholds'",
            head,
        )
    assert seen >= 1


async def test_what_happens_to_households_is_in_the_log_of_both(family: Family) -> None:
    ann, by_ann = await family.member()
    household = await family.forms(ann, by_ann)
    ben, by_ben = await family.joins(household, by_ann)
    await by_ben.households.EndSeat(ending(household, ben, ben))
    async with family.laurel.database.connection() as connection:
        rows = await connection.fetch(
            """SELECT member_id, event_type FROM event_log
                WHERE event_type LIKE 'household.%' AND member_id = ANY($1::uuid[])
                ORDER BY epoch, xid, position""",
            [household.household_id, ben],
        )
    told = [(str(member_id) == ben, event_type) for member_id, event_type in rows]
    assert told == [
        (False, "household.formed"),
        (False, "household.joined"),
        (False, "household.invited"),
        (False, "household.joined"),
        (True, "household.joined"),
        (False, "household.left"),
        (True, "household.left"),
    ]


@pytest.mark.parametrize(
    ("tampering", "mending", "words"),
    [
        (
            "UPDATE seat SET role = 'member' WHERE household_id = $1",
            "UPDATE seat SET role = 'head' WHERE household_id = $1",
            "has 0 heads",
        ),
        (
            "UPDATE member SET kind = 'person' WHERE member_id = $1",
            "UPDATE member SET kind = 'household' WHERE member_id = $1",
            "has no pool",
        ),
        (
            "UPDATE member SET status = 'closed' WHERE member_id IN (SELECT member_id FROM seat "
            "WHERE household_id = $1)",
            "UPDATE member SET status = 'active' WHERE member_id IN (SELECT member_id FROM seat "
            "WHERE household_id = $1)",
            "is no member of the program any more",
        ),
        (
            "UPDATE household SET dissolved_at = now() WHERE household_id = $1",
            "UPDATE household SET dissolved_at = NULL WHERE household_id = $1",
            "it was dissolved",
        ),
    ],
)
async def test_a_seat_that_nobody_can_sit_on_is_found(
    family: Family, tampering: str, mending: str, words: str
) -> None:
    ann, by_ann = await family.member()
    household = await family.forms(ann, by_ann)
    keys = secrets.load(family.laurel.settings.secrets_file).ledger.keys
    async with family.laurel.database.connection() as connection:
        await connection.execute(tampering, household.household_id)
        try:
            results = [
                step async for step in verify(family.laurel.database, keys) if isinstance(step, Result)
            ]
        finally:
            await connection.execute(mending, household.household_id)
    found = [(r.check, f.problem) for r in results for f in r.findings]
    assert [check for check, _ in found] == [Check.SEATS]
    assert words in found[0][1]


async def test_the_ledger_of_all_this_is_proved(family: Family) -> None:
    keys = secrets.load(family.laurel.settings.secrets_file).ledger.keys
    results = [step async for step in verify(family.laurel.database, keys) if isinstance(step, Result)]
    assert [(r.check, f.problem) for r in results for f in r.findings] == []
