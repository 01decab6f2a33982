"""`laurel schedules`: what is done by the clock, when it was and when it will be."""

import click
from loyalty.v1 import schedules_pb2 as pb

from laurel.client import connect, program_option
from laurel.commands.options import json_option
from laurel.output import as_dict, moment, show_json, show_table

PREFIX = "SCHEDULE_OUTCOME_"
DAY = 24 * 3600


@click.command()
@program_option
@json_option
def schedules(*, program: str, as_json: bool) -> None:
    """Show what is done by the clock: last run and next one.

    Workers do it, once each period however many of them run. It lists the program's own and what
    is of the whole installation.
    """
    with connect("staff", program) as client:
        found = client.call(client.schedules.ListSchedules, pb.ListSchedulesRequest()).schedules
    if as_json:
        show_json([as_dict(schedule) for schedule in found])
        return
    if not found:
        click.echo("nothing yet: no worker has ever run; `laurel up` starts one, and so does `laurel worker`")
        return
    show_table(
        ("SCHEDULE", "OF", "EVERY", "LAST RUN", "TOOK", "OUTCOME", "WHAT CAME OF IT", "NEXT RUN"),
        [
            (
                one.name,
                "installation" if one.of_installation else "program",
                "day" if one.every.seconds == DAY else f"{one.every.ToTimedelta().total_seconds():g} s",
                moment(one.start_time),
                _took(one),
                _outcome(one),
                one.error or one.result,
                moment(one.next_time) + (f", {one.late.seconds:,} s late" if one.HasField("late") else ""),
            )
            for one in found
        ],
    )


def _took(one: pb.Schedule) -> str:
    if not one.HasField("start_time") or not one.HasField("end_time"):
        return ""
    return f"{(one.end_time.ToDatetime() - one.start_time.ToDatetime()).total_seconds():.2f} s"


def _outcome(one: pb.Schedule) -> str:
    outcome = pb.ScheduleOutcome.Name(one.outcome).removeprefix(PREFIX).lower()
    return f"{outcome}, attempt {one.attempts}" if one.attempts > 1 else outcome
