"""Tasks that are told to end do, whatever becomes of the first word."""

import asyncio

from server.ending import ended


async def deaf(times: int) -> None:
    """Goes on after so many cancellations."""
    for _ in range(times):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    await asyncio.Event().wait()


async def failing() -> None:
    raise ValueError("nobody asked")


async def test_a_task_that_loses_cancellations_ends() -> None:
    tasks = [asyncio.create_task(deaf(times)) for times in (0, 1, 3)]
    await asyncio.sleep(0)

    await ended(tasks, again_seconds=0.01)

    assert all(task.cancelled() for task in tasks)


async def test_what_ended_by_itself_is_no_concern() -> None:
    broken, done = asyncio.create_task(failing()), asyncio.create_task(asyncio.sleep(0))
    await asyncio.wait([broken, done])

    await ended([broken, done])

    assert isinstance(broken.exception(), ValueError)
    assert not done.cancelled()
