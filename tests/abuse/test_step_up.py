"""Spending much, and handing on, with a login that is too weak or too old: it bounces.

The numbers in the names are those of the list of abuse cases that Laurel is held to.
"""

import time
from typing import Any
from uuid import uuid4

from tests.abuse.shop import BALANCE, LIMIT, REDEEM, TRANSFER, Shop, redemption
from tests.support.doors import Answer, Door


def stale_or_weak(here: Shop, **more: Any) -> list[str]:
    """Tokens of logins that were too long ago or too weak, or of which nobody can tell."""
    strong = {"acr": "2", **more}
    return [
        here.token(**more),
        here.token(**strong, auth_time=int(time.time() - 301)),
        here.token(**strong, auth_time=None),
        here.token(acr=None, **more),
    ]


def challenged(answer: Answer) -> None:
    assert answer.kind == ("UNAUTHENTICATED", "STEP_UP_REQUIRED")
    assert answer.metadata == {
        "error": "insufficient_user_authentication",
        "acr_values": "2",
        "max_age": "300",
    }
    assert answer.challenge == (
        'Bearer realm="laurel", error="insufficient_user_authentication", acr_values="2", max_age="300"'
    )


async def test_15_spending_much_with_a_stale_or_weak_login_gets_the_challenge(here: Shop, door: Door) -> None:
    await here.earn()
    before = await door.knock(BALANCE, {"memberId": here.a}, here.token())
    for token in stale_or_weak(here):
        challenged(await door.knock(REDEEM, redemption(here.a, LIMIT + 1), token))
    after = await door.knock(BALANCE, {"memberId": here.a}, here.token())
    assert after.reply == before.reply


async def test_15_handing_on_a_single_point_takes_a_strong_and_recent_login(here: Shop, door: Door) -> None:
    await here.earn()
    scope = "points.read points.transfer"
    before = await door.knock(BALANCE, {"memberId": here.a}, here.token())
    transfer = redemption(here.a, 1, toMemberId=here.b, reason="a birthday")
    for token in stale_or_weak(here, scope=scope):
        challenged(await door.knock(TRANSFER, transfer, token))
    after = await door.knock(BALANCE, {"memberId": here.a}, here.token())
    assert after.reply == before.reply
    strong = here.token(acr="2", scope=scope)
    handed = await door.knock(TRANSFER, transfer, strong)
    assert handed.reply["points"] == "1", handed
    assert (await door.knock(TRANSFER, transfer, strong)).reply == handed.reply, "once"


async def test_15_a_strong_and_recent_login_spends_much_and_any_login_a_little(
    here: Shop, door: Door
) -> None:
    await here.earn()
    request = redemption(here.a, LIMIT + 1)
    assert (await door.knock(REDEEM, request, here.token())).reason == "STEP_UP_REQUIRED"
    first = await door.knock(REDEEM, request, here.strong())
    assert first.reply["points"] == str(LIMIT + 1)
    assert (await door.knock(REDEEM, request, here.strong(age=10))).reply == first.reply, "once"
    little = await door.knock(REDEEM, redemption(here.a, LIMIT), here.token())
    assert little.reply["points"] == str(LIMIT)


async def test_a_member_spends_now_and_in_no_store_and_earns_nothing_by_themselves(
    here: Shop, door: Door
) -> None:
    for more in (
        {"store": "pune-1"},
        {"occurTime": "2026-01-01T00:00:00Z"},
        {"businessDate": {"year": 2026}},
    ):
        answer = await door.knock(REDEEM, redemption(here.a, 1, **more), here.token())
        assert answer.kind == ("PERMISSION_DENIED", "CALLER_NOT_ADMITTED")
    purchase = {
        "requestId": uuid4().hex,
        "memberId": here.a,
        "orderReference": "R-1",
        "amount": {"currencyCode": "INR", "units": "100"},
    }
    answer = await door.knock("PointsService/Accrue", purchase, here.token(scope="points.accrue"))
    assert answer.kind == ("PERMISSION_DENIED", "CALLER_NOT_ADMITTED")
    listed = await door.knock("MemberService/ListMembers", {}, here.token(scope="members.list"))
    assert listed.kind == ("PERMISSION_DENIED", "CALLER_NOT_ADMITTED")
