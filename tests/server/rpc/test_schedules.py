"""ScheduleService: staff see what is done by the clock, of their program and of the installation."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from loyalty.v1 import schedules_pb2 as pb

from server.domain.schedules import DAY, NOBODYS
from server.store import schedules as store
from server.store.schedules import Wanted
from tests.support.programs import new_program
from tests.support.servers import Laurel

MINUTE = timedelta(minutes=1)


async def test_staff_see_the_last_and_the_next_run(laurel: Laurel) -> None:
    asked = pb.ListSchedulesRequest()
    assert not (await laurel.staff.schedules.ListSchedules(asked)).schedules
    now = datetime.now(UTC)
    own, other = laurel.program.program_id, (await new_program(laurel.database)).program_id
    async with laurel.database.connection() as connection:
        await store.enrol(
            connection,
            [
                Wanted("checkpoint", NOBODYS, MINUTE, now, False),
                Wanted("due", own, MINUTE, now, False),
                Wanted("due", other, MINUTE, now, False),
                Wanted("late", own, DAY, now - timedelta(minutes=20), False),
                Wanted("off", own, DAY, now, True),
            ],
        )
        due = await store.take(connection, "due", own, now, now + MINUTE, "ann", 30.0)
        assert due is not None
        assert await store.done(connection, due, "5 points expired of 1 members")
        checkpoint = await store.take(connection, "checkpoint", NOBODYS, now, now + MINUTE, "ben", 30.0)
        assert checkpoint is not None
        assert await store.failed(connection, checkpoint, "OSError", now + timedelta(seconds=30))
    found = (await laurel.staff.schedules.ListSchedules(asked)).schedules
    assert [(one.name, one.of_installation) for one in found] == [
        ("checkpoint", True),
        ("due", False),
        ("late", False),
    ]
    failed, done, late = found
    assert (failed.outcome, failed.error) == (pb.SCHEDULE_OUTCOME_FAILED, "OSError")
    assert failed.next_time.ToDatetime(tzinfo=UTC) == now + timedelta(seconds=30)
    assert (done.outcome, done.result, done.error) == (
        pb.SCHEDULE_OUTCOME_DONE,
        "5 points expired of 1 members",
        "",
    )
    assert done.next_time.ToDatetime(tzinfo=UTC) == now + MINUTE
    assert done.start_time.ToDatetime() <= done.end_time.ToDatetime()
    assert (done.worker, done.attempts, done.every.seconds) == ("ann", 1, 60)
    assert not done.HasField("late")
    assert late.outcome == pb.SCHEDULE_OUTCOME_WAITING
    assert late.late.seconds >= 20 * 60
    assert not late.HasField("start_time")


async def test_nobody_else_may_look(laurel: Laurel) -> None:
    for caller in (laurel.terminal, laurel.service):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await caller.schedules.ListSchedules(pb.ListSchedulesRequest())
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
