"""Households as members and staff see them, over gRPC: who sits there, and what they may."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.type import money_pb2
from loyalty.v1 import households_pb2 as pb
from loyalty.v1 import member_pb2, points_pb2

from server import secrets
from server.domain.proof import Check
from server.operations.verify import Result, verify
from server.settings import Settings
from server.store.database import Database
from tests.support.families import (
    Family,
    ending,
    families,
    giving,
    head_of,
    invitation,
    joining,
    refused,
    spending,
)


@pytest.fixture(scope="module")
async def family(settings: Settings, database: Database, folder: Path) -> AsyncIterator[Family]:
    async with families(settings, database, folder) as family:
        yield family


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


async def test_the_id_of_a_merged_member_asks_for_the_one_who_sits_there(family: Family) -> None:
    ann, by_ann = await family.member()
    household = await family.forms(ann, by_ann)
    ben, _ = await family.joins(household, by_ann)
    old, _ = await family.member()
    await family.merges(old, ann)
    till = family.laurel.service.households
    place = {"household_id": household.household_id, "member_id": old}
    assert len((await till.GetHousehold(pb.GetHouseholdRequest(**place))).household.seats) == 2
    shown = await till.GetMemberHousehold(pb.GetMemberHouseholdRequest(member_id=old))
    assert shown.household.household_id == household.household_id
    assert (await till.InviteToHousehold(invitation(household, member_id=old))).token
    change = pb.UpdateSeatRequest(request_id=uuid4().hex, seated_id=ben, may_spend=False, **place)
    assert not (await till.UpdateSeat(change)).household.seats[1].may_spend
    await till.EndSeat(ending(household, ben, old))
    over = pb.DissolveHouseholdRequest(request_id=uuid4().hex, **place)
    assert (await till.DissolveHousehold(over)).household.HasField("dissolve_time")


async def test_a_request_of_one_who_left_and_was_merged_is_the_same_request(family: Family) -> None:
    ann, by_ann = await family.member()
    household = await family.forms(ann, by_ann)
    ben, _ = await family.joins(household, by_ann)
    new, _ = await family.member()
    till = family.laurel.service.households
    leaving = ending(household, ben, ben)
    left = await till.EndSeat(leaving)
    await family.merges(ben, new)
    assert await till.EndSeat(leaving) == left


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
