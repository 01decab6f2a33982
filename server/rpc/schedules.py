"""ScheduleService: ask, render."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

from loyalty.v1 import schedules_pb2 as pb

from server.domain.schedules import Outcome, Standing
from server.operations.schedules import Schedules
from server.rpc.gate import Call

OUTCOMES: Mapping[Outcome, pb.ScheduleOutcome.ValueType] = MappingProxyType(
    {
        Outcome.WAITING: pb.SCHEDULE_OUTCOME_WAITING,
        Outcome.RUNNING: pb.SCHEDULE_OUTCOME_RUNNING,
        Outcome.DONE: pb.SCHEDULE_OUTCOME_DONE,
        Outcome.FAILED: pb.SCHEDULE_OUTCOME_FAILED,
    }
)


class ScheduleService:
    """The RPCs of ScheduleService, called by the gate."""

    def __init__(self, schedules: Schedules, clock: Callable[[], datetime]) -> None:
        self._schedules = schedules
        self._clock = clock

    async def ListSchedules(self, request: pb.ListSchedulesRequest, call: Call) -> pb.ListSchedulesResponse:
        """Show all of them."""
        found = await self._schedules.standings(call.actor.program_id)
        now = self._clock()
        return pb.ListSchedulesResponse(schedules=[_message(standing, now) for standing in found])


def _message(standing: Standing, now: datetime) -> pb.Schedule:
    message = pb.Schedule(
        name=standing.name,
        of_installation=not standing.program,
        outcome=OUTCOMES[standing.outcome],
        attempts=standing.attempts,
        result=standing.did,
        error=standing.error,
        worker=standing.holder,
    )
    message.every.FromTimedelta(standing.every)
    message.next_time.FromDatetime(standing.next_at)
    late = standing.late(now)
    if late > timedelta(0):
        message.late.FromTimedelta(late)
    if standing.started_at is not None:
        message.start_time.FromDatetime(standing.started_at)
    if standing.ended_at is not None:
        message.end_time.FromDatetime(standing.ended_at)
    return message
