"""Changes of members over gRPC: what the mask names, once, by whom, on record."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from loyalty.v1 import member_pb2 as pb
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.actor import Actor, CallerKind
from server.domain.errors import PermissionDenied
from server.main import now
from server.operations.committer import Committer
from server.operations.members import Members
from server.operations.points import Points
from server.operations.programs import Programs
from server.rpc.gate import Call
from server.rpc.members import MemberService
from server.rpc.pages import Pages
from server.rpc.versions import Versions
from server.store import locks
from server.store.database import Database
from server.store.sealing import Sealer
from tests.support.refusals import read, refusal
from tests.support.servers import Laurel

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


def an_update(member_id: str, *paths: str, request_id: str = "", **profile: Any) -> pb.UpdateMemberRequest:
    return pb.UpdateMemberRequest(
        request_id=request_id or uuid4().hex,
        member=pb.Member(member_id=member_id, **profile),
        update_mask=FieldMask(paths=paths),
    )


async def get(laurel: Laurel, member_id: str) -> pb.Member:
    return (await laurel.service.members.GetMember(pb.GetMemberRequest(member_id=member_id))).member


async def log_of(laurel: Laurel, member_id: str) -> list[tuple[str, dict[str, Any]]]:
    async with laurel.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT event_type, payload FROM event_log WHERE member_id = $1 ORDER BY xid, position",
            UUID(member_id),
        )
    return [(r["event_type"], json.loads(r["payload"])) for r in rows]


async def test_an_update_changes_what_the_mask_names_and_nothing_else(laurel: Laurel) -> None:
    email = f"{uuid4().hex}@example.com"
    member_id = await laurel.register(email=email, given_name="Asha", family_name="Rao", tags=["a"])
    before = await get(laurel, member_id)
    request = an_update(
        member_id,
        "given_name",
        "address",
        "preferences.channels",
        given_name="Usha",
        family_name="ignored",
        address=pb.Address(locality="Pune"),
        preferences=pb.Preferences(language_code="hi", channels=["push"]),
    )
    after = (await laurel.service.members.UpdateMember(request)).member
    expected = pb.Member()
    expected.CopyFrom(before)
    expected.given_name = "Usha"
    expected.address.locality = "Pune"
    expected.preferences.channels.append("push")
    expected.etag, expected.version = after.etag, before.version + 1
    expected.update_time.CopyFrom(after.update_time)
    assert after == expected == await get(laurel, member_id)
    assert after.etag != before.etag
    assert after.update_time.ToDatetime() > before.update_time.ToDatetime()
    assert (await log_of(laurel, member_id))[-1] == (
        "member.updated",
        {"fields": ["given_name", "address", "preferences"]},
    )


async def test_what_is_equal_already_changes_nothing(laurel: Laurel) -> None:
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com", given_name="Asha")
    before = await get(laurel, member_id)
    await laurel.service.members.UpdateMember(an_update(member_id, "given_name", given_name="Asha"))
    assert await get(laurel, member_id) == before
    assert [event for event, _ in await log_of(laurel, member_id)] == ["member.registered"]


async def test_an_identifier_given_up_is_free_for_another_member(laurel: Laurel) -> None:
    card, email = uuid4().hex, f"{uuid4().hex}@example.com"
    one = await laurel.register(email=email, card_numbers=[card, f"{card}2"])
    other = await laurel.register()
    take = an_update(other, "card_numbers", card_numbers=[card.upper()])
    refused = await refusal(laurel.service.members.UpdateMember(take))
    assert (refused.reason, refused.metadata) == ("IDENTIFIER_TAKEN", {"field": "card_numbers[0]"})
    await laurel.service.members.UpdateMember(an_update(one, "card_numbers", card_numbers=[f"{card}2"]))
    await laurel.service.members.UpdateMember(take)
    lookup = pb.FindMemberRequest(identifier=pb.Identifier(card_number=card))
    assert (await laurel.terminal.members.FindMember(lookup)).member.member_id == other
    kept = pb.FindMemberRequest(identifier=pb.Identifier(card_number=f"{card}2"))
    assert (await laurel.terminal.members.FindMember(kept)).member.member_id == one


async def test_two_members_who_want_each_others_cards_at_once_do_not_hang(laurel: Laurel) -> None:
    for _ in range(10):
        a, b = uuid4().hex, uuid4().hex
        one = await laurel.register(email=f"{a}@example.com", card_numbers=[a])
        two = await laurel.register(email=f"{b}@example.com", card_numbers=[b])
        swaps = [
            laurel.service.members.UpdateMember(an_update(one, "card_numbers", card_numbers=[b]), timeout=5),
            laurel.service.members.UpdateMember(an_update(two, "card_numbers", card_numbers=[a]), timeout=5),
        ]
        for refused in await asyncio.gather(*[refusal(swap) for swap in swaps]):
            assert refused.reason == "IDENTIFIER_TAKEN"


async def test_the_last_identifier_stays_unless_the_membership_is_closed(laurel: Laurel) -> None:
    email = f"{uuid4().hex}@example.com"
    member_id = await laurel.register(email=email)
    refused = await refusal(laurel.service.members.UpdateMember(an_update(member_id, "email")))
    assert (refused.code, list(refused.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["member"])
    close = pb.CloseMemberRequest(request_id=uuid4().hex, member_id=member_id)
    await laurel.service.members.CloseMember(close)
    again = pb.RegisterMemberRequest(request_id=uuid4().hex, member=pb.Member(email=email))
    assert (await refusal(laurel.terminal.members.RegisterMember(again))).reason == "IDENTIFIER_TAKEN"
    await laurel.service.members.UpdateMember(an_update(member_id, "email"))
    assert (await laurel.terminal.members.RegisterMember(again)).member.member_id != member_id


async def test_a_stale_etag_changes_nothing(laurel: Laurel) -> None:
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com")
    etag = (await get(laurel, member_id)).etag
    await laurel.service.members.UpdateMember(
        an_update(member_id, "given_name", given_name="Asha", etag=etag)
    )
    for stale in (etag, "something"):
        update = an_update(member_id, "given_name", given_name="Usha", etag=stale)
        refused = await refusal(laurel.service.members.UpdateMember(update))
        assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await get(laurel, member_id)).given_name == "Asha"


async def test_updates_with_one_etag_at_once_let_one_win(laurel: Laurel) -> None:
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com")
    etag = (await get(laurel, member_id)).etag
    updates = [
        laurel.service.members.UpdateMember(an_update(member_id, "given_name", given_name=f"N{n}", etag=etag))
        for n in range(20)
    ]
    results = await asyncio.gather(*updates, return_exceptions=True)
    refused = [r for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert {r.code() for r in refused} == {grpc.StatusCode.ABORTED}
    assert len(refused) == 19


async def test_a_repeated_update_is_made_once(laurel: Laurel) -> None:
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com")
    request = an_update(member_id, "given_name", given_name="Asha", etag=(await get(laurel, member_id)).etag)
    replies = await asyncio.gather(*[laurel.service.members.UpdateMember(request) for _ in range(10)])
    assert len({r.SerializeToString(deterministic=True) for r in replies}) == 1
    assert [event for event, _ in await log_of(laurel, member_id)] == ["member.registered", "member.updated"]
    request.member.given_name = "Usha"
    assert (await refusal(laurel.service.members.UpdateMember(request))).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("path", ["status", "tier", "wallets", "version", "create_time", "nickname", "*"])
async def test_what_is_not_the_callers_to_change_is_refused(laurel: Laurel, path: str) -> None:
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com")
    before = await get(laurel, member_id)
    update = an_update(member_id, "given_name", path, given_name="Usha", tier="platinum")
    refused = await refusal(laurel.service.members.UpdateMember(update))
    assert (refused.code, list(refused.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["update_mask"])
    assert path in {"*", "nickname"} or path in refused.violations["update_mask"]
    assert await get(laurel, member_id) == before


async def test_an_update_names_every_mistake_but_only_in_the_fields_that_change(laurel: Laurel) -> None:
    update = an_update("", "email", request_id=" ", email="a\0@example.com", phone="not looked at")
    refused = await refusal(laurel.service.members.UpdateMember(update))
    assert set(refused.violations) == {"request_id", "member.member_id", "member.email"}
    empty = await refusal(laurel.service.members.UpdateMember(an_update(UNKNOWN)))
    assert list(empty.violations) == ["update_mask"]


async def test_nobody_changes_a_member_who_is_not_there(laurel: Laurel) -> None:
    members, request_id = laurel.service.members, uuid4().hex
    for call in (
        members.UpdateMember(an_update(UNKNOWN, "given_name", given_name="Asha")),
        members.SuspendMember(pb.SuspendMemberRequest(request_id=request_id, member_id=UNKNOWN)),
        members.CloseMember(pb.CloseMemberRequest(request_id=request_id, member_id=UNKNOWN)),
        members.RecordConsent(
            pb.RecordConsentRequest(request_id=request_id, member_id=UNKNOWN, consent=pb.Consent(purpose="p"))
        ),
        members.ListConsents(pb.ListConsentsRequest(member_id=UNKNOWN)),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "MEMBER_NOT_FOUND")


async def test_a_membership_is_suspended_reactivated_and_closed_for_good(laurel: Laurel) -> None:
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com")
    members = laurel.service.members

    def asked(kind: type[Any], reason: str = "") -> Any:
        return kind(request_id=uuid4().hex, member_id=member_id, reason=reason)

    etag = (await get(laurel, member_id)).etag
    suspended = (await members.SuspendMember(asked(pb.SuspendMemberRequest, "chargeback"))).member
    assert (suspended.status, suspended.etag) == (pb.MEMBER_STATUS_SUSPENDED, etag)
    again = (await members.SuspendMember(asked(pb.SuspendMemberRequest))).member
    assert again.version == suspended.version == 2
    reactivated = (await members.ReactivateMember(asked(pb.ReactivateMemberRequest))).member
    assert reactivated.status == pb.MEMBER_STATUS_ACTIVE
    await members.CloseMember(asked(pb.CloseMemberRequest))
    for call in (
        members.SuspendMember(asked(pb.SuspendMemberRequest)),
        members.ReactivateMember(asked(pb.ReactivateMemberRequest)),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "STATUS_TRANSITION_INVALID",
        )
        assert refused.metadata["from"] == "closed"
    await members.CloseMember(asked(pb.CloseMemberRequest))
    assert (await get(laurel, member_id)).status == pb.MEMBER_STATUS_CLOSED
    changes = [
        payload for event, payload in await log_of(laurel, member_id) if event == "member.status_changed"
    ]
    assert [(c["before"], c["after"], c["reason"]) for c in changes] == [
        ("active", "suspended", "chargeback"),
        ("suspended", "active", ""),
        ("active", "closed", ""),
    ]
    assert all(c["actor"].startswith("service:") for c in changes)


async def test_consent_has_a_history_newest_first(laurel: Laurel) -> None:
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com")
    decisions = [("marketing.email", True), ("profiling", True), ("marketing.email", False)]
    for number, (purpose, granted) in enumerate(decisions):
        request = pb.RecordConsentRequest(
            request_id=f"{member_id[:40]}-{number}",
            member_id=member_id,
            consent=pb.Consent(
                purpose=purpose, granted=granted, policy_version="privacy-2026-04", channel="till"
            ),
        )
        first = await laurel.terminal.members.RecordConsent(request)
        assert await laurel.terminal.members.RecordConsent(request) == first
        assert first.consent.actor.startswith("terminal:")
    page = await laurel.staff.members.ListConsents(pb.ListConsentsRequest(member_id=member_id, page_size=2))
    rest = await laurel.staff.members.ListConsents(
        pb.ListConsentsRequest(member_id=member_id, page_token=page.next_page_token)
    )
    listed = [(c.purpose, c.granted) for c in [*page.consents, *rest.consents]]
    assert listed == decisions[::-1]
    assert not rest.next_page_token
    assert (await get(laurel, member_id)).version == 4
    request.consent.granted = True
    assert (await refusal(laurel.terminal.members.RecordConsent(request))).reason == "REQUEST_ID_REUSED"


async def test_a_consent_must_say_what_for(laurel: Laurel) -> None:
    request = pb.RecordConsentRequest(member_id=UNKNOWN, consent=pb.Consent(channel="x" * 65))
    refused = await refusal(laurel.terminal.members.RecordConsent(request))
    assert set(refused.violations) == {"request_id", "consent.purpose", "consent.channel"}


async def test_tills_can_not_update_or_suspend(laurel: Laurel) -> None:
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com")
    for call in (
        laurel.terminal.members.UpdateMember(an_update(member_id, "given_name", given_name="Usha")),
        laurel.terminal.members.SuspendMember(pb.SuspendMemberRequest(request_id="r", member_id=member_id)),
    ):
        assert (await refusal(call)).reason == "CALLER_NOT_ADMITTED"


async def test_members_change_their_name_but_not_what_earns_points(laurel: Laurel) -> None:
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com")
    keys = secrets.load(laurel.settings.secrets_file)
    programs, sealer = Programs(), Sealer(keys)
    committer = Committer(laurel.database, programs, keys.ledger, now, uuid7)
    service = MemberService(
        Members(laurel.database, sealer, programs, now),
        Points(laurel.database, sealer, programs, committer, None, now),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type] - nobody watches here
        None,  # type: ignore[arg-type] - nor looks back
        Pages(keys.page_token),
        None,  # type: ignore[arg-type]
        Versions(keys.page_token),
        now,
    )
    own = Actor(
        kind=CallerKind.MEMBER,
        program_id=laurel.program.program_id,
        credential_id=UUID(member_id),
        name="app",
        source_system="app",
        scopes=frozenset({"members.write"}),
        member_id=UUID(member_id),
    )
    call = Call(own, deadline=0.0, method="loyalty.v1.MemberService.UpdateMember")
    for path in ("tier", "wallets", "status", "segments", "tags", "attributes", "external_ids"):
        with pytest.raises(PermissionDenied) as caught:
            await service.UpdateMember(an_update(member_id, "given_name", path, given_name="Asha"), call)
        assert caught.value.metadata["fields"] == path
    assert (await get(laurel, member_id)).version == 1
    reply = await service.UpdateMember(an_update(member_id, "given_name", given_name="Asha"), call)
    assert reply.member.given_name == "Asha"
    await committer.close()


async def test_a_change_whose_first_try_met_another_is_made_once(laurel: Laurel) -> None:
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com")
    async with laurel.database.connection() as connection:
        await connection.execute(
            """CREATE SEQUENCE tries;
               CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN
                 IF nextval('tries') < 3 THEN RAISE SQLSTATE '40P01'; END IF;
                 RETURN NEW;
               END $$;
               CREATE TRIGGER collide BEFORE UPDATE ON member FOR EACH ROW EXECUTE FUNCTION collide()"""
        )
    try:
        reply = await laurel.service.members.UpdateMember(
            an_update(member_id, "given_name", given_name="Usha")
        )
    finally:
        async with laurel.database.connection() as connection:
            tries = await connection.fetchval("SELECT last_value FROM tries")
            await connection.execute("DROP FUNCTION collide CASCADE; DROP SEQUENCE tries")
    assert (reply.member.given_name, reply.member.version, tries) == ("Usha", 2, 3)
    assert [kind for kind, _ in await log_of(laurel, member_id)] == ["member.registered", "member.updated"]


async def test_whose_member_somebody_keeps_is_told_to_come_back(laurel: Laurel, database: Database) -> None:
    """Whoever waits has a connection, and there are few."""
    member_id, other = await laurel.register(), await laurel.register()
    async with database.transaction() as connection:
        await locks.take(connection, [locks.member_lock(UUID(member_id))])
        many = [an_update(member_id, "given_name", given_name=f"Asha {n}") for n in range(10)]
        calls = [laurel.service.members.UpdateMember(request) for request in many]
        refused = await asyncio.gather(*calls, return_exceptions=True)
        assert {read(error).reason for error in refused} <= {"CONTENTION", "STORAGE_UNAVAILABLE"}
        await laurel.service.members.UpdateMember(an_update(other, "given_name", given_name="Ravi"))
    changed = await laurel.service.members.UpdateMember(many[0])
    assert changed.member.given_name == "Asha 0"
