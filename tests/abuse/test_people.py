"""What members and strangers with tokens try, through every door: all of it bounces.

The numbers in the names are those of the list of abuse cases that Laurel is held to.
"""

import asyncio
import base64
import hashlib
import hmac
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from loyalty.v1 import member_pb2

from server.domain.actor import CallerKind
from server.settings import Settings
from server.store.database import Database
from tests.abuse.shop import (
    BALANCE,
    REDEEM,
    Shop,
    invalid_token,
    redemption,
    rest,
    shop,
)
from tests.support.doors import Door
from tests.support.issuers import (
    SYSTEM,
    loopback,
    public_pem,
    rsa_key,
    unsigned,
)


async def test_a_member_gets_what_is_their_own(here: Shop, door: Door) -> None:
    answer = await door.knock(BALANCE, {"memberId": here.a}, here.token())
    assert answer.reply["memberId"] == here.a
    profile = await door.knock("MemberService/GetMember", {"memberId": here.a}, here.token())
    assert profile.reply["member"]["givenName"] == "a"
    timeline = await door.knock("MemberService/ListTimeline", {"memberId": here.a}, here.token())
    assert "asOfTime" in timeline.reply


@pytest.mark.parametrize(
    "rpc",
    [
        BALANCE,
        "PointsService/ListHistory",
        "MemberService/GetMember",
        "MemberService/ListTimeline",
        REDEEM,
        "MemberService/UpdateMember",
    ],
)
async def test_1_somebody_elses_and_nobodys_get_one_answer_byte_for_byte(
    here: Shop, door: Door, rpc: str
) -> None:
    answers = []
    for member_id in (here.b, str(uuid4()), "not-an-id", here.a.replace("-", "")):
        request: dict[str, Any] = {"memberId": member_id}
        if rpc == REDEEM:
            request = redemption(member_id) | {"requestId": "same"}
        elif rpc.endswith("UpdateMember"):
            request = {"requestId": "same", "member": {"memberId": member_id}, "updateMask": "givenName"}
        answers.append(await door.knock(rpc, request, here.token()))
    assert {answer.kind for answer in answers} == {("PERMISSION_DENIED", "OUT_OF_REACH")}
    assert len({answer.whole for answer in answers}) == 1


@pytest.mark.parametrize("way", ["rest", "shim"])
async def test_2_a_path_and_a_body_that_disagree_call_nothing(here: Shop, way: str) -> None:
    client = rest(here, way)
    headers = {"authorization": f"Bearer {here.token()}", "idempotency-key": uuid4().hex}
    before = here.calls()
    for path, body in (
        (f"/members/{here.a}", {"memberId": here.b, "givenName": "mallory"}),
        (f"/members/{here.a}", {"member_id": here.b, "givenName": "mallory"}),
        (f"/members/{here.b}", {"memberId": here.a, "givenName": "mallory"}),
    ):
        refused = await client.patch(path, json=body, headers=headers)
        assert refused.status_code == 400
        assert "member_id" in refused.json()["details"][1]["fieldViolations"][0]["field"]
    assert here.calls() == before
    agreeing = await client.patch(
        f"/members/{here.a}", json={"memberId": here.a, "givenName": "a"}, headers=headers
    )
    assert agreeing.status_code == 200
    assert here.calls() == before + 1


async def test_3_no_signature_or_one_with_the_public_key_is_none(here: Shop, door: Door) -> None:
    claims = here.issuer.claims("a")
    header = {"typ": "at+jwt", "kid": "key-1"}
    forged = [unsigned({**header, "alg": name}, claims) for name in ("none", "NONE", "")]
    forged.append(_hs256({**header, "alg": "HS256"}, claims, public_pem(rsa_key())))
    for token in forged:
        invalid_token(await door.knock(BALANCE, {"memberId": here.a}, token))


def _hs256(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    body = unsigned(header, claims).rpartition(".")[0]
    mac = hmac.new(secret, body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"},
        {"aud": None},
        {"aud": []},
        {"iss": "https://elsewhere.example"},
        {"exp": 1},
        {"nonce": "n", "at_hash": "h"},
        {"typ": "ID"},
    ],
)
async def test_4_a_token_for_others_or_an_id_token_is_no_key(
    here: Shop, door: Door, claims: dict[str, Any]
) -> None:
    invalid_token(await door.knock(BALANCE, {"memberId": here.a}, here.token(**claims)))


async def test_4_neither_is_one_whose_header_says_that_it_is_something_else(here: Shop, door: Door) -> None:
    for typ in ("JWT", "id+jwt", ""):
        token = here.issuer.token("a", {"typ": typ})
        invalid_token(await door.knock(BALANCE, {"memberId": here.a}, token))


async def test_5_a_thousand_unknown_keys_cost_at_most_a_fetch_per_cooldown(
    settings: Settings, database: Database, folder: Path
) -> None:
    with loopback() as issuer:
        async with shop(settings, database, folder, issuer) as here:
            began = time.monotonic()
            for door in here.ways.values():
                good = await door.knock(BALANCE, {"memberId": here.a}, here.token())
                assert good.code == "OK"
                unknown = [issuer.token("a", {"kid": uuid4().hex}) for _ in range(350)]
                wave = [door.knock(BALANCE, {"memberId": here.a}, token) for token in unknown]
                answers, amid = await asyncio.gather(
                    asyncio.gather(*wave), door.knock(BALANCE, {"memberId": here.a}, here.token())
                )
                for answer in answers:
                    invalid_token(answer)
                assert amid.code == "OK"
            cooldowns = (time.monotonic() - began) // 10
            assert issuer.jwks_fetches <= 1 + cooldowns


async def test_6_an_issuer_that_goes_down_takes_nobody_along(
    settings: Settings, database: Database, folder: Path
) -> None:
    with loopback() as issuer:
        async with shop(settings, database, folder, issuer) as here:
            fresh, later = here.token(), here.token(jti="later")
            for door in here.ways.values():
                assert (await door.knock(BALANCE, {"memberId": here.a}, fresh)).code == "OK"
            issuer.stop()
            for door in here.ways.values():
                assert (await door.knock(BALANCE, {"memberId": here.a}, later)).code == "OK"


async def test_an_issuer_that_never_was_there_is_told_from_a_wrong_token(
    settings: Settings, database: Database, folder: Path
) -> None:
    with loopback() as issuer:
        async with shop(settings, database, folder, issuer) as here:
            issuer.stop()
            for door in here.ways.values():
                answer = await door.knock(BALANCE, {"memberId": here.a}, here.token())
                assert answer.kind == ("UNAVAILABLE", "ISSUER_UNAVAILABLE")


@pytest.mark.parametrize(
    ("mask", "change"),
    [
        ("tier", {"tier": "platinum"}),
        ("wallets", {"wallets": [{"pointType": "points", "balance": "1000000"}]}),
        ("status", {"status": "MEMBER_STATUS_ACTIVE"}),
        ("segments", {"segments": ["vip"]}),
        ("externalIds", {"externalIds": [{"system": SYSTEM, "id": "b"}]}),
        ("givenName,tier", {"givenName": "mallory", "tier": "platinum"}),
    ],
)
async def test_7_a_member_promotes_nobody(here: Shop, door: Door, mask: str, change: dict[str, Any]) -> None:
    before = await door.knock("MemberService/GetMember", {"memberId": here.a}, here.token())
    request = {"requestId": uuid4().hex, "member": {"memberId": here.a, **change}, "updateMask": mask}
    answer = await door.knock("MemberService/UpdateMember", request, here.token())
    assert answer.kind == ("PERMISSION_DENIED", "CALLER_NOT_ADMITTED")
    after = await door.knock("MemberService/GetMember", {"memberId": here.a}, here.token())
    assert after.reply == before.reply


async def test_8_a_method_is_what_it_is(here: Shop) -> None:
    client = rest(here)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        for method in ("DELETE", "PATCH", "POST"):
            answer = await client.get(
                f"/members/{here.a}",
                headers={"authorization": f"Bearer {here.token()}", name: method},
                params={},
            )
            assert answer.status_code == 200
            assert answer.json()["member"]["status"] == "MEMBER_STATUS_ACTIVE"


FORGED = {
    "grpc_metadata_x_member_id": "{b}",
    "x_member_id": "{b}",
    "grpc_metadata_authorization": "Bearer {key}",
    "x_forwarded_for": "127.0.0.1",
    "forwarded": "for=127.0.0.1",
    "x_forwarded_client_cert": 'By=spiffe://laurel;Subject="CN=admin"',
    "x_ssl_client_verify": "SUCCESS",
    "x_remote_user": "admin",
}


@pytest.mark.parametrize("name", FORGED)
async def test_9_what_a_caller_says_of_themselves_has_no_effect(here: Shop, door: Door, name: str) -> None:
    value = FORGED[name].format(b=here.b, key=here.laurel.service.key)
    own = await door.knock(BALANCE, {"memberId": here.a}, here.token(), **{name: value})
    assert own.reply["memberId"] == here.a
    others = await door.knock(BALANCE, {"memberId": here.b}, here.token(), **{name: value})
    assert others.kind == ("PERMISSION_DENIED", "OUT_OF_REACH")
    nobody = await door.knock(BALANCE, {"memberId": here.b}, None, **{name: value})
    assert nobody.kind == ("UNAUTHENTICATED", "CREDENTIAL_INVALID")
    assert nobody.challenge == 'Bearer realm="laurel"'


async def test_9_a_token_and_a_key_at_once_are_neither(here: Shop, door: Door) -> None:
    both = await door.knock(BALANCE, {"memberId": here.b}, here.token(), x_api_key=here.laurel.service.key)
    invalid_token(both)


async def test_a_token_reaches_no_further_than_its_scopes(here: Shop, door: Door) -> None:
    token = here.token(scope="openid points.read")
    answer = await door.knock(REDEEM, redemption(here.a), token)
    assert answer.kind == ("PERMISSION_DENIED", "SCOPE_MISSING")


async def test_a_suspended_member_may_look_and_not_spend_and_one_who_left_may_neither(
    here: Shop, door: Door
) -> None:
    subject = uuid4().hex
    member_id = await here.join(subject)
    token = here.token(subject)
    service = here.laurel.service.members
    await service.SuspendMember(
        member_pb2.SuspendMemberRequest(request_id=uuid4().hex, member_id=member_id, reason="x")
    )
    assert (await door.knock(BALANCE, {"memberId": member_id}, token)).code == "OK"
    answer = await door.knock(REDEEM, redemption(member_id), token)
    assert answer.kind == ("FAILED_PRECONDITION", "MEMBER_NOT_ACTIVE")
    await service.CloseMember(
        member_pb2.CloseMemberRequest(request_id=uuid4().hex, member_id=member_id, reason="x")
    )
    # Another token, because this one is remembered for a moment.
    answer = await door.knock(BALANCE, {"memberId": member_id}, here.token(subject, jti="late"))
    assert answer.kind == ("PERMISSION_DENIED", "LOGIN_WITHOUT_MEMBER")


async def test_staff_with_a_token_leave_a_trace_and_reach_what_their_roles_say(
    here: Shop, door: Door
) -> None:
    token = here.token("meera", realm_access={"roles": ["support"]})
    assert (await door.knock(BALANCE, {"memberId": here.b}, token)).code == "OK"
    async with here.laurel.database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT actor, method, member_ids FROM access_audit ORDER BY audit_id DESC LIMIT 1"
        )
    assert row is not None
    assert (row["actor"], [str(m) for m in row["member_ids"]]) == ("staff:meera", [here.b])
    answer = await door.knock(REDEEM, redemption(here.b), token)
    assert answer.kind == ("PERMISSION_DENIED", "CALLER_NOT_ADMITTED")


async def test_keys_go_on_working_beside_tokens(here: Shop, door: Door) -> None:
    key = await here.laurel.new_key(CallerKind.SERVICE)
    assert (await door.knock(BALANCE, {"memberId": here.b}, key)).code == "OK"
