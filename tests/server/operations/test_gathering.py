"""Who shares a batch is waited for while many come, and never for long."""

from server.operations.gathering import MOST_TICKS, gathered


class Crowd:
    """Grows by so many whenever somebody looks."""

    def __init__(self, growth: int) -> None:
        self.growth = growth
        self.looks = 0

    def __len__(self) -> int:
        self.looks += 1
        return self.looks * self.growth


async def test_after_a_single_one_nobody_waits() -> None:
    crowd = Crowd(5)
    await gathered(crowd, 100, before=1)
    assert crowd.looks == 0


async def test_those_who_are_enough_wait_for_nobody() -> None:
    crowd = Crowd(100)
    await gathered(crowd, 100, before=8)
    assert crowd.looks == 1


async def test_where_few_come_the_wait_is_one_tick() -> None:
    crowd = Crowd(1)
    await gathered(crowd, 100, before=8)
    assert crowd.looks == 2


async def test_where_many_come_the_wait_ends_when_they_are_enough() -> None:
    crowd = Crowd(10)
    await gathered(crowd, 45, before=8)
    assert crowd.looks * crowd.growth in (50, 60)


async def test_a_crowd_without_end_is_not_waited_for_long() -> None:
    crowd = Crowd(2)
    await gathered(crowd, 10_000, before=8)
    assert crowd.looks == 2 * MOST_TICKS
