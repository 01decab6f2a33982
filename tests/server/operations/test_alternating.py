"""Batches take turns where the process would idle while the database has them, and nowhere else."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.operations.alternating import FEWEST, LOOKS, REST_SECONDS, SECONDS, Alternating
from server.store.database import Database
from tests.server.operations.test_aside import done
from tests.server.operations.test_committer import Shop
from tests.server.operations.test_underway import braked, locked, members, submitted, with_a_brake, written
from tests.support.waiting import eventually

MANY = 2 * FEWEST


class Thread:
    """Works for a share of the time that passes."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.now = 0.0
        self.worked = 0.0

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.worked += seconds * self.share

    def alternating(self) -> Alternating:
        return Alternating(clock=lambda: self.now, busy=lambda: self.worked)


def batches(thread: Thread, alternating: Alternating, waiting: int, number: int) -> list[int]:
    """How large so many batches become when so many wait each time."""
    sizes = []
    for _ in range(number):
        sizes.append(alternating.most(waiting))
        alternating.begun(sizes[-1])
        thread.passes(0.03)
    return sizes


def test_a_busy_process_takes_all_who_wait() -> None:
    thread = Thread(share=0.9)
    assert batches(thread, alternating := thread.alternating(), MANY, 100) == [MANY] * 100
    assert alternating.enough(MANY) is None


def test_an_idle_one_takes_half_and_lets_the_other_half_begin_behind() -> None:
    thread = Thread(share=0.5)
    alternating = thread.alternating()
    assert batches(thread, alternating, MANY, LOOKS + 2) == [MANY] * LOOKS + [FEWEST] * 2
    assert alternating.enough(FEWEST) == FEWEST
    assert alternating.enough(100) == 100


def test_of_an_odd_number_the_first_takes_the_larger_half() -> None:
    thread = Thread(share=0.5)
    assert batches(thread, thread.alternating(), MANY + 1, LOOKS + 1)[-1] == FEWEST + 1


def test_few_are_never_halved() -> None:
    thread = Thread(share=0.0)
    alternating = thread.alternating()
    assert set(batches(thread, alternating, MANY - 1, 100)) == {MANY - 1}
    assert set(batches(thread, alternating, 1, 100)) == {1}


def test_where_fewer_than_a_batch_is_worth_call_nothing_is_found_out() -> None:
    thread = Thread(share=0.0)
    alternating = thread.alternating()
    batches(thread, alternating, FEWEST - 1, 100)
    assert alternating.enough(FEWEST) is None


def test_it_looks_again_when_its_answer_is_old() -> None:
    thread = Thread(share=0.5)
    alternating = thread.alternating()
    batches(thread, alternating, MANY, LOOKS + 1)
    thread.passes(SECONDS)
    thread.share = 1.0
    assert alternating.enough(MANY) is None
    assert batches(thread, alternating, MANY, LOOKS + 1) == [MANY] * (LOOKS + 1)


def test_what_was_no_use_ends_until_the_next_look() -> None:
    """As where all of them buy for the same member."""
    thread = Thread(share=0.5)
    alternating = thread.alternating()
    batches(thread, alternating, MANY, LOOKS + 1)
    alternating.stop()
    assert alternating.enough(FEWEST) is None
    assert batches(thread, alternating, MANY, LOOKS + 1) == [MANY] * LOOKS + [FEWEST]


def test_what_brings_less_is_left_alone_for_a_while() -> None:
    """As where the disk takes as long for half of them as for all."""
    thread = Thread(share=0.5)
    alternating = thread.alternating()
    batches(thread, alternating, MANY, LOOKS + 1)
    thread.passes(SECONDS)
    long = int(REST_SECONDS / 0.03)
    assert set(batches(thread, alternating, MANY, long)) == {MANY}
    assert FEWEST in batches(thread, alternating, MANY, LOOKS + 2)


def test_a_pause_after_turns_tells_nothing_of_what_they_brought() -> None:
    thread = Thread(share=0.5)
    alternating = thread.alternating()
    batches(thread, alternating, MANY, LOOKS + 1)
    thread.passes(3 * SECONDS)
    assert batches(thread, alternating, MANY, LOOKS + 1) == [MANY] * LOOKS + [FEWEST]


def test_what_brings_more_goes_on_after_another_look() -> None:
    thread = Thread(share=0.5)
    alternating = thread.alternating()
    batches(thread, alternating, MANY, LOOKS + 1)
    for _ in range(3):
        alternating.begun(round(1.2 * MANY * SECONDS / 0.03))
        thread.passes(SECONDS)
        assert batches(thread, alternating, MANY, LOOKS + 1) == [MANY] * LOOKS + [FEWEST]


def test_a_pause_in_which_nobody_called_is_no_idleness() -> None:
    thread = Thread(share=1.0)
    alternating = thread.alternating()
    for _ in range(10):
        assert set(batches(thread, alternating, MANY, LOOKS - 1)) == {MANY}
        thread.now += 60


def test_smaller_batches_in_between_tell_nothing() -> None:
    """Of those who call from afar one comes before the others, again and again."""
    thread = Thread(share=0.5)
    alternating = thread.alternating()
    for _ in range(LOOKS):
        assert batches(thread, alternating, 1, 1) + batches(thread, alternating, MANY, 1) == [1, MANY]
    assert batches(thread, alternating, MANY, 1) == [FEWEST]


@pytest.fixture
async def shop(
    database: Database, database_url: str, redis_url: str, secrets_file: Path
) -> AsyncIterator[Shop]:
    idle = Thread(share=0.0)

    def clock() -> float:
        idle.passes(0.001)
        return idle.now

    async with with_a_brake(
        database,
        database_url,
        redis_url,
        secrets_file,
        batch_size=128,
        alternating=Alternating(clock, busy=lambda: idle.worked),
    ) as shop:
        yield shop


async def test_the_second_half_is_decided_while_the_first_is_written(shop: Shop) -> None:
    buyers = await members(shop, MANY)
    for _ in range(LOOKS):
        await done(submitted(shop, [shop.purchase(m, 1) for m in buyers]))
    slow = [shop.purchase(m, 5, reference=f"slow {m}") for m in buyers[:FEWEST]]
    async with braked(shop):
        replies = submitted(shop, [*slow, *(shop.purchase(m, 5) for m in buyers[FEWEST:])])
        await eventually(lambda: written(shop))
        await eventually(lambda: locked(shop, buyers[-1]))
        assert not any(reply.done() for reply in replies)
    await done(replies)
    async with shop.database.connection() as connection:
        last = await connection.fetch(
            """SELECT array_agg(member_id ORDER BY member_id) FROM event_log
                WHERE event_type = 'points.earned' GROUP BY xid ORDER BY xid DESC LIMIT 2"""
        )
    assert [row[0] for row in last] == [sorted(buyers[FEWEST:]), sorted(buyers[:FEWEST])]
