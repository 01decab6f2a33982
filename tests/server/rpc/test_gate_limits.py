"""How often the gate lets a credential, a member and a peer call."""

from typing import Any
from uuid import UUID

import grpc
from google.protobuf.message import Message
from grpc import StatusCode
from loyalty.v1 import points_pb2

from server.domain.actor import CallerKind
from server.domain.limits import Limit, RateClass
from server.operations.limits import Limits
from server.rpc.gate import Call
from server.store.database import Database
from tests.support.gates import (
    MEMBER,
    OTHER,
    Door,
    MembersToken,
    assert_unauthenticated,
    door,
)
from tests.support.refusals import Refusal, read, refusal


async def limited(opened: Door, method: str, request: Message, key: str | CallerKind) -> list[Refusal]:
    """The refusals among ten calls; the limit is five, and none comes back while a test runs."""
    refused = []
    for _ in range(10):
        try:
            await opened.send(method, request, key)
        except grpc.aio.AioRpcError as error:
            refused.append(read(error))
    return refused


FIVE = Limit(rate=0.001, burst=5)


async def test_a_credential_calls_so_often_and_no_more_in_each_class(database: Database) -> None:
    limits = Limits(credential={RateClass.READ: FIVE})
    async with door(database, limits=limits) as opened:
        request = points_pb2.GetBalanceRequest(member_id=MEMBER)
        refused = await limited(opened, "GetBalance", request, CallerKind.SERVICE)
        assert [r.code for r in refused] == [StatusCode.RESOURCE_EXHAUSTED] * 5
        assert refused[0].reason == "RATE_LIMITED"
        assert refused[0].metadata == {"limit": "credential", "rate_class": "read"}
        assert refused[0].retry_seconds
        assert len(opened.points.calls) == 5
        assert not await limited(opened, "Accrue", points_pb2.AccrueRequest(), CallerKind.SERVICE)
        assert len(await limited(opened, "GetBalance", request, CallerKind.TERMINAL)) == 5


async def test_what_is_not_admitted_counts_against_the_credential_too(database: Database) -> None:
    async with door(database, limits=Limits(credential={RateClass.WRITE: FIVE})) as opened:
        refused = await limited(opened, "Accrue", points_pb2.AccrueRequest(), CallerKind.STAFF)
        assert [r.reason for r in refused] == ["CALLER_NOT_ADMITTED"] * 5 + ["RATE_LIMITED"] * 5


async def test_a_member_is_asked_about_so_often_whoever_asks_and_however_the_id_is_written(
    database: Database,
) -> None:
    async with door(database, limits=Limits(member={RateClass.READ: FIVE})) as opened:
        spellings = [MEMBER, MEMBER.upper(), MEMBER.replace("-", ""), f"{{{MEMBER}}}", f"urn:uuid:{MEMBER}"]
        for spelling, key in zip(spellings, [CallerKind.SERVICE, CallerKind.TERMINAL] * 3, strict=False):
            await opened.send("GetBalance", points_pb2.GetBalanceRequest(member_id=spelling), key)
        refused = await refusal(opened.balance(CallerKind.STAFF))
        assert (refused.reason, refused.metadata["limit"]) == ("RATE_LIMITED", "member")
        await opened.send("GetBalance", points_pb2.GetBalanceRequest(member_id=OTHER))


async def test_a_member_who_calls_counts_as_itself(database: Database) -> None:
    async with door(database, MembersToken(), limits=Limits(member={RateClass.READ: FIVE})) as opened:
        request = points_pb2.GetBalanceRequest(member_id=MEMBER)
        assert len(await limited(opened, "GetBalance", request, "token")) == 5


async def test_a_member_found_by_an_identifier_counts_once_it_is_found(database: Database) -> None:
    async with door(database, limits=Limits(member={RateClass.REDEEM: FIVE})) as opened:

        async def behaviour(request: Any, call: Call) -> Message:
            await call.count(UUID(MEMBER))
            return points_pb2.RedeemResponse()

        opened.points.behaviour = behaviour
        named = points_pb2.RedeemRequest(identifier={"card_number": "123"})
        by_id = points_pb2.RedeemRequest(member_id=MEMBER)
        for request in (named, by_id, named, by_id, named):
            await opened.send("Redeem", request)
        for request in (named, by_id):
            assert (await refusal(opened.send("Redeem", request))).reason == "RATE_LIMITED"


async def test_after_too_many_wrong_keys_a_peer_is_heard_with_known_keys_only(database: Database) -> None:
    async with door(database, limits=Limits(failures=FIVE)) as opened:
        await opened.balance(CallerKind.SERVICE)
        for _ in range(5):
            assert_unauthenticated(await refusal(opened.balance("lrl_" + "0" * 32 + "_" + "a" * 52)))
        for key in (None, "garbage", opened.keys[CallerKind.TERMINAL]):
            refused = await refusal(opened.balance(key))
            assert (refused.code, refused.metadata["limit"]) == (StatusCode.RESOURCE_EXHAUSTED, "peer")
        await opened.balance(CallerKind.SERVICE)
