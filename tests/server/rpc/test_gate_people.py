"""Members at the gate: they reach only themselves, and some calls take a stronger login."""

import time

import grpc
import pytest
from grpc import StatusCode
from loyalty.v1 import member_pb2, points_pb2

from server.store.database import Database
from tests.support.gates import (
    MEMBER,
    OTHER,
    MembersToken,
    door,
)
from tests.support.refusals import read, refusal


async def test_a_member_reaches_only_itself_and_all_else_gets_one_answer(database: Database) -> None:
    async with door(database, verifier=MembersToken()) as opened:
        await opened.balance("token")
        await opened.send("GetBalance", points_pb2.GetBalanceRequest(member_id=MEMBER.upper()), "token")
        answers = [
            await refusal(opened.send("GetBalance", points_pb2.GetBalanceRequest(member_id=other), "token"))
            for other in (OTHER, "not-an-id", "", "a\0")
        ]
        assert (answers[0].code, answers[0].reason) == (StatusCode.PERMISSION_DENIED, "OUT_OF_REACH")
        assert all(answer == answers[0] for answer in answers)
        assert len(opened.points.calls) == 2


async def test_a_member_spends_only_its_own_and_is_meant_by_its_id_alone(database: Database) -> None:
    async with door(database, verifier=MembersToken()) as opened:
        await opened.send("Redeem", points_pb2.RedeemRequest(member_id=MEMBER, points=1), "token")
        card = member_pb2.Identifier(card_number="1234")
        for request in (
            points_pb2.RedeemRequest(member_id=OTHER, points=1),
            points_pb2.RedeemRequest(identifier=card, points=1),
            points_pb2.RedeemRequest(points=1),
        ):
            assert (await refusal(opened.send("Redeem", request, "token"))).reason == "OUT_OF_REACH"
        assert len(opened.points.calls) == 1


@pytest.mark.parametrize(
    ("acr", "age", "points", "admitted"),
    [
        ("1", 1, 500, True),
        ("1", None, 500, True),
        ("1", 1, 501, False),
        ("2", 1, 501, True),
        ("3", 200, 10**12, True),
        ("2", 301, 501, False),
        ("2", None, 501, False),
        ("", 1, 501, False),
    ],
)
async def test_spending_much_takes_a_login_that_is_both_strong_and_recent(
    database: Database, acr: str, age: float | None, points: int, admitted: bool
) -> None:
    auth_time = None if age is None else time.time() - age
    async with door(database, verifier=MembersToken(acr, auth_time)) as opened:
        call = opened.send("Redeem", points_pb2.RedeemRequest(member_id=MEMBER, points=points), "token")
        if admitted:
            await call
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        refused = read(caught.value)
        assert (refused.code, refused.reason) == (StatusCode.UNAUTHENTICATED, "STEP_UP_REQUIRED")
        assert refused.metadata == {
            "error": "insufficient_user_authentication",
            "acr_values": "3 2",
            "max_age": "300",
        }
        trailing = dict(caught.value.trailing_metadata())
        assert trailing["www-authenticate"] == (
            'Bearer realm="laurel", error="insufficient_user_authentication", acr_values="3 2", max_age="300"'
        )
        assert not opened.points.calls
