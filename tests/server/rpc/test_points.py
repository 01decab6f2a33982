"""Earning and spending as a till sees it, over gRPC."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from json import loads
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.type import money_pb2
from loyalty.v1 import points_pb2 as pb
from loyalty.v1 import rules_pb2

from server.settings import Settings
from tests.support.published import publish
from tests.support.refusals import read, refusal
from tests.support.servers import Caller, Laurel

BASE = {
    "rule": "base",
    "type": "earn",
    "priority": 100,
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 20, "per": "100.00", "currency": "INR"}}],
}
DIWALI = {
    "rule": "diwali-double",
    "type": "earn",
    "priority": 20,
    "when": {"all": [{"event": "PURCHASE"}, {"field": "channel", "op": "eq", "value": "festival"}]},
    "then": [{"multiply": {"by": 2, "of": "base"}}],
    "stacking": {"group": "festival", "mode": "best"},
    "caps": {"member": {"points": 1000, "per": "day"}},
}
SMALL_FESTIVAL = {
    **DIWALI,
    "rule": "small-festival",
    "priority": 10,
    "then": [{"multiply": {"by": "1.5", "of": "base"}}],
}
REVIEW = {
    "rule": "review",
    "type": "earn",
    "when": {"event": "REVIEW_SUBMITTED"},
    "then": [{"fixed": {"points": 50}}],
}
WORTH = {
    "rule": "worth",
    "type": "redeem",
    "then": [{"value": {"points": 4, "money": "1.00", "currency": "INR"}}],
}


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """The server with rules in force and REVIEW_SUBMITTED registered."""
    event_type = rules_pb2.EventType(
        name="REVIEW_SUBMITTED", attributes={"product": "string", "stars": "number"}
    )
    await laurel.service.rules.CreateEventType(rules_pb2.CreateEventTypeRequest(event_type=event_type))
    await publish(laurel, BASE, DIWALI, SMALL_FESTIVAL, REVIEW, WORTH)
    return laurel


def rupees(amount: int, currency: str = "INR") -> money_pb2.Money:
    return money_pb2.Money(currency_code=currency, units=amount)


def purchase(member_id: str | None, paid: int = 500, **changes: Any) -> pb.AccrueRequest:
    said: dict[str, Any] = {
        "request_id": uuid4().hex,
        "member_id": member_id,
        "order_reference": uuid4().hex,
        "amount": rupees(paid),
    }
    return pb.AccrueRequest(**{**said, **changes})


def redemption(member_id: str, points: int, **changes: Any) -> pb.RedeemRequest:
    said: dict[str, Any] = {"request_id": uuid4().hex, "member_id": member_id, "points": points}
    return pb.RedeemRequest(**{**said, **changes})


async def balance(caller: Caller, member_id: str) -> int:
    reply = await caller.points.GetBalance(pb.GetBalanceRequest(member_id=member_id))
    return reply.wallets[0].balance


async def member_with(shop: Laurel, points: int) -> str:
    """A member whose balance is exactly that: 20 points for every 100 rupees."""
    member_id = await shop.register()
    await shop.terminal.points.Accrue(purchase(member_id, points * 5))
    assert await balance(shop.terminal, member_id) == points
    return member_id


async def test_the_diwali_purchase_gives_200_points_and_says_why(shop: Laurel) -> None:
    member_id = await shop.register()
    reply = await shop.terminal.points.Accrue(purchase(member_id, 500, channel="festival", store="pune-1"))
    assert (reply.points, reply.balance, reply.tier) == (200, 200, "bronze")

    why = await shop.staff.points.Explain(pb.ExplainRequest(transaction_id=reply.awards[0].transaction_id))
    assert [(r.rule, r.version, r.outcome, r.computed, r.points) for r in why.rules] == [
        ("base", 1, "applied", 100, 100),
        ("diwali-double", 1, "applied", 100, 100),
        ("small-festival", 1, "outbid", 50, 0),
    ]
    assert any("20 per 100.00 INR on 500.00 INR" in s for s in why.sentences), why.sentences
    assert [lot.points for lot in why.lots] == [200]


async def test_a_cap_that_bites_is_explained_to_the_point(shop: Laurel) -> None:
    member_id = await shop.register()
    reply = await shop.terminal.points.Accrue(purchase(member_id, 7000, channel="festival"))
    assert reply.points == 1400 + 1000
    why = await shop.staff.points.Explain(pb.ExplainRequest(transaction_id=reply.awards[0].transaction_id))
    assert [(r.rule, r.computed, r.points) for r in why.rules][:2] == [
        ("base", 1400, 1400),
        ("diwali-double", 1400, 1000),
    ]
    assert any("1000" in s and "per day" in s for s in why.sentences), why.sentences
    again = await shop.terminal.points.Accrue(purchase(member_id, 500, channel="festival"))
    # The best of the group is what gives most after caps: now the smaller festival's 50.
    assert again.points == 100 + 50


async def test_lifetime_points_raise_the_tier_once(shop: Laurel) -> None:
    member_id = await shop.register()
    tiers = []
    for amount in (4995, 5, 45_000):
        reply = await shop.terminal.points.Accrue(purchase(member_id, amount))
        tiers.append((reply.tier, reply.tier_raised))
    assert tiers == [("bronze", False), ("silver", True), ("platinum", True)]
    await shop.terminal.points.Redeem(redemption(member_id, 9000))
    after = await shop.terminal.points.GetBalance(pb.GetBalanceRequest(member_id=member_id))
    assert (after.tier, after.next_tier, after.wallets[0].lifetime) == ("platinum", "", 10_000)


async def test_a_review_is_rewarded_once(shop: Laurel) -> None:
    member_id = await shop.register()
    request = pb.SubmitEventRequest(
        request_id=uuid4().hex, member_id=member_id, event_type="REVIEW_SUBMITTED", reference="review-1"
    )
    request.attributes.update({"product": "ladoo", "stars": 5})
    assert (await shop.service.points.SubmitEvent(request)).points == 50
    request.request_id = uuid4().hex
    second = await refusal(shop.service.points.SubmitEvent(request))
    assert (second.code, second.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ORDER_ALREADY_RECORDED")
    unknown = pb.SubmitEventRequest(request_id=uuid4().hex, member_id=member_id, event_type="DANCED")
    assert (await refusal(shop.service.points.SubmitEvent(unknown))).reason == "EVENT_TYPE_UNKNOWN"


async def test_any_identifier_earns(shop: Laurel) -> None:
    card = f"LAUREL{uuid4().hex[:10].upper()}"
    member_id = await shop.register(card_numbers=[card])
    request = purchase(None, identifier={"card_number": card.lower()})
    reply = await shop.terminal.points.Accrue(request)
    assert reply.member_id == member_id
    assert await shop.terminal.points.Accrue(request) == reply
    unknown = purchase(None, identifier={"card_number": "NOBODY0000"})
    assert (await refusal(shop.terminal.points.Accrue(unknown))).reason == "MEMBER_NOT_FOUND"


async def test_redeemed_points_are_worth_what_the_rule_says(shop: Laurel) -> None:
    member_id = await member_with(shop, 100)
    reply = await shop.terminal.points.Redeem(redemption(member_id, 50, reason="at the till"))
    assert (reply.points, reply.balance, reply.value.units, reply.value.nanos) == (50, 50, 12, 500_000_000)
    short = await refusal(shop.terminal.points.Redeem(redemption(member_id, 51)))
    assert short.code == grpc.StatusCode.FAILED_PRECONDITION
    assert short.reason == "INSUFFICIENT_POINTS"
    assert short.metadata["missing"] == "1"


async def race(callers: list[Caller], member_id: str) -> Counter[str]:
    """200 redemptions of 10 at once, of a balance that suffices for 37."""
    calls = [callers[n % len(callers)].points.Redeem(redemption(member_id, 10)) for n in range(200)]
    replies = await asyncio.gather(*calls, return_exceptions=True)
    ended: Counter[str] = Counter()
    for reply in replies:
        if isinstance(reply, grpc.aio.AioRpcError):
            refused = read(reply)
            assert refused.code == grpc.StatusCode.FAILED_PRECONDITION
            ended[refused.reason] += 1
        else:
            ended["redeemed"] += 1
    return ended


async def test_200_redemptions_of_what_suffices_for_37(shop: Laurel) -> None:
    member_id = await member_with(shop, 375)
    assert await race([shop.terminal], member_id) == {"redeemed": 37, "INSUFFICIENT_POINTS": 163}
    assert await balance(shop.terminal, member_id) == 5


@asynccontextmanager
async def server_process(settings: Settings) -> AsyncIterator[str]:
    """A server in a process of its own, its limits as they are by default; its address."""
    environment = {
        "LAUREL_DATABASE_URL": settings.database_url.get_secret_value(),
        "LAUREL_REDIS_URL": settings.redis_url.get_secret_value(),
        "LAUREL_SECRETS_FILE": str(settings.secrets_file),
        "LAUREL_PORT": "0",
        "LAUREL_OPS_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        ready = loads(await asyncio.wait_for(process.stdout.readline(), 20))
        yield f"127.0.0.1:{ready['port']}"
    finally:
        process.terminate()
        await process.wait()


@pytest.fixture(scope="module")
async def two(shop: Laurel) -> AsyncIterator[list[Caller]]:
    """One terminal at two server processes."""
    async with AsyncExitStack() as opened:
        addresses = [await opened.enter_async_context(server_process(shop.settings)) for _ in range(2)]
        yield [await shop.caller(shop.terminal.key, address) for address in addresses]


async def test_the_same_race_over_two_server_processes(shop: Laurel, two: list[Caller]) -> None:
    member_id = await member_with(shop, 375)
    assert await race(two, member_id) == {"redeemed": 37, "INSUFFICIENT_POINTS": 163}
    assert await balance(shop.terminal, member_id) == 5


async def test_one_request_id_fifty_times_at_once_is_one_transaction(shop: Laurel) -> None:
    await fifty_times([shop.terminal], shop)


async def test_the_same_request_id_at_two_server_processes(shop: Laurel, two: list[Caller]) -> None:
    await fifty_times(two, shop)


async def fifty_times(callers: list[Caller], shop: Laurel) -> None:
    """One request in parallel is one transaction, and with another body refused by each of the callers."""
    member_id = await shop.register()
    request = purchase(member_id, 500)
    replies = await asyncio.gather(*(callers[n % len(callers)].points.Accrue(request) for n in range(50)))
    assert all(reply == replies[0] for reply in replies)
    history = await shop.terminal.points.ListHistory(pb.ListHistoryRequest(member_id=member_id))
    assert [t.points for t in history.transactions] == [100]

    request.amount.units = 501
    for caller in callers:
        reused = await refusal(caller.points.Accrue(request))
        assert (reused.code, reused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
        assert list(reused.violations) == ["request_id"]


async def test_an_order_earns_once_whatever_the_request_id(shop: Laurel) -> None:
    member_id = await shop.register()
    request = purchase(member_id, 500)
    first = await shop.terminal.points.Accrue(request)
    request.request_id = uuid4().hex
    again = await refusal(shop.terminal.points.Accrue(request))
    assert (again.code, again.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ORDER_ALREADY_RECORDED")
    assert again.metadata["transaction_id"] == first.awards[0].transaction_id
    request.part = "second tender"
    assert (await shop.terminal.points.Accrue(request)).points == 100


async def test_history_pages_newest_first_and_tokens_fit_only_their_list(shop: Laurel) -> None:
    member_id, other = await shop.register(), await shop.register()
    for amount in (100, 200, 300, 400, 500):
        await shop.terminal.points.Accrue(purchase(member_id, amount))
    seen, token = [], ""
    while True:
        request = pb.ListHistoryRequest(member_id=member_id, page_size=2, page_token=token)
        page = await shop.terminal.points.ListHistory(request)
        seen += [(t.points, t.sequence) for t in page.transactions]
        token = page.next_page_token
        if not token:
            break
        stolen = pb.ListHistoryRequest(member_id=other, page_token=token)
        assert (await refusal(shop.terminal.points.ListHistory(stolen))).reason == "PAGE_TOKEN_INVALID"
    assert seen == [(100, 5), (80, 4), (60, 3), (40, 2), (20, 1)]
    nobody = pb.ListHistoryRequest(member_id=str(uuid4()))
    assert (await refusal(shop.terminal.points.ListHistory(nobody))).reason == "MEMBER_NOT_FOUND"


async def test_a_transaction_tells_who_what_when(shop: Laurel) -> None:
    member_id = await shop.register()
    when = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    request = purchase(member_id, 500, store="pune-1", channel="pos")
    request.occur_time.FromDatetime(when)
    reply = await shop.terminal.points.Accrue(request)
    wanted = pb.GetTransactionRequest(transaction_id=reply.awards[0].transaction_id)
    row = (await shop.staff.points.GetTransaction(wanted)).transaction
    assert row.occur_time.ToDatetime(UTC) == when
    assert row.record_time.ToDatetime(UTC) > when
    assert (row.debit_account, row.credit_account) == ("program.issuance", "wallet.balance")
    assert (row.store, row.channel, row.order_reference) == ("pune-1", "pos", request.order_reference)
    assert row.actor.startswith("terminal:")
    unknown = pb.GetTransactionRequest(transaction_id=str(uuid4()))
    assert (await refusal(shop.staff.points.GetTransaction(unknown))).reason == "TRANSACTION_NOT_FOUND"


WRONG = {
    "amount": {"amount": rupees(-5)},
    "amount.currency_code": {"amount": rupees(5, "rupee")},
    "order_reference": {"order_reference": "a\0b"},
    "store": {"store": "x" * 65},
    "request_id": {"request_id": ""},
    "lines[0].amount": {"amount": None, "lines": [{"amount": rupees(-1)}]},
    "lines[0].quantity": {"amount": None, "lines": [{"amount": rupees(1), "quantity": -1}]},
    "lines[1].line_id": {
        "amount": None,
        "lines": [{"line_id": "1", "amount": rupees(1)}, {"line_id": "1", "amount": rupees(1)}],
    },
    "lines": {"amount": None, "lines": [{"amount": rupees(1)}] * 1001},
}


@pytest.mark.parametrize("field", WRONG)
async def test_bad_input_names_its_field_and_changes_nothing(shop: Laurel, field: str) -> None:
    member_id = await shop.register()
    refused = await refusal(shop.terminal.points.Accrue(purchase(member_id, **WRONG[field])))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert any(name.startswith(field) for name in refused.violations), refused.violations
    assert await balance(shop.terminal, member_id) == 0


async def test_a_total_is_whole_coins_and_a_line_may_be_finer(shop: Laurel) -> None:
    member_id = await shop.register()
    for currency, nanos, said in (
        ("INR", 1_000_000, "must make whole coins: amounts of INR are multiples of 0.01"),
        ("JPY", 500_000_000, "must make whole coins: amounts of JPY are multiples of 1"),
        ("KWD", 100_000, "must make whole coins: amounts of KWD are multiples of 0.001"),
    ):
        amount = money_pb2.Money(currency_code=currency, units=5, nanos=nanos)
        refused = await refusal(shop.terminal.points.Accrue(purchase(member_id, amount=amount)))
        assert refused.violations == {"amount.nanos": said}
    thirds = [money_pb2.Money(currency_code="INR", units=units, nanos=335_000_000) for units in (100, 200)]
    request = purchase(member_id, amount=None, lines=[pb.LineItem(amount=third) for third in thirds])
    assert (await shop.terminal.points.Accrue(request)).event_id


async def test_every_mistake_of_a_request_is_named_at_once(shop: Laurel) -> None:
    request = pb.AccrueRequest(member_id="not-a-uuid", store="\x07", amount=rupees(-1))
    refused = await refusal(shop.terminal.points.Accrue(request))
    assert {"request_id", "member_id", "order_reference", "store"} <= set(refused.violations)


async def test_unknown_members_and_currencies_are_told_apart(shop: Laurel) -> None:
    nobody = await refusal(shop.terminal.points.Accrue(purchase(str(uuid4()))))
    assert (nobody.code, nobody.reason) == (grpc.StatusCode.NOT_FOUND, "MEMBER_NOT_FOUND")
    member_id = await shop.register()
    dollars = await refusal(shop.terminal.points.Accrue(purchase(member_id, amount=rupees(5, "USD"))))
    assert dollars.reason == "CURRENCY_NOT_SUPPORTED"
    assert dollars.metadata == {"currency": "USD", "program_currency": "INR"}
    missing = pb.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=0)
    assert "points" in (await refusal(shop.terminal.points.Redeem(missing))).violations
    wallet = await refusal(shop.terminal.points.Redeem(redemption(member_id, 1, point_type="gems")))
    assert "point_type" in wallet.violations
