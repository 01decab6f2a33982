import pytest

from bench import load
from bench.figures import Figures, Seen, middle, summarise
from bench.rows import ROWS, Measured


def answered(began: float, seconds: float) -> Seen:
    return Seen(began, began + seconds, True)


def test_only_what_follows_the_warm_up_counts() -> None:
    slow_at_first = [answered(n / 100, 0.5) for n in range(100)]
    # 100 calls a second for 4 seconds, of 10 ms each.
    steady = [answered(1.0 + n / 100, 0.01) for n in range(400)]
    figures = summarise(slow_at_first + steady, warm_up=2.0, seconds=2.0, server_cpu=0.5)
    assert figures.arrivals == pytest.approx(100, abs=1)
    assert figures.completions == pytest.approx(100, abs=1)
    assert figures.p50 == pytest.approx(10)
    assert figures.p99 == pytest.approx(10)
    assert figures.server_cpu == pytest.approx(1000)


def test_a_server_that_falls_behind_completes_less_than_arrives() -> None:
    figures = summarise([answered(n / 100, n / 100) for n in range(400)], warm_up=1.0, seconds=2.0)
    assert figures.arrivals == pytest.approx(100, abs=1)
    assert figures.completions == pytest.approx(50, abs=1)


def test_the_slowest_hundredth_is_above_p99() -> None:
    figures = summarise([answered(n / 1000, (n + 1) / 1000) for n in range(1000)], 0.0, 2.0)
    assert figures.p50 == pytest.approx(500, abs=1)
    assert figures.p95 == pytest.approx(950, abs=1)
    assert figures.p99 == pytest.approx(990, abs=1)


def test_the_middle_is_taken_figure_by_figure() -> None:
    runs = [Figures(n, 10 - n, n, n, n) for n in (1, 9, 2)]
    assert middle(runs) == Figures(2, 8, 2, 2, 2)


def test_targets_are_floors_or_ceilings() -> None:
    assert [ROWS["accrue"].met(ratio) for ratio in (0.59, 0.60)] == [False, True]
    assert [ROWS["rules"].met(ratio) for ratio in (2.0, 2.1)] == [True, False]
    assert ROWS["limits"].met(0.5) is None


def test_cpu_tells_the_same_ratio_on_a_busy_machine() -> None:
    bare, ours = (Figures(0, 0, 0, 0, 0, server_cpu=cpu) for cpu in (200, 500))
    assert Measured(0.1, {"echo": bare, "Laurel": ours}).cpu_ratio == pytest.approx(0.4)
    assert Measured(0.1, {"a figure": 1.0}).cpu_ratio == 0


def test_no_two_purchases_are_the_same() -> None:
    pace = load.Pace(seconds=0.01, warm_up=0.0)
    bodies = load.purchases(["a", "b"], pace)
    assert len(bodies) == load.MOST_CALLS_PER_SECOND / 100
    assert len({body["request_id"] for body in bodies}) == len(bodies)
    assert {body["member_id"] for body in bodies} == {"a", "b"}
