"""Lists of members: every member once, in order, by tokens that nobody can make up."""

from uuid import UUID, uuid4

import grpc
import pytest
from loyalty.v1 import member_pb2 as pb

from server.domain.actor import CallerKind
from tests.support.refusals import refusal
from tests.support.servers import Caller, Laurel, new_key, new_program

Shop = tuple[Caller, list[str]]


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Shop:
    """A caller of a program with seven members, the third suspended and the fifth in gold."""
    program = await new_program(laurel.database)
    caller = await laurel.caller(await new_key(laurel.database, program, CallerKind.STAFF))
    ids = []
    for number in range(7):
        request = pb.RegisterMemberRequest(
            request_id=uuid4().hex, member=pb.Member(card_numbers=[f"CARD{number}"])
        )
        ids.append((await caller.members.RegisterMember(request)).member.member_id)
    await caller.members.SuspendMember(pb.SuspendMemberRequest(request_id="s", member_id=ids[2]))
    async with laurel.database.connection() as connection:
        await connection.execute("UPDATE member SET tier = 'gold' WHERE member_id = $1", UUID(ids[4]))
    return caller, ids


async def listed(caller: Caller, page_size: int, **filters: object) -> list[list[str]]:
    pages, token = [], ""
    while True:
        request = pb.ListMembersRequest(page_size=page_size, page_token=token, **filters)  # type: ignore[arg-type]
        reply = await caller.members.ListMembers(request)
        pages.append([m.member_id for m in reply.members])
        token = reply.next_page_token
        if not token:
            return pages


@pytest.mark.parametrize(("size", "pages"), [(3, [3, 3, 1]), (7, [7]), (0, [7]), (10_000, [7]), (1, [1] * 7)])
async def test_every_member_is_listed_once_oldest_first(shop: Shop, size: int, pages: list[int]) -> None:
    caller, ids = shop
    found = await listed(caller, size)
    assert [len(page) for page in found] == pages
    assert [member_id for page in found for member_id in page] == ids


async def test_lists_are_filtered_by_status_and_tier(shop: Shop) -> None:
    caller, ids = shop
    assert await listed(caller, 5, status=pb.MEMBER_STATUS_SUSPENDED) == [[ids[2]]]
    assert await listed(caller, 5, status=pb.MEMBER_STATUS_ACTIVE, tier="gold") == [[ids[4]]]
    assert await listed(caller, 5, tier="tin") == [[]]


async def test_a_member_who_joins_meanwhile_comes_last(laurel: Laurel) -> None:
    program = await new_program(laurel.database)
    caller = await laurel.caller(await new_key(laurel.database, program, CallerKind.SERVICE))
    ids = []
    for number in range(3):
        request = pb.RegisterMemberRequest(
            request_id=f"r{number}", member=pb.Member(card_numbers=[f"C00{number}"])
        )
        ids.append((await caller.members.RegisterMember(request)).member.member_id)
        if number == 1:
            first = await caller.members.ListMembers(pb.ListMembersRequest(page_size=1))
    rest = await caller.members.ListMembers(pb.ListMembersRequest(page_token=first.next_page_token))
    assert [m.member_id for m in rest.members] == ids[1:]


async def test_a_token_serves_only_the_list_it_came_from(laurel: Laurel, shop: Shop) -> None:
    caller, ids = shop
    token = (await caller.members.ListMembers(pb.ListMembersRequest(page_size=2))).next_page_token
    assert ids[1] not in token
    forged = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    for request in (
        pb.ListMembersRequest(page_token=token, tier="gold"),
        pb.ListMembersRequest(page_token=token, status=pb.MEMBER_STATUS_ACTIVE),
        pb.ListMembersRequest(page_token=forged),
        pb.ListMembersRequest(page_token="next"),
        pb.ListMembersRequest(page_token="\u00e9"),
    ):
        refused = await refusal(caller.members.ListMembers(request))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
    foreign = laurel.service.members.ListMembers(pb.ListMembersRequest(page_token=token))
    assert (await refusal(foreign)).reason == "PAGE_TOKEN_INVALID"
    consents = caller.members.ListConsents(pb.ListConsentsRequest(member_id=ids[0], page_token=token))
    assert (await refusal(consents)).reason == "PAGE_TOKEN_INVALID"


async def test_a_negative_page_size_and_an_unknown_status_are_refused(laurel: Laurel) -> None:
    request = pb.ListMembersRequest(page_size=-1)
    request.MergeFromString(b"\x18\x63")  # status 99
    refused = await refusal(laurel.service.members.ListMembers(request))
    assert set(refused.violations) == {"page_size", "status"}


async def test_tills_can_not_list(laurel: Laurel) -> None:
    refused = await refusal(laurel.terminal.members.ListMembers(pb.ListMembersRequest()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ADMITTED")


async def test_whom_staff_saw_is_on_record_by_name(laurel: Laurel, shop: Shop) -> None:
    caller, ids = shop
    await caller.members.ListMembers(pb.ListMembersRequest(page_size=2))
    await caller.members.FindMember(pb.FindMemberRequest(identifier=pb.Identifier(card_number="CARD6")))
    await caller.members.GetMember(pb.GetMemberRequest(member_id=ids[5]))
    async with laurel.database.connection() as connection:
        rows = await connection.fetch(
            """SELECT method, member_ids FROM access_audit
                WHERE program_id = (SELECT program_id FROM member WHERE member_id = $1)
                ORDER BY audit_id DESC LIMIT 3""",
            UUID(ids[0]),
        )
    seen = {r["method"].rpartition(".")[2].rpartition("/")[2]: list(map(str, r["member_ids"])) for r in rows}
    assert seen == {"ListMembers": ids[:2], "FindMember": [ids[6]], "GetMember": [ids[5]]}
