"""Entries of journals that came too late wait for a person, over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from loyalty.v1 import journal_pb2, member_pb2, points_pb2
from loyalty.v1 import reviews_pb2 as pb

from server import secrets
from server.domain.actor import CallerKind
from server.domain.reviews import MOST_PENDING
from server.operations.verify import Result, verify
from server.rpc.journal import MOST_IN_A_BATCH
from tests.server.rpc.test_journal import Journal, accrual, journal_of, outcomes, publish, redemption
from tests.support.refusals import refusal
from tests.support.servers import Caller, Laurel

LONG_AGO = timedelta(days=40)


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
    """Somebody who may decide."""
    scopes = ["points.read", "points.review"]
    return await shop.caller(await shop.new_key(CallerKind.STAFF, name="anna", scopes=scopes))


def late(entry: journal_pb2.JournalEntry, ago: timedelta = LONG_AGO) -> journal_pb2.JournalEntry:
    kind = entry.WhichOneof("entry")
    getattr(entry, str(kind)).occur_time.FromDatetime(datetime.now(UTC) - ago)
    return entry


async def aside(journal: Journal, entry: journal_pb2.JournalEntry) -> str:
    """The id under which the entry waits."""
    [result] = await journal.batch(entry)
    assert result.WhichOneof("result") == "review", result
    assert result.review.status == journal_pb2.REVIEW_STATUS_PENDING
    return result.review.review_id


async def approve(anna: Caller, review_id: str, request_id: str = "") -> pb.ApproveReviewEntryResponse:
    return await anna.reviews.ApproveReviewEntry(
        pb.ApproveReviewEntryRequest(
            request_id=request_id or uuid4().hex, review_id=review_id, reason="the till was in a cellar"
        )
    )


async def reject(anna: Caller, review_id: str, request_id: str = "") -> pb.RejectReviewEntryResponse:
    return await anna.reviews.RejectReviewEntry(
        pb.RejectReviewEntryRequest(
            request_id=request_id or uuid4().hex, review_id=review_id, reason="nobody knows that sale"
        )
    )


async def shown(anna: Caller, review_id: str) -> pb.ReviewEntry:
    return (await anna.reviews.GetReviewEntry(pb.GetReviewEntryRequest(review_id=review_id))).review


async def history(shop: Laurel, member_id: str) -> list[points_pb2.Transaction]:
    request = points_pb2.ListHistoryRequest(member_id=member_id)
    return list((await shop.service.points.ListHistory(request)).transactions)


async def test_what_is_too_old_is_put_aside_once_and_its_neighbours_are_recorded(
    shop: Laurel, journal: Journal, anna: Caller
) -> None:
    member_id = await shop.register()
    old, fresh = late(accrual(member_id, 70)), accrual(member_id, 5)
    entries = [old, fresh, late(redemption(member_id, 1))]
    first = await journal.batch(*entries)
    assert outcomes(first) == ["review", "accrue", "review"]
    assert await journal.batch(*entries) == first
    upload = await journal.upload(entries)
    assert (upload.entries, upload.accepted, upload.put_aside) == (3, 1, 2)
    assert (upload.refused, upload.replayed) == (0, 1)
    assert list(upload.results) == first
    replies = await journal.exchanged([*entries, late(accrual(member_id))])
    assert [reply.replayed for reply in replies] == [True, True, True, False]
    assert await journal.balance(member_id) == 5
    listed = await anna.reviews.ListReviewEntries(pb.ListReviewEntriesRequest(member_id=member_id))
    assert {r.review_id for r in listed.reviews} == {
        first[0].review.review_id,
        first[2].review.review_id,
        replies[3].result.review.review_id,
    }
    other = late(accrual(member_id, 71, request_id=old.accrue.request_id))
    assert outcomes(await journal.batch(other)) == ["REQUEST_ID_REUSED"]
    # Of the same moment, but by itself.
    said = await refusal(shop.terminal.points.Accrue(late(accrual(member_id)).accrue))
    assert said.reason == "OCCURRED_TOO_LONG_AGO"


async def test_what_is_wrong_otherwise_is_refused(shop: Laurel, journal: Journal) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    closed = await shop.register()
    await shop.service.members.SuspendMember(
        member_pb2.SuspendMemberRequest(request_id=uuid4().hex, member_id=closed)
    )
    day = datetime.now(UTC) - LONG_AGO
    dated = {"year": day.year, "month": day.month, "day": day.day}
    await journal.batch(accrual(member_id, order_reference=receipt, business_date=dated))
    large = accrual(member_id, 0, amount=None)
    for number in range(1000):
        line = large.accrue.lines.add(sku="x" * 64, category="y" * 64)
        line.amount.currency_code = "INR"
        for name in range(3):
            line.attributes[f"{number}-{name}"] = "z" * 50
    unknown = member_pb2.Identifier(card_number=uuid4().hex[:12])
    entries = [
        accrual(unknown),
        accrual(closed),
        accrual(member_id, order_reference=receipt, business_date=dated),
        accrual(member_id, store="\n"),
        large,
    ]
    entries[0].accrue.amount.currency_code = "INR"
    usd = accrual(member_id)
    usd.accrue.amount.currency_code = "USD"
    assert outcomes(await journal.batch(*(late(entry) for entry in [*entries, usd]))) == [
        "MEMBER_NOT_FOUND",
        "MEMBER_NOT_ACTIVE",
        "ORDER_ALREADY_RECORDED",
        "INVALID_FIELD",
        "OCCURRED_TOO_LONG_AGO",
        "CURRENCY_NOT_SUPPORTED",
    ]


async def test_an_approved_entry_is_recorded_as_of_when_it_happened_once(
    shop: Laurel, journal: Journal, anna: Caller
) -> None:
    email = f"{uuid4().hex}@example.com"
    member_id = await shop.register(email=email)
    entry = late(accrual(member_pb2.Identifier(email=email), 70, channel="pos"))
    review_id = await aside(journal, entry)
    review = await shown(anna, review_id)
    assert review.entry.accrue.member_id == member_id
    assert review.entry.accrue.amount.units == 70
    assert review.why == "OCCURRED_TOO_LONG_AGO"
    assert review.occur_time == entry.accrue.occur_time
    async with shop.database.connection() as connection:
        kept = await connection.fetchval("SELECT row_to_json(r)::text FROM review_entry r")
    assert email not in kept

    request_id = uuid4().hex
    replies = await asyncio.gather(*(approve(anna, review_id, request_id) for _ in range(8)))
    assert all(reply == replies[0] for reply in replies)
    reply = replies[0].result.accrue
    assert (reply.points, reply.balance, reply.member_id) == (70, 70, member_id)
    [row] = await history(shop, member_id)
    assert row.occur_time == entry.accrue.occur_time
    assert (row.actor, row.source_system, row.channel) == ("staff:anna", "pos", "pos")
    async with shop.database.connection() as connection:
        credential = await connection.fetchval(
            "SELECT credential_id FROM ledger_transaction WHERE transaction_id = $1", row.transaction_id
        )
    assert str(credential) == review.credential_id
    review = await shown(anna, review_id)
    assert (review.status, review.decider) == (journal_pb2.REVIEW_STATUS_APPROVED, "staff:anna")
    assert review.event_id == reply.event_id
    # The till that sends it again is told what was recorded.
    [again] = await journal.batch(entry)
    assert again.accrue == reply
    for decide in (approve, reject):
        said = await refusal(decide(anna, review_id))
        assert (said.reason, said.metadata) == ("REVIEW_NOT_PENDING", {"status": "approved"})
    assert await journal.balance(member_id) == 70


async def test_two_who_approve_at_once_record_once(shop: Laurel, journal: Journal, anna: Caller) -> None:
    member_id = await shop.register()
    review_id = await aside(journal, late(accrual(member_id, 70)))
    ends = await asyncio.gather(*(approve(anna, review_id) for _ in range(8)), return_exceptions=True)
    assert sum(not isinstance(end, BaseException) for end in ends) == 1
    assert await journal.balance(member_id) == 70


async def test_a_rejected_entry_is_kept_and_answered_so(shop: Laurel, journal: Journal, anna: Caller) -> None:
    member_id = await shop.register()
    entry = late(accrual(member_id))
    review_id, request_id = await aside(journal, entry), uuid4().hex
    first = await reject(anna, review_id, request_id)
    assert first.review.status == journal_pb2.REVIEW_STATUS_REJECTED
    assert first.review.decision_reason == "nobody knows that sale"
    assert await reject(anna, review_id, request_id) == first
    assert (await refusal(approve(anna, review_id))).reason == "REVIEW_NOT_PENDING"
    [again] = await journal.batch(entry)
    assert again.review.review_id == review_id
    assert again.review.status == journal_pb2.REVIEW_STATUS_REJECTED
    assert await journal.balance(member_id) == 0


async def test_what_cannot_be_done_by_now_stays_pending(shop: Laurel, journal: Journal, anna: Caller) -> None:
    member_id = await shop.register()
    review_id = await aside(journal, late(redemption(member_id, 30)))
    said = await refusal(approve(anna, review_id))
    assert (said.reason, said.metadata["missing"]) == ("INSUFFICIENT_POINTS", "30")
    assert (await shown(anna, review_id)).status == journal_pb2.REVIEW_STATUS_PENDING
    await journal.batch(accrual(member_id, 50))
    reply = await approve(anna, review_id)
    assert reply.result.redeem.balance == 20


async def test_an_order_that_came_in_twice_is_recorded_once(
    shop: Laurel, journal: Journal, anna: Caller
) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    reviews = [await aside(journal, late(accrual(member_id, order_reference=receipt))) for _ in range(2)]
    await approve(anna, reviews[0])
    assert (await refusal(approve(anna, reviews[1]))).reason == "ORDER_ALREADY_RECORDED"
    assert await journal.balance(member_id) == 100


async def test_an_entry_about_a_member_who_was_merged_since(
    shop: Laurel, journal: Journal, anna: Caller
) -> None:
    old, new = await shop.register(), await shop.register()
    approved, rejected = [await aside(journal, late(accrual(old, 70))) for _ in range(2)]
    await shop.service.members.MergeMembers(
        member_pb2.MergeMembersRequest(request_id=uuid4().hex, member_id=new, merged_member_id=old)
    )
    assert (await approve(anna, approved)).result.accrue.member_id == new
    assert (await reject(anna, rejected)).review.status == journal_pb2.REVIEW_STATUS_REJECTED
    assert await journal.balance(new) == 70


async def test_so_many_of_a_credential_wait_and_no_more(shop: Laurel, anna: Caller) -> None:
    member_id = await shop.register()
    async with journal_of(shop, await shop.new_key(CallerKind.TERMINAL)) as journal:
        entries = [late(accrual(member_id)) for _ in range(MOST_PENDING)]
        for start in range(0, MOST_PENDING, MOST_IN_A_BATCH):
            results = await journal.batch(*entries[start : start + MOST_IN_A_BATCH])
            assert set(outcomes(results)) == {"review"}
        one_more = late(accrual(member_id))
        [full] = await journal.batch(one_more)
        assert outcomes([full]) == ["REVIEWS_FULL"]
        assert outcomes(await journal.batch(entries[0], accrual(member_id))) == ["review", "accrue"]
        await reject(anna, results[0].review.review_id)
        assert outcomes(await journal.batch(one_more)) == ["review"]
    listed = await anna.reviews.ListReviewEntries(
        pb.ListReviewEntriesRequest(member_id=member_id, page_size=500)
    )
    seen = [review.review_id for review in listed.reviews]
    while listed.next_page_token:
        listed = await anna.reviews.ListReviewEntries(
            pb.ListReviewEntriesRequest(member_id=member_id, page_size=500, page_token=listed.next_page_token)
        )
        seen += [review.review_id for review in listed.reviews]
    assert len(seen) == len(set(seen)) == MOST_PENDING + 1
    assert seen == sorted(seen, reverse=True)


async def test_who_may_decide(shop: Laurel, journal: Journal) -> None:
    member_id = await shop.register()
    review_id = await aside(journal, late(accrual(member_id)))
    staff = await shop.caller(await shop.new_key(CallerKind.STAFF, scopes=["points.read"]))
    for caller, why in ((staff, "SCOPE_MISSING"), (shop.service, "CALLER_NOT_ADMITTED")):
        assert (await refusal(approve(caller, review_id))).reason == why
        assert (await refusal(reject(caller, review_id))).reason == why
    terminal = shop.terminal.reviews.ListReviewEntries(pb.ListReviewEntriesRequest())
    assert (await refusal(terminal)).reason == "CALLER_NOT_ADMITTED"
    async with shop.database.connection() as connection:
        audits = "SELECT count(*) FROM access_audit WHERE member_ids @> ARRAY[$1::uuid]"
        before = await connection.fetchval(audits, member_id)
        await shown(staff, review_id)
        assert await connection.fetchval(audits, member_id) == before + 1


async def test_the_books_agree_afterwards(shop: Laurel, settings: Any) -> None:
    keys = secrets.load(settings.secrets_file).ledger.keys
    steps = verify(shop.database, keys, shop.program.program_id)
    findings = [f async for step in steps if isinstance(step, Result) for f in step.findings]
    assert findings == []
