"""Members over gRPC: joined once, found by anything, shown to each caller as much as they need."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.type import date_pb2
from loyalty.v1 import member_pb2 as pb

from server.domain.actor import CallerKind
from tests.support.refusals import refusal
from tests.support.servers import Caller, Laurel, new_key, new_program


def a_request(request_id: str = "", **profile: Any) -> pb.RegisterMemberRequest:
    return pb.RegisterMemberRequest(request_id=request_id or uuid4().hex, member=pb.Member(**profile))


def an_email() -> str:
    return f"{uuid4().hex}@example.com"


def a_card() -> str:
    return uuid4().hex.upper()


async def find(caller: Caller, **identifier: Any) -> str:
    reply = await caller.members.FindMember(pb.FindMemberRequest(identifier=pb.Identifier(**identifier)))
    return reply.member.member_id


async def everything_of(laurel: Laurel, member_id: str) -> pb.Member:
    return (await laurel.service.members.GetMember(pb.GetMemberRequest(member_id=member_id))).member


async def test_a_new_member_is_active_in_the_lowest_tier_with_an_empty_wallet(laurel: Laurel) -> None:
    email = an_email()
    request = a_request(
        given_name=" Asha ",
        family_name="Rao",
        email=email,
        birth_date=date_pb2.Date(year=1990, month=11, day=5),
        address=pb.Address(lines=["12 Marine Drive"], locality="Mumbai", country_code="in"),
        preferences=pb.Preferences(
            language_code="hi-in", time_zone="Asia/Kolkata", channels=["sms", "email"]
        ),
        tags=["early", "early"],
        segments=["city"],
        attributes={"shoe": "41"},
    )
    member = (await laurel.service.members.RegisterMember(request)).member
    assert (member.status, member.tier) == (pb.MEMBER_STATUS_ACTIVE, "bronze")
    assert list(member.wallets) == [pb.Wallet(point_type="points")]
    assert (member.given_name, member.family_name, member.email) == ("Asha", "Rao", email)
    assert member.birth_date == date_pb2.Date(year=1990, month=11, day=5)
    assert member.address == pb.Address(lines=["12 Marine Drive"], locality="Mumbai", country_code="IN")
    assert member.preferences.language_code == "hi-IN"
    assert list(member.preferences.channels) == ["sms", "email"]
    assert (list(member.tags), list(member.segments), dict(member.attributes)) == (
        ["early"],
        ["city"],
        {"shoe": "41"},
    )
    assert member.create_time == member.update_time
    assert member.version == 1
    assert UUID(member.member_id).version == 7
    assert await everything_of(laurel, member.member_id) == member


async def test_any_identifier_in_any_spelling_finds_the_member(laurel: Laurel) -> None:
    card, local = a_card(), uuid4().hex
    member_id = await laurel.register(
        email=f"Asha.{local}@Example.com",
        phone="+91 98123-00001",
        external_ids=[pb.ExternalId(system="crm", id="C-17"), pb.ExternalId(system="shop.old", id="c-17")],
        card_numbers=[f"{card[:4]} {card[4:]}", "lc-0000-0001"],
    )
    for identifier in (
        {"email": f"asha.{local}@EXAMPLE.com"},
        {"phone": "+919812300001"},
        {"phone": "+91 (98123) 00001"},
        {"external_id": pb.ExternalId(system="crm", id="C-17")},
        {"external_id": pb.ExternalId(system="shop.old", id=" c-17 ")},
        {"card_number": card.lower()},
        {"card_number": " LC 0000 0001 "},
    ):
        assert await find(laurel.terminal, **identifier) == member_id, identifier


@pytest.mark.parametrize(
    "identifier",
    [
        {"email": "nobody@example.com"},
        {"phone": "+919812399999"},
        {"external_id": pb.ExternalId(system="crm", id="c-17-no")},
        {"card_number": "NOBODYS1"},
    ],
)
async def test_an_identifier_of_nobody_is_not_found(laurel: Laurel, identifier: dict[str, Any]) -> None:
    refused = await refusal(find(laurel.terminal, **identifier))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "MEMBER_NOT_FOUND")


async def test_one_program_knows_nothing_of_anothers_members(laurel: Laurel) -> None:
    email = an_email()
    member_id = await laurel.register(email=email)
    other = await new_program(laurel.database)
    stranger = await laurel.caller(await new_key(laurel.database, other, CallerKind.SERVICE))
    assert (await refusal(find(stranger, email=email))).reason == "MEMBER_NOT_FOUND"
    get = stranger.members.GetMember(pb.GetMemberRequest(member_id=member_id))
    assert (await refusal(get)).reason == "MEMBER_NOT_FOUND"
    assert not (await stranger.members.ListMembers(pb.ListMembersRequest())).members
    await stranger.members.RegisterMember(a_request(email=email))


@pytest.mark.parametrize(
    ("field", "profile"),
    [
        ("email", {"email": "TAKEN@example.com", "card_numbers": ["FREE1"]}),
        ("phone", {"phone": "+91 98123 00002"}),
        ("external_ids[1]", {"external_ids": [{"system": "crm", "id": "f"}, {"system": "crm", "id": "T"}]}),
        ("card_numbers[1]", {"card_numbers": ["free2", "TAKEN 1"]}),
    ],
)
async def test_a_duplicate_is_refused_by_the_field_it_stands_in(
    laurel: Laurel, field: str, profile: dict[str, Any]
) -> None:
    taken = {
        "email": "taken@Example.com",
        "phone": "+919812300002",
        "external_ids": [{"system": "crm", "id": "T"}],
        "card_numbers": ["taken-1"],
    }
    await laurel.terminal.members.RegisterMember(a_request("the-first", **taken))
    refused = await refusal(laurel.terminal.members.RegisterMember(a_request(**profile)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDENTIFIER_TAKEN")
    assert refused.metadata == {"field": field}
    assert "taken" not in refused.message.lower().replace("identifier_taken", "")
    for free in ("FREE1", "FREE2"):
        found = find(laurel.terminal, card_number=free)
        assert (await refusal(found)).reason == "MEMBER_NOT_FOUND", "a refused registration left something"


async def test_fifty_registrations_of_one_email_at_once_make_one_member(laurel: Laurel) -> None:
    email = an_email()

    async def register(number: int) -> str:
        # Every other one names two more identifiers, in opposite orders.
        cards = [f"{email[:20]}A", f"{email[:20]}B"][:: 1 if number % 2 else -1]
        profile: dict[str, Any] = {"email": email, "card_numbers": cards if number % 3 else []}
        return (await laurel.terminal.members.RegisterMember(a_request(**profile))).member.member_id

    results = await asyncio.gather(*map(register, range(50)), return_exceptions=True)
    made = [r for r in results if isinstance(r, str)]
    refused = [r for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert (len(made), len(refused)) == (1, 49)
    assert {r.code() for r in refused} == {grpc.StatusCode.ALREADY_EXISTS}
    assert await find(laurel.terminal, email=email) == made[0]


async def test_fifty_times_one_request_id_at_once_is_one_member_and_fifty_equal_replies(
    laurel: Laurel,
) -> None:
    request = a_request(email=an_email())
    replies = await asyncio.gather(*[laurel.terminal.members.RegisterMember(request) for _ in range(50)])
    assert len({reply.SerializeToString(deterministic=True) for reply in replies}) == 1
    async with laurel.database.connection() as connection:
        registered = await connection.fetchval(
            "SELECT count(*) FROM event_log WHERE event_type = 'member.registered' AND member_id = $1",
            UUID(replies[0].member.member_id),
        )
    assert registered == 1


async def test_a_retry_gets_the_member_as_it_is_by_then(laurel: Laurel) -> None:
    request = a_request(email=an_email(), given_name="Asha")
    first = (await laurel.service.members.RegisterMember(request)).member
    suspend = pb.SuspendMemberRequest(request_id=uuid4().hex, member_id=first.member_id)
    await laurel.service.members.SuspendMember(suspend)
    again = (await laurel.service.members.RegisterMember(request)).member
    assert (again.member_id, again.status) == (first.member_id, pb.MEMBER_STATUS_SUSPENDED)


async def test_a_request_id_used_again_with_another_body_changes_nothing(laurel: Laurel) -> None:
    request_id, email = uuid4().hex, an_email()
    await laurel.terminal.members.RegisterMember(a_request(request_id, email=an_email()))
    refused = await refusal(laurel.terminal.members.RegisterMember(a_request(request_id, email=email)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert list(refused.violations) == ["request_id"]
    assert (await refusal(find(laurel.terminal, email=email))).reason == "MEMBER_NOT_FOUND"


async def test_a_refused_registration_may_be_tried_again_under_its_request_id(laurel: Laurel) -> None:
    request_id, email = uuid4().hex, an_email()
    await laurel.register(email=email)
    await refusal(laurel.terminal.members.RegisterMember(a_request(request_id, email=email)))
    await laurel.terminal.members.RegisterMember(a_request(request_id, email=an_email()))


async def test_every_mistake_is_named_at_once(laurel: Laurel) -> None:
    request = a_request(
        "no good",
        given_name="x" * 201,
        family_name="Ra\0o",
        email="asha(at)example.com",
        phone="98123",
        birth_date=date_pb2.Date(year=1990, month=2, day=30),
        address=pb.Address(lines=["1", "2", "3", "4", "5"], country_code="IND"),
        external_ids=[pb.ExternalId(system="CRM", id="")],
        card_numbers=["LC123456", "!"],
        preferences=pb.Preferences(language_code="english", time_zone="Mars/Base", channels=["fax"]),
        tags=[""],
        attributes={"k": "x" * 257},
    )
    refused = await refusal(laurel.terminal.members.RegisterMember(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert set(refused.violations) == {
        "request_id",
        "member.given_name",
        "member.family_name",
        "member.email",
        "member.phone",
        "member.birth_date",
        "member.address.lines",
        "member.address.country_code",
        "member.external_ids[0].system",
        "member.external_ids[0].id",
        "member.card_numbers[1]",
        "member.preferences.language_code",
        "member.preferences.time_zone",
        "member.preferences.channels[0]",
        "member.tags[0]",
        "member.attributes[k]",
    }
    said = refused.message + str(refused.violations)
    assert "asha(at)" not in said
    assert "98123" not in said.replace("+919812345678", "")


@pytest.mark.parametrize(
    ("field", "profile"),
    [
        ("member", {"given_name": "Asha"}),
        ("member.birth_date", {"email": "b@example.com", "birth_date": {"year": 2999, "month": 1, "day": 1}}),
        ("member.card_numbers[1]", {"card_numbers": ["LC 77 77", "LC7777"]}),
        ("member.card_numbers", {"card_numbers": [f"CARD{n}" for n in range(21)]}),
        ("member.external_ids", {"external_ids": [{"system": "s", "id": str(n)} for n in range(21)]}),
        ("member.tags", {"email": "b@example.com", "tags": [str(n) for n in range(51)]}),
        ("member.attributes", {"email": "b@example.com", "attributes": {str(n): "" for n in range(51)}}),
    ],
)
async def test_what_exceeds_its_bounds_is_refused(
    laurel: Laurel, field: str, profile: dict[str, Any]
) -> None:
    refused = await refusal(laurel.terminal.members.RegisterMember(a_request(**profile)))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(refused.violations) == [field]


async def test_a_till_sees_no_birth_date_no_address_and_masked_contacts(laurel: Laurel) -> None:
    request = a_request(
        given_name="Asha",
        email=f"z{an_email()}",
        phone="+919812345678",
        birth_date=date_pb2.Date(year=1990, month=11, day=5),
        address=pb.Address(locality="Mumbai"),
        card_numbers=[a_card()],
    )
    registered = (await laurel.terminal.members.RegisterMember(request)).member
    get = pb.GetMemberRequest(member_id=registered.member_id)
    got = (await laurel.terminal.members.GetMember(get)).member
    lookup = pb.FindMemberRequest(identifier=pb.Identifier(phone="+919812345678"))
    found = (await laurel.terminal.members.FindMember(lookup)).member
    for member in (registered, got, found):
        assert (member.email, member.phone) == ("z***@example.com", "+91******5678")
        assert not member.HasField("birth_date")
        assert not member.HasField("address")
        assert (member.given_name, list(member.card_numbers)) == ("Asha", list(request.member.card_numbers))
    full = await everything_of(laurel, registered.member_id)
    assert (full.email, full.phone) == (request.member.email, "+919812345678")
    assert full.address.locality == "Mumbai"


async def test_what_a_member_holds_is_shown_for_every_point_type(laurel: Laurel) -> None:
    program = await new_program(laurel.database, point_types=("points", "credits"))
    caller = await laurel.caller(await new_key(laurel.database, program, CallerKind.SERVICE))
    member_id = (await caller.members.RegisterMember(a_request(email=an_email()))).member.member_id
    async with laurel.database.connection() as connection:
        await connection.execute(
            "INSERT INTO wallet VALUES ($1, $2, 'credits', 7, 2, 1, 0, 12, 3, $3)",
            program.program_id,
            UUID(member_id),
            bytes(32),
        )
    shown = (await caller.members.GetMember(pb.GetMemberRequest(member_id=member_id))).member.wallets
    assert list(shown) == [
        pb.Wallet(point_type="points"),
        pb.Wallet(point_type="credits", balance=7, pending=2, held=1, lifetime=12),
    ]
    [listed] = (await caller.members.ListMembers(pb.ListMembersRequest())).members
    assert list(listed.wallets) == list(shown)


@pytest.mark.parametrize("member_id", ["", "17", "{01890a5d-ac96-774b-bcce-b302099a8057}"])
async def test_what_is_no_member_id_is_refused(laurel: Laurel, member_id: str) -> None:
    refused = await refusal(laurel.terminal.members.GetMember(pb.GetMemberRequest(member_id=member_id)))
    assert list(refused.violations) == ["member_id"]


@pytest.mark.parametrize("identifier", [None, {}, {"email": ""}, {"external_id": {}}, {"card_number": "1"}])
async def test_an_identifier_must_be_one(laurel: Laurel, identifier: dict[str, Any] | None) -> None:
    request = pb.FindMemberRequest(identifier=identifier)  # type: ignore[arg-type]
    refused = await refusal(laurel.terminal.members.FindMember(request))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert all(field.startswith("identifier") for field in refused.violations)
