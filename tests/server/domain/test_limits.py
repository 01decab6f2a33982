"""Allowances of several processes against the one promise: never more than burst, rate and slack."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as some

from server.domain.limits import SECOND, Allowance, Limit, RateClass, read_limit, read_limits

LIMITS = some.builds(
    Limit, rate=some.floats(0.05, 5000), burst=some.one_of(some.integers(1, 40), some.integers(1, 3000))
)


@dataclass
class World:
    """Processes, what they share, and when calls were let through."""

    limit: Limit
    processes: list[Allowance]
    now: int = 1_000_000
    tat: int = 0
    alone: bool = False
    let_through: list[int] = field(default_factory=list)

    def call(self, number: int) -> None:
        """One call, as the server does it: settle what is due, or what is needed to tell."""
        process = self.processes[number]
        if not process.take(self.now):
            if process.wait(self.now):
                return
            self.settle(number)
            if not process.take(self.now):
                return
        self.let_through.append(self.now)
        if process.owed >= self.limit.due:
            self.settle(number)

    def settle(self, number: int) -> None:
        process = self.processes[number]
        if self.alone:
            process.settle_alone(self.now)
            return
        charged = process.owed
        self.tat = self.limit.charge(self.tat, self.now, charged, max(0, process.tat - self.now))
        process.settled(self.tat - self.now, charged, self.now)

    def excess(self) -> float:
        """By how much the worst span exceeds burst and rate."""
        return worst(self.let_through, self.limit)


def worst(times: list[int], limit: Limit) -> float:
    """The most by which the calls of any span exceed ``burst + span / interval``."""
    excess, least = 0.0, float("inf")
    for count, time in enumerate(times):
        due = count - time / limit.interval
        least = min(least, due)
        excess = max(excess, due - least + 1 - limit.burst)
    return excess


# Calls of a process at once, and how long, in intervals, until the next.
STEPS = some.lists(some.tuples(some.integers(0, 3), some.integers(1, 60), some.floats(0, 30)), max_size=60)


@given(LIMITS, STEPS, some.integers(1, 4))
def test_no_span_sees_more_than_burst_rate_and_slack(
    limit: Limit, steps: list[tuple[int, int, float]], processes: int
) -> None:
    world = World(limit, [Allowance(limit) for _ in range(processes)])
    for number, calls, pause in steps:
        for _ in range(calls):
            world.call(number % processes)
        world.now += int(pause * limit.interval)
    assert world.excess() <= (processes * limit.slack if processes > 1 else 0) + 1e-6


@given(LIMITS, STEPS)
def test_a_process_alone_holds_the_limit_exactly(limit: Limit, steps: list[tuple[int, int, float]]) -> None:
    world = World(limit, [Allowance(limit)], alone=True)
    for _, calls, pause in steps:
        for _ in range(calls):
            world.call(0)
        world.now += int(pause * limit.interval)
    assert world.excess() <= 1e-6


@given(LIMITS, some.integers(1, 3))
def test_who_has_been_quiet_gets_the_whole_burst_and_then_a_time_to_come_back(
    limit: Limit, processes: int
) -> None:
    world = World(limit, [Allowance(limit) for _ in range(processes)])
    for _ in range(limit.burst + 10):
        world.call(0)
    assert len(world.let_through) == limit.burst
    wait = world.processes[0].wait(world.now)
    assert 0 < wait <= max(limit.interval, limit.slack * limit.interval)
    world.now += wait
    world.call(0)
    assert len(world.let_through) == limit.burst + 1


@given(LIMITS, some.integers(-(10**12), 10**12), some.integers(0, 100), some.integers(0, 10**9))
def test_a_clock_put_back_shuts_nobody_out_for_long(limit: Limit, tat: int, used: int, known: int) -> None:
    now = 0
    assert limit.charge(tat, now, used, known) <= now + (3 * limit.burst + used) * limit.interval


def test_limits_are_read_from_words() -> None:
    limits = read_limits(" read=50:500  redeem=0.5:5 ")
    assert limits == {RateClass.READ: Limit(50, 500), RateClass.REDEEM: Limit(0.5, 5)}
    assert limits[RateClass.REDEEM].interval == 2 * SECOND
    assert read_limits("") == {}
    assert read_limit(" ") is None
    assert read_limit("5:10") == Limit(5, 10)


@pytest.mark.parametrize(
    "text",
    ["read", "read=5", "read=:", "read=-1:5", "write=0:5", "write=5:0", "walk=1:1", "read=1:1 read=2:2"],
)
def test_what_is_no_limit_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"a limit reads|a rate is|each of"):
        read_limits(text)
