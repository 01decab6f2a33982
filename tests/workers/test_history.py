"""Timelines follow what happens, hold all of it in one list, and come to the same when noted again."""

from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money
from loyalty.v1 import member_pb2 as pb
from loyalty.v1 import movements_pb2, points_pb2

from server.settings import Settings
from server.store.database import Database
from tests.support.homes import Home
from tests.support.movements import movements, once
from tests.support.personal import traces
from tests.support.published import publish
from tests.support.refusals import refusal
from tests.support.relays import caught_up, relaying
from tests.support.servers import CallerKind, Laurel, started
from tests.support.timelines import BASE, CONSUMERS, followed, kinds, read
from tests.support.watching import buy


@pytest.fixture(scope="module")
async def shop(settings: Settings, database: Database) -> AsyncIterator[Laurel]:
    """A point a rupee."""
    async with started(settings, database) as laurel:
        await publish(laurel, BASE)
        yield laurel


@pytest.fixture
async def at_work(database: Database) -> AsyncIterator[None]:
    """Somebody notes what happens."""
    async with relaying(database, CONSUMERS):
        yield


async def test_what_happened_before_the_first_worker_that_knows_it_is_noted(shop: Laurel) -> None:
    member_id = await shop.register()
    await buy(shop.terminal, member_id, 70)
    page = await shop.staff.members.ListTimeline(pb.ListTimelineRequest(member_id=member_id))
    assert not page.entries
    assert page.as_of_time.ToDatetime(tzinfo=UTC) < datetime.now(UTC)
    await followed(shop.database)
    assert kinds(await read(shop, member_id)) == ["earned", "enrolled"]


@pytest.mark.usefixtures("at_work")
async def test_everything_that_happens_to_a_member_is_in_one_list(shop: Laurel, database: Database) -> None:
    member_id = await shop.register()
    staff = await shop.caller(await shop.new_key(CallerKind.STAFF, scopes=["points.*"]))
    async for _ in movements(shop.terminal, shop.service, staff, member_id):
        pass
    await buy(shop.terminal, member_id, 12_000)
    mine: dict[str, Any] = {"member_id": member_id}
    decision = pb.Consent(purpose="marketing.email", granted=True, policy_version="1", channel="web")
    await shop.service.members.RecordConsent(pb.RecordConsentRequest(**once(), **mine, consent=decision))
    profile = pb.Member(**mine, given_name="Ashalata", email="ashalata.r@example.com")
    mask = FieldMask(paths=["given_name", "email"])
    await shop.service.members.UpdateMember(
        pb.UpdateMemberRequest(**once(), member=profile, update_mask=mask)
    )
    await shop.service.members.SuspendMember(pb.SuspendMemberRequest(**once(), **mine, reason="a secret"))
    began = datetime.now(UTC)
    await caught_up(database, CONSUMERS)
    page = await shop.staff.members.ListTimeline(pb.ListTimelineRequest(**mine))
    assert page.as_of_time.ToDatetime(tzinfo=UTC) >= began

    entries = list(reversed(page.entries))
    assert Counter(kinds(entries)) == Counter(
        [
            *("enrolled", "earned", "redeemed", "refunded", "returned", "added", "added", "held"),
            *("captured", "released", "earned", "tier", "consent", "profile", "status"),
        ]
    )
    assert kinds(entries)[:5] == ["enrolled", "earned", "redeemed", "refunded", "returned"]
    assert kinds(entries)[-3:] == ["consent", "profile", "status"]
    joined, earned, redeemed, *_ = entries
    assert (joined.enrolment.tier, joined.message) == ("bronze", "You've joined")
    assert (earned.message, earned.points.activity_type) == ("You've earned 500 points", "PURCHASE")
    # What is said of a wallet is what it held then.
    assert [(m.points, m.wallet.balance) for m in earned.points.moved] == [(500, 500)]
    assert [(m.points, m.wallet.balance) for m in redeemed.points.moved] == [(40, 460)]
    assert redeemed.message == redeemed.points.message == "You've spent 40 points"
    assert earned.points.version < redeemed.points.version
    [tier] = [e.tier for e in entries if e.kind == "tier"]
    assert (tier.before, tier.after, tier.promoted) == ("bronze", "platinum", True)
    consent, changed, suspended = entries[-3:]
    assert (consent.consent.purpose, consent.message) == (
        "marketing.email",
        "You've agreed to marketing.email",
    )
    assert list(changed.profile.fields) == ["given_name", "email"]
    assert suspended.status.after == pb.MEMBER_STATUS_SUSPENDED
    assert suspended.message == "Your membership is suspended"
    # Nothing personal, and no reasons of those who work there.
    assert traces(str(page)) == []
    assert "secret" not in str(page)
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT to_jsonb(t)::text FROM timeline_entry t")
    assert traces(str(rows)) == []
    async with database.connection() as connection:
        await connection.execute("DELETE FROM member_key WHERE member_id = $1", UUID(member_id))
    assert (await shop.staff.members.ListTimeline(pb.ListTimelineRequest(**mine))).entries == page.entries


@pytest.mark.usefixtures("at_work")
async def test_a_transfer_is_in_both_lists_and_a_merged_member_s_in_the_other_s(
    shop: Laurel, database: Database
) -> None:
    giver, taker = await shop.register(), await shop.register()
    await buy(shop.terminal, giver, 90)
    await shop.service.points.TransferPoints(
        movements_pb2.TransferPointsRequest(**once(), member_id=giver, to_member_id=taker, points=40)
    )
    await caught_up(database, CONSUMERS)
    assert kinds(await read(shop, giver)) == ["handed_on", "earned", "enrolled"]
    [received, _] = await read(shop, taker)
    assert (received.kind, received.points.moved[0].wallet.balance) == ("received", 40)

    merged = await shop.staff.members.MergeMembers(
        pb.MergeMembersRequest(**once(), member_id=giver, merged_member_id=taker, reason="one")
    )
    await caught_up(database, CONSUMERS)
    ended = await read(shop, taker)
    assert sorted(kinds(ended)) == ["enrolled", "handed_on", "received", "status"]
    [status] = [e.status for e in ended if e.kind == "status"]
    assert (status.after, status.merged_into) == (pb.MEMBER_STATUS_MERGED, giver)
    both = await read(shop, giver)
    assert Counter(e.member_id for e in both) == {taker: 4, giver: 5}
    assert [e for e in both if e.member_id == taker] == ended
    assert [e.merge.merged_member_id for e in both if e.kind == "merged"] == [taker]
    assert await read(shop, giver, page_size=2) == both
    # The token of the one who lives on leads on.
    asked = pb.ListTimelineRequest(member_id=taker, consistency_token=merged.consistency_token)
    assert list((await shop.staff.members.ListTimeline(asked)).entries) == ended

    lasting = await shop.register()
    await shop.staff.members.MergeMembers(
        pb.MergeMembersRequest(**once(), member_id=lasting, merged_member_id=giver)
    )
    await caught_up(database, CONSUMERS)
    # Who lives on has what is of all three, and each of these what is their own.
    assert {e.member_id for e in await read(shop, lasting)} == {lasting, giver, taker}
    assert {e.member_id for e in await read(shop, giver)} == {giver}
    assert await read(shop, taker) == ended


@pytest.mark.usefixtures("at_work")
async def test_who_sat_in_a_household_has_what_happened_to_its_pool_then(
    shop: Laurel, database: Database
) -> None:
    home, carl = Home(shop), await shop.register()
    await home.found(100)
    await home.spends(home.ben, 10, "R-1")
    await home.joins(carl)
    await home.spends(home.ben, 20, "R-2")
    await home.leaves(carl)
    await home.spends(home.ann, 30)
    await caught_up(database, CONSUMERS)
    others, joined, left = [
        [e for e in await read(shop, member_id) if e.points.household_id or e.HasField("seat")]
        for member_id in (home.ann, carl, home.ben)
    ]
    assert kinds(others)[::-1] == [
        *("household_joined", "household_received", "household_redeemed"),
        *("household_redeemed", "spent_from_household"),
    ]
    assert kinds(left)[::-1] == [
        *("household_joined", "household_received", "spent_from_household"),
        *("spent_from_household", "household_redeemed"),
    ]
    ended, spent, began = joined
    assert (ended.kind, spent.kind, began.kind) == (
        *("household_left", "household_redeemed"),
        "household_joined",
    )
    assert (began.seat.household_id, began.seat.head, began.seat.may_spend) == (home.id, False, True)
    [moved] = spent.points.moved
    assert (moved.points, moved.wallet.balance, spent.points.household_id) == (20, 70, home.id)
    # Who else spent, where and for what is not theirs to know.
    assert home.ben not in str(spent)
    assert "R-2" not in str(spent)
    assert [e.points.order_reference for e in left if e.kind == "spent_from_household"] == ["R-2", "R-1"]
    told = await refusal(shop.staff.members.ListTimeline(pb.ListTimelineRequest(member_id=home.id)))
    assert told.reason == "MEMBER_NOT_FOUND"


@pytest.mark.usefixtures("at_work")
async def test_a_timeline_is_what_a_stream_told(shop: Laurel, database: Database) -> None:
    home = Home(shop)
    await home.found(100)
    async with home.watched_by(home.ben) as stream:
        await stream.next("standing")
        place = stream.event_id
    began = datetime.now(UTC)
    await home.spends(home.ann, 1)
    await home.spends(home.ben, 2, "R-3")
    await buy(shop.terminal, home.ben, 12_000)
    await home.holds(home.ann, 4)
    await home.gives(home.ben, 5)
    await caught_up(database, CONSUMERS)
    request = pb.ListTimelineRequest(member_id=home.ben)
    request.from_time.FromDatetime(began)
    kept = list(reversed((await shop.staff.members.ListTimeline(request)).entries))
    assert Counter(kinds(kept)) == Counter(
        [
            *("household_redeemed", "spent_from_household", "earned", "tier", "household_held"),
            *("handed_on", "household_received"),
        ]
    )
    told = []
    async with home.watched_by(home.ben, place) as stream:
        for _ in kept:
            told.append(await stream.next("points", "tier"))
    assert Counter(map(said, told)) == Counter(
        said(e.points if e.HasField("points") else e.tier) for e in kept
    )


def said(update: pb.PointsUpdate | pb.TierUpdate) -> str:
    """An update without what it says of the moment at which it was sent."""
    plain = type(update)()
    plain.CopyFrom(update)
    if isinstance(plain, pb.PointsUpdate):
        plain.version = 0
        for moved in plain.moved:
            moved.wallet.CopyFrom(pb.Wallet(point_type=moved.wallet.point_type))
    return str(plain)


@pytest.mark.usefixtures("at_work")
async def test_kinds_and_times_are_filters_and_pages_go_on(shop: Laurel, database: Database) -> None:
    member_id = await shop.register()
    now = datetime.now(UTC)
    for ago in (3, 1, 2):
        request = points_pb2.AccrueRequest(
            **once(),
            member_id=member_id,
            order_reference=uuid4().hex,
            amount=Money(currency_code="INR", units=ago),
        )
        # Recorded in another order than it happened.
        request.occur_time.FromDatetime(now - timedelta(days=ago))
        await shop.service.points.Accrue(request)
    await shop.terminal.points.Redeem(points_pb2.RedeemRequest(**once(), member_id=member_id, points=1))
    await caught_up(database, CONSUMERS)
    whole = await read(shop, member_id)
    assert kinds(whole) == ["redeemed", "enrolled", "earned", "earned", "earned"]
    earned = await read(shop, member_id, kinds=["earned", "expired"])
    assert [e.points.moved[0].points for e in earned] == [1, 2, 3]
    assert earned == whole[2:]
    for size in (1, 2, 4, 5):
        assert await read(shop, member_id, page_size=size) == whole
    assert await read(shop, member_id, kinds=["earned"], page_size=1) == earned
    between = {"from_time": earned[2].occur_time, "to_time": earned[0].occur_time}
    assert await read(shop, member_id, **between) == earned[1:]
    assert await read(shop, member_id, from_time=earned[0].occur_time) == whole[:3]

    request_of = partial(pb.ListTimelineRequest, member_id=member_id, page_size=1)
    page = await shop.staff.members.ListTimeline(request_of())
    for other in (request_of(kinds=["earned"]), request_of(**between)):
        other.page_token = page.next_page_token
        assert (await refusal(shop.staff.members.ListTimeline(other))).reason == "PAGE_TOKEN_INVALID"
    told = await refusal(
        shop.staff.members.ListTimeline(
            request_of(kinds=["earned", "lost"], from_time=earned[0].occur_time, to_time=earned[0].occur_time)
        )
    )
    assert told.violations == {
        "kinds[1]": "must be a kind of TimelineEntry",
        "to_time": "must be later than from_time",
    }
    told = await refusal(shop.staff.members.ListTimeline(request_of(kinds=["earned"] * 51)))
    assert told.violations == {"kinds": "must be at most 50"}
    nobody = pb.ListTimelineRequest(member_id=str(uuid4()))
    assert (await refusal(shop.staff.members.ListTimeline(nobody))).reason == "MEMBER_NOT_FOUND"
    told = await refusal(shop.terminal.members.ListTimeline(request_of()))
    assert told.code == grpc.StatusCode.PERMISSION_DENIED


async def test_with_a_token_nothing_is_missing_while_nobody_follows(shop: Laurel, database: Database) -> None:
    home = Home(shop)
    await home.found(200)
    await home.spends(home.ann, 1)
    await followed(database)
    before = await read(shop, home.ben)
    # From here on no worker is there.
    await home.spends(home.ann, 2)
    await home.spends(home.ben, 3)
    bought = await buy(shop.terminal, home.ben, 4)
    await home.leaves(home.ben)
    await home.spends(home.ann, 5)
    assert await read(shop, home.ben) == before
    token = {"consistency_token": bought.consistency_token}
    now = datetime.now(UTC)
    page = await shop.staff.members.ListTimeline(
        pb.ListTimelineRequest(member_id=home.ben, page_size=3, **token)
    )
    assert now - timedelta(seconds=5) < page.as_of_time.ToDatetime(tzinfo=UTC) <= datetime.now(UTC)
    whole = await read(shop, home.ben, **token)
    assert kinds(whole)[: -len(before)] == [
        *("household_left", "earned", "spent_from_household", "household_redeemed")
    ]
    assert whole[-len(before) :] == before
    assert list(page.entries) == whole[:3]
    assert await read(shop, home.ben, page_size=1, **token) == whole
    assert await read(shop, home.ben, kinds=["earned"], **token) == [whole[1]]
    # The pages that follow go on as the first was read, whoever has come along meanwhile.
    follows = pb.ListTimelineRequest(member_id=home.ben, page_size=3, page_token=page.next_page_token)
    assert list((await shop.staff.members.ListTimeline(follows)).entries) == whole[3:6]
    await followed(database)
    assert list((await shop.staff.members.ListTimeline(follows)).entries) == whole[3:6]
    assert await read(shop, home.ben) == whole

    stolen = pb.ListTimelineRequest(member_id=home.ann, **token)
    assert (await refusal(shop.staff.members.ListTimeline(stolen))).reason == "CONSISTENCY_TOKEN_INVALID"
