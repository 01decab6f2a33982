import pytest

from server.domain.deliveries import (
    LONGEST_WAIT,
    WAITS,
    DeliveryStatus,
    NotSent,
    Permanent,
    Postponed,
    Temporary,
    Unwanted,
    Verdict,
    judge,
)

DEAD, PENDING = DeliveryStatus.DEAD, DeliveryStatus.PENDING


def test_what_was_sent_is_done() -> None:
    assert judge(3, None, 0.5) == Verdict(DeliveryStatus.SENT, 3)


@pytest.mark.parametrize(("chance", "part"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_each_wait_is_as_long_as_listed_give_or_take_a_fifth(chance: float, part: float) -> None:
    for attempts, wait in enumerate(WAITS, start=1):
        status, counted, waits = judge(attempts, Temporary("no answer"), chance)
        assert (status, counted) == (PENDING, attempts)
        assert waits == pytest.approx(wait * part)


def test_attempts_over_which_workers_died_count_but_make_nobody_wait_longer() -> None:
    assert judge(3, Temporary("no answer"), 0.5, failures=0) == Verdict(PENDING, 3, WAITS[0])
    assert judge(3, Temporary("no answer"), 0.5, failures=1) == Verdict(PENDING, 3, WAITS[1])
    assert judge(11, Temporary("no answer"), 0.5, failures=0) == Verdict(DEAD, 11)


def test_three_days_pass_before_it_is_given_up() -> None:
    attempts, waited = 1, 0.0
    while (verdict := judge(attempts, Temporary("no answer"), 0.5)).status is PENDING:
        attempts, waited = attempts + 1, waited + verdict.wait
    assert (verdict.status, attempts, round(waited / 3600)) == (DEAD, 11, 76)


@pytest.mark.parametrize(
    ("asked", "waits"), [(1, 5.0), (90, 90.0), (10**9, LONGEST_WAIT), (-5, 5.0), (None, 5.0)]
)
def test_a_receiver_may_put_us_off_longer_but_never_for_ever(asked: float | None, waits: float) -> None:
    assert judge(1, Temporary("busy", "503", retry_after=asked), 0.5).wait == waits


@pytest.mark.parametrize(
    ("failure", "status"), [(Permanent("gone"), DEAD), (Unwanted("no consent"), DeliveryStatus.DISCARDED)]
)
def test_what_can_never_work_is_tried_once(failure: NotSent, status: DeliveryStatus) -> None:
    assert judge(1, failure, 0.5) == Verdict(status, 1)


def test_what_we_put_off_ourselves_counts_no_attempt() -> None:
    assert judge(4, Postponed("quiet hours", 3600), 0.5) == Verdict(PENDING, 3, 3600)
