"""What a reply tells of a journal whose results it can't hold."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as some
from loyalty.v1 import journal_pb2 as pb
from loyalty.v1 import movements_pb2, points_pb2

from server.rpc.entries import MOST_WAITING
from server.rpc.results import RESULTS_BYTES, Uploaded
from tests.server.rpc.test_journal import accrual, journal_of, outcomes, publish
from tests.support.servers import Laurel

CLIENTS_TAKE = 4 * 1024 * 1024
KINDS = ("accrue", "error", "review")


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    await publish(laurel)
    return laurel


@given(some.lists(some.tuples(some.sampled_from(KINDS), some.integers(0, 60)), max_size=60))
def test_results_that_were_not_accepted_have_precedence_and_every_one_is_accounted_for(
    entries: list[tuple[str, int]],
) -> None:
    room = 1000
    uploaded = Uploaded(room)
    for index, (kind, size) in enumerate(entries):
        result = pb.JournalResult(index=index, request_id="x" * size)
        getattr(result, kind).SetInParent()
        uploaded.add(result, replayed=False)
    told = uploaded.reply()
    listed = [result.index for result in told.results]
    assert listed == sorted(set(listed))
    accepted = [index for index, (kind, _) in enumerate(entries) if kind == "accrue"]
    others = [index for index, (kind, _) in enumerate(entries) if kind != "accrue"]
    assert (told.entries, told.accepted) == (len(entries), len(accepted))
    assert told.refused + told.put_aside == len(others)
    # The first of each kind are there, the last ones are left out.
    for places, left_out in ((accepted, told.accepted_left_out), (others, told.unaccepted_left_out)):
        assert [place for place in places if place in set(listed)] == places[: len(places) - left_out]
    if told.unaccepted_left_out:
        assert not set(listed) & set(accepted)
    said = pb.UploadJournalResponse(results=told.results)
    assert said.ByteSize() <= room
    if not told.accepted_left_out and not told.unaccepted_left_out:
        assert len(listed) == len(entries)


async def test_a_long_upload_tells_first_what_was_not_accepted(shop: Laurel) -> None:
    member_id = await shop.register()
    good = [accrual(member_id, 1) for _ in range(3)]
    # So much is wrong with each that it is told at length.
    wrong = points_pb2.LineItem(line_id="x" * 65, sku="x" * 65, category="x" * 65, quantity=-1)
    bad = accrual(member_id, amount=None, lines=[wrong] * 20)
    async with journal_of(shop) as journal:
        few = await journal.upload([*good, *[bad] * MOST_WAITING])
        assert [result.index for result in few.results] == list(range(3 + MOST_WAITING))
        assert (few.accepted_left_out, few.unaccepted_left_out) == (0, 0)
        count = RESULTS_BYTES // few.results[-1].ByteSize()
        many = await journal.upload([*good, *[bad] * (count + 50)])
    assert (many.accepted, many.replayed, many.refused) == (3, 3, count + 50)
    assert (many.accepted_left_out, many.unaccepted_left_out) == (3, count + 50 - len(many.results))
    assert 50 <= many.unaccepted_left_out <= 60
    assert many.ByteSize() < CLIENTS_TAKE


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
