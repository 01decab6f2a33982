"""A till that was offline: what it sold, captured, gave up and took back goes in with its journal."""

from collections.abc import AsyncIterator
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some
from loyalty.v1 import holds_pb2, member_pb2, movements_pb2, points_pb2
from loyalty.v1 import journal_pb2 as pb

from server import secrets
from server.domain.actor import CallerKind
from server.operations.verify import Result, verify
from server.rpc.entries import request_id
from server.settings import Settings
from tests.server.rpc.test_journal import Journal, accrual, journal_of, outcomes, publish, redemption
from tests.server.rpc.test_reviews import approve, late, shown
from tests.support.refusals import refusal
from tests.support.servers import Caller, Laurel

DAY = 24 * 3600


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    await publish(laurel)
    return laurel


@pytest.fixture
async def journal(shop: Laurel) -> AsyncIterator[Journal]:
    async with journal_of(shop) as opened:
        yield opened


@pytest.fixture(scope="module")
async def anna(shop: Laurel) -> Caller:
    """Somebody who may decide on what came too late."""
    scopes = ["points.read", "points.review"]
    return await shop.caller(await shop.new_key(CallerKind.STAFF, name="anna", scopes=scopes))


async def allowance(shop: Laurel, member_id: str, points: int) -> str:
    """A hold that the till may capture without a connection, of points that the member gets for it."""
    await shop.terminal.points.Accrue(accrual(member_id, points).accrue)
    placed = await shop.terminal.holds.PlaceHold(
        holds_pb2.PlaceHoldRequest(
            request_id=uuid4().hex, member_id=member_id, points=points, time_limit_seconds=DAY
        )
    )
    return placed.hold.hold_id


def capture(hold_id: str, points: int, **changes: Any) -> pb.JournalEntry:
    said = {"request_id": uuid4().hex, "hold_id": hold_id, "points": points, "keep_rest": True}
    return pb.JournalEntry(capture_hold=holds_pb2.CaptureHoldRequest(**{**said, **changes}))


def void(hold_id: str) -> pb.JournalEntry:
    return pb.JournalEntry(void_hold=holds_pb2.VoidHoldRequest(request_id=uuid4().hex, hold_id=hold_id))


def sale(member_id: str, receipt: str, **lines: tuple[int, int]) -> pb.JournalEntry:
    """Goods sold: sku=(units, rupees of the line)."""
    items = [
        points_pb2.LineItem(
            line_id=sku, sku=sku, quantity=units, amount=Money(currency_code="INR", units=rupees)
        )
        for sku, (units, rupees) in lines.items()
    ]
    return accrual(member_id, order_reference=receipt, lines=items, amount=None)


def bring_back(receipt: str, **units: int) -> pb.JournalEntry:
    """Goods that came back, by the receipt's number."""
    request = movements_pb2.ReturnPurchaseRequest(
        request_id=uuid4().hex,
        order=movements_pb2.PurchaseOrder(order_reference=receipt),
        items=[movements_pb2.ReturnItem(sku=sku, quantity=quantity) for sku, quantity in units.items()],
        part=uuid4().hex,
    )
    return pb.JournalEntry(return_purchase=request)


async def held(shop: Laurel, member_id: str) -> tuple[int, int]:
    """Balance and held."""
    reply = await shop.terminal.points.GetBalance(points_pb2.GetBalanceRequest(member_id=member_id))
    return reply.wallets[0].balance, reply.wallets[0].held


async def test_an_allowance_is_captured_in_the_order_of_the_journal(shop: Laurel, journal: Journal) -> None:
    member_id = await shop.register()
    hold_id = await allowance(shop, member_id, 100)
    entries = [
        capture(hold_id, 60, order_reference="offline-1"),
        capture(hold_id, 50),
        capture(hold_id, 30),
        void(hold_id),
        capture(hold_id, 1),
        capture(str(uuid4()), 1),
        redemption(member_id, 10),
    ]
    results = await journal.batch(*entries)
    assert outcomes(results) == [
        "capture_hold",
        "HOLD_EXCEEDED",
        "capture_hold",
        "void_hold",
        "HOLD_NOT_OPEN",
        "HOLD_NOT_FOUND",
        "redeem",
    ]
    assert [results[0].capture_hold.hold.open_points, results[2].capture_hold.hold.open_points] == [40, 10]
    assert (results[3].void_hold.points, results[6].redeem.balance) == (10, 0)
    assert [r.request_id for r in results] == [request_id(entry) for entry in entries]
    # Twice, in whatever way, changes nothing; and each is the request that it would be by itself.
    again = await journal.batch(*entries)
    assert [again[place] for place in (0, 2, 3, 6)] == [results[place] for place in (0, 2, 3, 6)]
    upload = await journal.upload(entries)
    assert (upload.accepted, upload.replayed, upload.refused) == (4, 4, 3)
    assert [reply.replayed for reply in await journal.exchanged(entries)] == [
        not result.HasField("error") for result in results
    ]
    assert await shop.terminal.holds.CaptureHold(entries[0].capture_hold) == results[0].capture_hold
    assert await held(shop, member_id) == (0, 0)


async def test_what_was_sold_offline_comes_back_offline(shop: Laurel, journal: Journal) -> None:
    """A return names a purchase of its own journal, which isn't there when the journal comes in."""
    card = uuid4().hex[:12]
    member_id = await shop.register(card_numbers=[card])
    entries, expected = [], []
    for place in range(40):
        receipt = f"{card}-{place}"
        sold = sale(member_id, receipt, TEA=(3, 30), CUP=(1, 7))
        if place % 2:
            # Looking up a card takes a while.
            sold.accrue.identifier.CopyFrom(member_pb2.Identifier(card_number=card))
        entries += [sold, bring_back(receipt, TEA=1), bring_back(receipt, TEA=1, CUP=1)]
        entries += [bring_back(receipt, CUP=1)]
        expected += ["accrue", "return_purchase", "return_purchase", "RETURN_EXCEEDS_PURCHASE"]
    unknown = sale(str(uuid4()), f"{card}-unknown", TEA=(1, 10))
    without_receipt = bring_back("", TEA=2)
    without_receipt.return_purchase.ClearField("order")
    without_receipt.return_purchase.member_id = member_id
    entries += [unknown, bring_back(f"{card}-unknown", TEA=1), without_receipt]
    expected += ["MEMBER_NOT_FOUND", "PURCHASE_NOT_FOUND", "return_purchase"]
    results = await journal.batch(*entries)
    assert outcomes(results) == expected
    assert [r.return_purchase.points for r in results[:4]] == [0, 10, 17, 0]
    assert results[-1].return_purchase.points == 20
    assert not results[-1].return_purchase.unmatched
    assert await held(shop, member_id) == (40 * 10 - 20, 0)
    assert [reply.replayed for reply in await journal.exchanged(entries)] == [
        reason in {"accrue", "return_purchase"} for reason in expected
    ]
    assert await held(shop, member_id) == (40 * 10 - 20, 0)


@given(cuts=some.lists(some.integers(0, 50), max_size=3), source=some.randoms(use_true_random=False))
@hypothesis_settings(max_examples=10)
async def test_a_tills_journal_cut_anywhere_and_sent_again_is_one_journal(
    shop: Laurel, cuts: list[int], source: Random
) -> None:
    members = [await shop.register() for _ in range(2)]
    allowed = [[await allowance(shop, member_id, 100), 100] for member_id in members]
    balances, sold, entries = [0, 0], [], []
    for _ in range(50):
        who = source.randrange(2)
        deed = source.choice(("sale", "return", "capture"))
        if deed == "return" and sold:
            whose, receipt = sold.pop(source.randrange(len(sold)))
            entries.append(bring_back(receipt, TEA=1))
            balances[whose] -= 5
        elif deed == "capture" and allowed[who][1]:
            points = source.randint(1, allowed[who][1])
            allowed[who][1] -= points
            entries.append(capture(allowed[who][0], points))
        else:
            receipt = uuid4().hex
            sold.append((who, receipt))
            entries.append(sale(members[who], receipt, TEA=(2, 10)))
            balances[who] += 10
    async with journal_of(shop) as journal:
        for cut in cuts:
            call = journal.talk()
            for entry in entries[:cut]:
                await call.write(pb.ExchangeRequest(entry=entry))
            for _ in range(source.randint(0, cut)):
                await call.read()
            call.cancel()
        replies = await journal.exchanged(entries)
        kinds = [str(entry.WhichOneof("entry")) for entry in entries]
        assert outcomes([reply.result for reply in replies]) == kinds
        assert all(reply.replayed for reply in await journal.exchanged(entries))
    for member_id, balance, (_, reserved) in zip(members, balances, allowed, strict=True):
        assert await held(shop, member_id) == (balance, reserved)


async def test_each_entry_needs_the_scope_and_the_store_of_its_own_call(shop: Laurel) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    hold_id = await allowance(shop, member_id, 10)
    entries = [
        sale(member_id, receipt, TEA=(1, 10)),
        bring_back(receipt, TEA=1),
        capture(hold_id, 5),
        capture(hold_id, 5, store="delhi"),
        void(hold_id),
    ]
    for scopes, said in (
        (["points.accrue"], ["accrue", *["SCOPE_MISSING"] * 4]),
        (
            ["points.accrue", "points.redeem"],
            ["accrue", "SCOPE_MISSING", "capture_hold", "STORE_NOT_ALLOWED", "void_hold"],
        ),
    ):
        key = await shop.new_key(CallerKind.TERMINAL, scopes=scopes, store_id="pune")
        async with journal_of(shop, key) as journal:
            assert outcomes(await journal.batch(*entries)) == said


async def test_what_came_too_late_waits_and_is_approved_by_its_own_kind(
    shop: Laurel, journal: Journal, anna: Caller
) -> None:
    email, receipt = f"{uuid4().hex}@example.com", uuid4().hex
    member_id = await shop.register(email=email)
    hold_id = await allowance(shop, member_id, 100)
    captured = late(capture(hold_id, 60, order_reference="offline-1"))
    returned = late(bring_back(receipt, TEA=1))
    returned.return_purchase.identifier.email = email
    sold = late(sale(member_id, receipt, TEA=(2, 30)))
    # Nothing can come back of what nobody has decided on.
    results = await journal.batch(captured, sold, returned)
    assert outcomes(results) == ["review", "review", "PURCHASE_NOT_FOUND"]
    assert await held(shop, member_id) == (0, 100)
    await approve(anna, results[1].review.review_id)
    [waiting] = await journal.batch(returned)
    assert outcomes([waiting]) == ["review"]
    review = await shown(anna, waiting.review.review_id)
    assert review.entry.return_purchase.member_id == review.member_id == member_id
    assert review.entry.return_purchase.order.order_reference == receipt
    suspended = member_pb2.SuspendMemberRequest(request_id=uuid4().hex, member_id=member_id)
    await shop.service.members.SuspendMember(suspended)
    assert (await approve(anna, waiting.review.review_id)).result.return_purchase.points == 15
    # Goods come back while a membership is suspended; points are not spent.
    assert (await refusal(approve(anna, results[0].review.review_id))).reason == "MEMBER_NOT_ACTIVE"
    restored = member_pb2.ReactivateMemberRequest(request_id=uuid4().hex, member_id=member_id)
    await shop.service.members.ReactivateMember(restored)
    reply = await approve(anna, results[0].review.review_id)
    assert (reply.result.capture_hold.points, reply.result.capture_hold.hold.open_points) == (60, 40)
    assert await held(shop, member_id) == (15, 40)
    again = await journal.batch(captured, sold, returned)
    assert outcomes(again) == ["capture_hold", "accrue", "return_purchase"]
    assert again[0].capture_hold == reply.result.capture_hold


async def test_the_books_agree_afterwards(shop: Laurel, settings: Settings) -> None:
    keys = secrets.load(settings.secrets_file).ledger.keys
    steps = verify(shop.database, keys, shop.program.program_id)
    assert [f async for step in steps if isinstance(step, Result) for f in step.findings] == []
