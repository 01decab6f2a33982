"""WatchMember over gRPC: what is told, from where on, to whom, and how it ends."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
from loyalty.v1 import member_pb2 as pb
from loyalty.v1 import points_pb2

from server.domain.actor import CallerKind
from server.operations import credentials
from server.settings import Settings
from server.store.database import Database
from tests.support.issuers import SYSTEM, configuration, entry, loopback
from tests.support.programs import new_program
from tests.support.published import publish
from tests.support.refusals import Refusal, read
from tests.support.servers import Laurel, started
from tests.support.watching import Watching, buy, watching

BASE = {"rule": "base", "then": [{"earn": {"points": 1, "per": "1.00"}}]}


@pytest.fixture(scope="module")
async def shop(settings: Settings, database: Database) -> AsyncIterator[Laurel]:
    """A point a rupee."""
    async with started(settings, database) as laurel:
        await publish(laurel, BASE)
        yield laurel


async def refused(address: str, key: str, member_id: str, last_event_id: str = "") -> Refusal:
    """How a stream is refused."""
    async with watching(address, key, member_id, last_event_id) as stream:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.next("standing")
    return read(caught.value)


async def test_purchases_redemptions_tiers_and_status_are_told_as_they_happen(shop: Laurel) -> None:
    member_id = await shop.register()
    async with watching(shop.address, shop.terminal.key, member_id) as stream:
        standing = await stream.next("standing")
        assert (standing.status, standing.tier, standing.version) == (pb.MEMBER_STATUS_ACTIVE, "bronze", 1)
        assert [(w.point_type, w.balance) for w in standing.wallets] == [("points", 0)]

        bought = await buy(shop.terminal, member_id, 12_000)
        update = await stream.next("points")
        assert (update.kind, update.message) == ("earned", "You've earned 12,000 points")
        assert (update.activity_type, update.store, update.version) == (
            "PURCHASE",
            "mumbai-1",
            bought.version,
        )
        [moved] = update.moved
        assert (moved.points, moved.wallet.balance, moved.wallet.lifetime) == (12_000, 12_000, 12_000)
        tier = await stream.next("tier")
        assert (tier.before, tier.after, tier.promoted) == ("bronze", "platinum", True)
        assert tier.message == "You've unlocked Platinum"

        await shop.terminal.points.Redeem(
            points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=40)
        )
        update = await stream.next("points")
        [moved] = update.moved
        assert (update.kind, moved.points, moved.wallet.balance) == ("redeemed", 40, 11_960)

        # Of a profile nothing is told.
        request = pb.UpdateMemberRequest(
            request_id=uuid4().hex, member=pb.Member(member_id=member_id, given_name="Asha")
        )
        request.update_mask.paths.append("given_name")
        await shop.service.members.UpdateMember(request)
        await shop.service.members.SuspendMember(
            pb.SuspendMemberRequest(request_id=uuid4().hex, member_id=member_id, reason="a secret")
        )
        status = await stream.next("status")
        assert (status.before, status.after) == (pb.MEMBER_STATUS_ACTIVE, pb.MEMBER_STATUS_SUSPENDED)
        assert "secret" not in str(status)


async def test_of_a_merge_the_stream_tells_who_lives_on(shop: Laurel) -> None:
    old, new = await shop.register(), await shop.register()
    await buy(shop.terminal, old, 30)
    async with (
        watching(shop.address, shop.terminal.key, old) as ending,
        watching(shop.address, shop.terminal.key, new) as lasting,
    ):
        await ending.next("standing")
        await lasting.next("standing")
        await shop.staff.members.MergeMembers(
            pb.MergeMembersRequest(request_id=uuid4().hex, member_id=new, merged_member_id=old, reason="one")
        )
        status = await ending.next("status")
        assert (status.after, status.merged_into) == (pb.MEMBER_STATUS_MERGED, new)
        handed_on = await ending.next("points")
        assert (handed_on.kind, handed_on.moved[0].points) == ("handed_on", 30)
        received = await lasting.next("points")
        assert (received.kind, received.moved[0].wallet.balance) == ("received", 30)
    async with watching(shop.address, shop.terminal.key, old) as late:
        assert (await late.next("standing")).merged_into == new


async def test_a_client_that_comes_back_is_told_the_rest_on_any_server(
    shop: Laurel, settings: Settings, database: Database
) -> None:
    member_id = await shop.register()
    async with watching(shop.address, shop.terminal.key, member_id) as stream:
        await stream.next("standing")
        for rupees in (1, 2, 3):
            await buy(shop.terminal, member_id, rupees)
        await told(stream, 1)
        came_to = stream.event_id
    async with (
        started(settings, database, shop.program) as other,
        watching(other.address, other.terminal.key, member_id, came_to) as stream,
    ):
        await told(stream, 2, 3)
        # Bought at one server, told by the other.
        await buy(shop.terminal, member_id, 4)
        await told(stream, 4)
        came_to = stream.event_id
        await other.server.stop()
        assert await stream.end() is grpc.StatusCode.UNAVAILABLE
    await buy(shop.terminal, member_id, 5)
    async with (
        started(settings, database, shop.program) as again,
        watching(again.address, again.terminal.key, member_id, came_to) as stream,
    ):
        await told(stream, 5)
        await buy(again.terminal, member_id, 6)
        await told(stream, 6)


async def told(stream: Watching, *points: int) -> None:
    """The next updates tell of so many points earned each."""
    for expected in points:
        update = await stream.next("points")
        assert [moved.points for moved in update.moved] == [expected]


async def test_an_event_id_is_good_for_one_member_and_nobody_makes_one_up(shop: Laurel) -> None:
    one, other = await shop.register(), await shop.register()
    async with watching(shop.address, shop.terminal.key, one) as stream:
        await stream.next("standing")
        event_id = stream.event_id
    assert len(event_id) < 512
    for wrong in (other, one):
        altered = event_id if wrong == other else event_id[:-4] + "BBBB"
        refusal = await refused(shop.address, shop.terminal.key, wrong, altered)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "EVENT_ID_INVALID")
        assert set(refusal.violations) == {"last_event_id"}
    for nonsense in ("1", "%%", "x" * 5000, "é"):
        refusal = await refused(shop.address, shop.terminal.key, one, nonsense)
        assert refusal.reason == "EVENT_ID_INVALID"


async def test_what_is_not_there_or_not_asked_properly_is_refused_as_elsewhere(shop: Laurel) -> None:
    assert (await refused(shop.address, shop.terminal.key, str(uuid4()))).reason == "MEMBER_NOT_FOUND"
    assert set((await refused(shop.address, shop.terminal.key, "Asha")).violations) == {"member_id"}
    assert (await refused(shop.address, "nonsense", str(uuid4()))).reason == "CREDENTIAL_INVALID"
    unscoped = await shop.new_key(CallerKind.TERMINAL, scopes=frozenset({"points.read"}))
    assert (await refused(shop.address, unscoped, str(uuid4()))).reason == "SCOPE_MISSING"


async def test_a_credential_has_so_many_streams(shop: Laurel, settings: Settings, database: Database) -> None:
    narrow = settings.model_copy(update={"streams_per_caller": 1})
    member_id = await shop.register()
    async with (
        started(narrow, database, shop.program) as laurel,
        watching(laurel.address, laurel.terminal.key, member_id) as stream,
    ):
        await stream.next("standing")
        refusal = await refused(laurel.address, laurel.terminal.key, member_id)
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_STREAMS",
        )
        async with watching(laurel.address, laurel.service.key, member_id) as another:
            await another.next("standing")


async def test_a_revoked_key_hears_no_more(shop: Laurel) -> None:
    member_id = await shop.register()
    name = f"till-{uuid4().hex[:8]}"
    key = await shop.new_key(CallerKind.TERMINAL, name=name)
    async with watching(shop.address, key, member_id) as stream:
        await stream.next("standing")
        await credentials.revoke(shop.database, shop.program.program_id, name, datetime.now(UTC))
        assert await stream.end() is grpc.StatusCode.UNAUTHENTICATED


async def test_what_staff_watch_is_on_record_before_they_see_it(shop: Laurel) -> None:
    member_id = await shop.register()
    async with watching(shop.address, shop.staff.key, member_id) as stream:
        await stream.next("standing")
        async with shop.database.connection() as connection:
            methods = await connection.fetch(
                "SELECT method FROM access_audit WHERE member_ids = ARRAY[$1::uuid]", member_id
            )
    assert [row[0] for row in methods] == ["loyalty.v1.MemberService.WatchMember"]


async def test_members_watch_themselves_alone_and_only_while_their_token_is_good(
    settings: Settings, database: Database, folder: Path
) -> None:
    program = await new_program(database)
    with loopback() as issuer:
        file = configuration(
            folder / f"{uuid4().hex}.yaml", entry(issuer, program.name, clock_skew_seconds=0)
        )
        trusting = settings.model_copy(update={"oidc_file": str(file), "failure_limit": ""})
        async with started(trusting, database, program) as laurel:
            a, b = [
                await laurel.register(external_ids=[pb.ExternalId(system=SYSTEM, id=subject)])
                for subject in "ab"
            ]
            theirs = await refused(laurel.address, issuer.token("a"), b)
            nobodys = await refused(laurel.address, issuer.token("a"), str(uuid4()))
            assert theirs == nobodys
            assert (theirs.code, theirs.reason) == (grpc.StatusCode.PERMISSION_DENIED, "OUT_OF_REACH")
            async with watching(laurel.address, issuer.token("a"), a) as stream:
                await stream.next("standing")
                await buy(laurel.terminal, a)
                await stream.next("points")
            short = issuer.token("a", exp=int(time.time()) + 3)
            async with watching(laurel.address, short, a) as stream:
                assert await stream.end() is grpc.StatusCode.UNAUTHENTICATED
