"""Statements: what was there, what came and went, and what was left, which adds up."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.type import money_pb2
from loyalty.v1 import holds_pb2
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
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """A point a rupee; and seventy on the web, that can be spent after two weeks."""
    await publish(laurel, BASE, LATER)
    return laurel


@pytest.fixture
def noon() -> datetime:
    """The past moment around which things happen here."""
    return datetime.now(UTC).replace(microsecond=0) - 5 * DAY


async def buy(shop: Laurel, member_id: str, paid: int, when: datetime, channel: str = "") -> None:
    request = pb.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=uuid4().hex,
        amount=money_pb2.Money(currency_code="INR", units=paid),
        channel=channel,
    )
    request.occur_time.FromDatetime(when)
    await shop.terminal.points.Accrue(request)


async def redeem(shop: Laurel, member_id: str, points: int, when: datetime) -> None:
    request = pb.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=points)
    request.occur_time.FromDatetime(when)
    await shop.terminal.points.Redeem(request)


async def reserve(shop: Laurel, member_id: str, points: int) -> None:
    request = holds_pb2.PlaceHoldRequest(request_id=uuid4().hex, member_id=member_id, points=points)
    await shop.terminal.holds.PlaceHold(request)


def asked(member_id: str, since: datetime, until: datetime, **more: Any) -> pb.GetStatementRequest:
    request = pb.GetStatementRequest(member_id=member_id, **more)
    request.from_time.FromDatetime(since)
    request.to_time.FromDatetime(until)
    return request


async def statement(shop: Laurel, member_id: str, since: datetime, until: datetime) -> Any:
    return await shop.staff.points.GetStatement(asked(member_id, since, until))


def held(wallets: Any) -> tuple[int, int, int, int]:
    [wallet] = wallets
    return wallet.balance, wallet.pending, wallet.held, wallet.lifetime


def added_up(opening: Any, rows: list[Any]) -> tuple[int, int, int, int]:
    """What the rows make of the opening figures, by their accounts; none here touches a debt."""
    balance, pending, reserved, lifetime = held(opening)
    had = {"wallet.balance": balance, "wallet.pending": pending, "wallet.held": reserved}
    moved = Counter(had)
    for row in rows:
        moved[row.debit_account] -= row.points
        moved[row.credit_account] += row.points
        lifetime += row.points if row.kind == pb.TRANSACTION_KIND_EARN else 0
    return *(moved[account] for account in had), lifetime


async def test_opening_and_rows_make_closing(shop: Laurel, noon: datetime) -> None:
    member_id = await shop.register()
    await buy(shop, member_id, 900, noon)
    await buy(shop, member_id, 150, noon + 2 * DAY, "web")
    await redeem(shop, member_id, 300, noon + 3 * DAY)
    await buy(shop, member_id, 20, noon + DAY)  # recorded late
    await reserve(shop, member_id, 40)  # now
    whole = await statement(shop, member_id, noon, noon + 6 * DAY)
    assert [row.points for row in whole.transactions] == [900, 20, 150, 70, 300, 40]
    assert held(whole.opening) == (0, 0, 0, 0)
    now = await shop.staff.points.GetBalance(pb.GetBalanceRequest(member_id=member_id))
    assert held(whole.closing) == held(now.wallets) == (730, 70, 40, 1140)

    before = held(whole.opening)
    rows = []
    for day in range(6):
        one = await statement(shop, member_id, noon + day * DAY, noon + (day + 1) * DAY)
        assert held(one.opening) == before
        before = held(one.closing)
        assert before == added_up(one.opening, list(one.transactions))
        rows += [row.transaction_id for row in one.transactions]
    assert rows == [row.transaction_id for row in whole.transactions]


async def test_a_statement_begins_at_its_first_moment_and_ends_before_its_last(
    shop: Laurel, noon: datetime
) -> None:
    member_id = await shop.register()
    for points, when in ((1, noon - DAY), (2, noon), (4, noon + DAY)):
        await buy(shop, member_id, points, when)
    told = await statement(shop, member_id, noon, noon + DAY)
    assert [row.points for row in told.transactions] == [2]
    assert (held(told.opening)[0], held(told.closing)[0]) == (1, 3)


async def test_what_is_recorded_between_two_pages_does_not_disturb_them(shop: Laurel, noon: datetime) -> None:
    member_id = await shop.register()
    for number in range(5):
        # Two at once: time alone does not say where a page ended.
        await buy(shop, member_id, 10 + number, noon + (number // 2) * timedelta(hours=1))
    request = asked(member_id, noon - DAY, noon + DAY, page_size=2)
    pages = []
    while True:
        pages.append(await shop.staff.points.GetStatement(request))
        await buy(shop, member_id, 1000, noon - 2 * DAY)
        await buy(shop, member_id, 2000, noon)
        await buy(shop, member_id, 4000, noon + 5 * timedelta(hours=1))
        request.page_token = pages[-1].next_page_token
        if not request.page_token:
            break
    rows = [row for page in pages for row in page.transactions]
    assert [row.points for row in rows] == [10, 11, 12, 13, 14]
    assert [len(page.transactions) for page in pages] == [2, 2, 1]
    assert {held(page.opening) for page in pages} == {(0, 0, 0, 0)}
    assert {held(page.closing) for page in pages} == {added_up(pages[0].opening, rows)}
    afresh = await shop.staff.points.GetStatement(asked(member_id, noon - DAY, noon + DAY))
    assert (held(afresh.opening)[0], len(afresh.transactions)) == (3000, 11)


async def test_wrong_times_tokens_and_members_are_refused(shop: Laurel, noon: datetime) -> None:
    member_id = await shop.register()
    backwards = await refusal(statement(shop, member_id, noon, noon))
    assert "to_time" in backwards.violations
    without = pb.GetStatementRequest(member_id=member_id)
    assert {"from_time", "to_time"} <= set(
        (await refusal(shop.staff.points.GetStatement(without))).violations
    )
    assert (await refusal(statement(shop, str(uuid4()), noon, noon + DAY))).reason == "MEMBER_NOT_FOUND"
    for _ in range(2):
        await buy(shop, member_id, 1, noon)
    page = await shop.staff.points.GetStatement(asked(member_id, noon, noon + DAY, page_size=1))
    token = page.next_page_token
    for other in (
        asked(member_id, noon, noon + 2 * DAY, page_token=token),
        asked(await shop.register(), noon, noon + DAY, page_token=token),
    ):
        assert (await refusal(shop.staff.points.GetStatement(other))).reason == "PAGE_TOKEN_INVALID"
