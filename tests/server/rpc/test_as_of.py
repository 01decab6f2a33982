"""What members held at a moment, by the rows of the ledger alone."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import money_pb2
from loyalty.v1 import holds_pb2, member_pb2
from loyalty.v1 import points_pb2 as pb

from tests.support.published import publish
from tests.support.refusals import refusal
from tests.support.servers import Laurel

BASE = {"rule": "base", "when": {"event": "PURCHASE"}, "then": [{"earn": {"points": 1, "per": "1.00"}}]}
LATER = {
    "rule": "later",
    "when": {"all": [{"event": "PURCHASE"}, {"field": "channel", "op": "eq", "value": "web"}]},
    "then": [{"fixed": {"points": 70}}],
    "pending": {"days": 14},
}


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """A point a rupee; and seventy on the web, that can be spent after two weeks."""
    await publish(laurel, BASE, LATER)
    return laurel


async def buy(shop: Laurel, member_id: str, paid: int, channel: str = "") -> None:
    request = pb.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=uuid4().hex,
        amount=money_pb2.Money(currency_code="INR", units=paid),
        channel=channel,
    )
    await shop.terminal.points.Accrue(request)


async def redeem(shop: Laurel, member_id: str, points: int) -> None:
    request = pb.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=points)
    await shop.terminal.points.Redeem(request)


async def reserve(shop: Laurel, member_id: str, points: int) -> None:
    request = holds_pb2.PlaceHoldRequest(request_id=uuid4().hex, member_id=member_id, points=points)
    await shop.terminal.holds.PlaceHold(request)


async def balance(shop: Laurel, member_id: str, moment: datetime | None = None) -> pb.GetBalanceResponse:
    request = pb.GetBalanceRequest(member_id=member_id)
    if moment is not None:
        request.as_of_time.FromDatetime(moment)
    return await shop.staff.points.GetBalance(request)


def told(reply: pb.GetBalanceResponse) -> tuple[Any, ...]:
    [wallet] = reply.wallets
    return (
        (wallet.balance, wallet.pending, wallet.held, wallet.debt, wallet.lifetime),
        (reply.tier, reply.next_tier, reply.points_to_next_tier),
        reply.member_id,
    )


async def last_recorded(shop: Laurel, member_id: str) -> datetime:
    request = pb.ListHistoryRequest(member_id=member_id, page_size=1)
    [row] = (await shop.staff.points.ListHistory(request)).transactions
    return row.record_time.ToDatetime(UTC)


async def test_every_moment_shows_what_was_shown_then(shop: Laurel) -> None:
    member_id = await shop.register()
    seen = []
    for act in (
        buy(shop, member_id, 900),
        buy(shop, member_id, 150, "web"),
        reserve(shop, member_id, 40),
        redeem(shop, member_id, 300),
        buy(shop, member_id, 5000),
    ):
        await act
        seen.append((await last_recorded(shop, member_id), told(await balance(shop, member_id))))
    assert seen[-1][1][0] == (5710, 70, 40, 0, 6120)
    for moment, then in seen:
        assert told(await balance(shop, member_id, moment)) == then
    (first, _), (second, _) = seen[:2]
    assert told(await balance(shop, member_id, second - timedelta(microseconds=1))) == seen[0][1]
    before = await balance(shop, member_id, first - timedelta(microseconds=1))
    assert told(before) == ((0, 0, 0, 0, 0), ("bronze", "silver", 1000), member_id)


async def test_there_is_no_outlook_and_no_version(shop: Laurel) -> None:
    member_id = await shop.register()
    await buy(shop, member_id, 10, "web")
    assert (await balance(shop, member_id)).wallets[0].HasField("outlook")
    reply = await balance(shop, member_id, datetime.now(UTC))
    assert not reply.wallets[0].HasField("outlook")
    assert reply.version == 0


async def test_who_was_merged_is_two_before_and_one_afterwards(shop: Laurel) -> None:
    first, second, third = [await shop.register() for _ in range(3)]
    for member_id, paid in ((first, 600), (second, 700), (third, 10)):
        await buy(shop, member_id, paid)
    apart = {m: told(await balance(shop, m)) for m in (first, second, third)}
    moments = [await last_recorded(shop, third)]
    for survivor, merged in ((second, first), (third, second)):
        await shop.staff.members.MergeMembers(
            member_pb2.MergeMembersRequest(
                request_id=uuid4().hex, member_id=survivor, merged_member_id=merged, reason="two cards"
            )
        )
        moments.append(await last_recorded(shop, survivor))
    for member_id, then in apart.items():
        assert told(await balance(shop, member_id, moments[0])) == then
    between = ((1300, 0, 0, 0, 700), ("silver", "gold", 3700), second)
    assert [told(await balance(shop, m, moments[1])) for m in (first, second)] == [between, between]
    assert told(await balance(shop, third, moments[1])) == apart[third]
    now = told(await balance(shop, third))
    assert now == ((1310, 0, 0, 0, 10), ("silver", "gold", 3690), third)
    assert [told(await balance(shop, m, moments[2])) for m in (first, second, third)] == [now] * 3


async def test_a_moment_still_to_come_and_a_member_of_nobody_are_refused(shop: Laurel) -> None:
    member_id = await shop.register()
    soon = await refusal(balance(shop, member_id, datetime.now(UTC) + timedelta(minutes=5)))
    assert (soon.code, soon.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert "as_of_time" in soon.violations
    request = pb.GetBalanceRequest(member_id=member_id, as_of_time=Timestamp(seconds=2**40))
    assert "as_of_time" in (await refusal(shop.staff.points.GetBalance(request))).violations
    nobody = await refusal(balance(shop, str(uuid4()), datetime.now(UTC)))
    assert nobody.reason == "MEMBER_NOT_FOUND"
