"""What a reply tells of a journal whose results it can't hold."""

from itertools import takewhile
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as some
from loyalty.v1 import journal_pb2 as pb
from loyalty.v1 import movements_pb2, points_pb2

from server.rpc.results import PREFIX_BYTES, RESULTS_BYTES, Uploaded
from tests.server.rpc.test_journal import accrual, journal_of, outcomes, publish
from tests.support.servers import Laurel

CLIENTS_TAKE = 4 * 1024 * 1024
KINDS = ("accrue", "error", "review")


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    await publish(laurel)
    return laurel


@given(some.lists(some.tuples(some.sampled_from(KINDS), some.integers(0, 60)), min_size=1, max_size=60))
def test_an_upload_has_a_result_for_every_entry_that_it_takes_and_takes_what_it_has_room_for(
    entries: list[tuple[str, int]],
) -> None:
    room = 500
    uploaded, results = Uploaded(room), []
    for index, (kind, size) in enumerate(entries):
        result = pb.JournalResult(index=index, request_id="x" * size)
        getattr(result, kind).SetInParent()
        results.append(result)
    taken = list(takewhile(lambda result: uploaded.add(result, replayed=False), results))
    told = uploaded.reply
    assert list(told.results) == taken == results[: told.entries]
    assert [told.accepted, told.refused, told.put_aside] == [
        sum(kind == wanted for kind, _ in entries[: told.entries]) for wanted in KINDS
    ]
    said = pb.UploadJournalResponse(results=told.results).ByteSize()
    assert said <= room
    assert told.more == (told.entries < len(entries))
    if told.more:
        assert said + results[told.entries].ByteSize() > room - PREFIX_BYTES * (told.entries + 1)


def test_an_upload_takes_its_first_entry_however_much_is_told_of_it() -> None:
    uploaded = Uploaded(room=10)
    assert uploaded.add(pb.JournalResult(request_id="x" * 64), replayed=False)
    assert not uploaded.add(pb.JournalResult(), replayed=False)
    assert (uploaded.reply.entries, uploaded.reply.more) == (1, True)


async def test_a_long_journal_is_uploaded_in_parts_and_every_entry_has_its_result(shop: Laurel) -> None:
    member_id = await shop.register()
    # So much is wrong with each that it is told at length.
    wrong = points_pb2.LineItem(line_id="x" * 65, sku="x" * 65, category="x" * 65, quantity=-1)
    bad = accrual(member_id, amount=None, lines=[wrong] * 5)
    async with journal_of(shop) as journal:
        size = (await journal.upload([bad])).results[0].ByteSize()
        good = [accrual(member_id, 1) for _ in range(6)]
        entries = [*good[:3], *[bad] * (RESULTS_BYTES // size), *good[3:]]
        parts: list[pb.UploadJournalResponse] = []
        sent = 0
        while sent < len(entries):
            parts.append(await journal.upload(entries[sent:]))
            sent += parts[-1].entries
        assert [part.more for part in parts] == [True, False]
        assert [result.index for result in parts[0].results] == list(range(parts[0].entries))
        results = [result for part in parts for result in part.results]
        assert outcomes(results) == ["INVALID_FIELD" if entry is bad else "accrue" for entry in entries]
        assert sum(part.accepted for part in parts) == await journal.balance(member_id) == len(good)
    assert all(part.ByteSize() < CLIENTS_TAKE for part in parts)


async def test_a_batch_that_is_answered_at_too_great_length_is_sent_on_with_another(shop: Laurel) -> None:
    """What nobody bought comes back by the thousand, and is told item by item."""
    member_id = await shop.register()
    unknown = [movements_pb2.ReturnItem(sku="₹" * 60 + f"{n:04}", quantity=1) for n in range(1000)]
    back = [
        movements_pb2.ReturnPurchaseRequest(request_id=uuid4().hex, member_id=member_id, items=unknown)
        for _ in range(19)
    ]
    sold = accrual(member_id, 1)
    entries = [*(pb.JournalEntry(return_purchase=request) for request in back), sold]
    async with journal_of(shop) as journal:
        first = await journal.batch(*entries)
        assert [result.index for result in first] == list(range(20))
        assert first[-1].request_id == sold.accrue.request_id
        assert pb.BatchAccrueResponse(results=first).ByteSize() < CLIENTS_TAKE
        told = outcomes(first).index("RESULTS_TOO_LARGE")
        assert outcomes(first) == ["return_purchase"] * told + ["RESULTS_TOO_LARGE"] * (20 - told)
        rest = await journal.batch(*entries[told:])
        assert outcomes(rest) == [*["return_purchase"] * (19 - told), "accrue"]
        assert len(rest[0].return_purchase.unmatched) == 1000
        assert rest[-1].accrue.balance == await journal.balance(member_id) == 1
