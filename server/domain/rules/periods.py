"""When a rule counts, and the periods in which caps count, on the program's clock."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time

from server.domain.program import Program
from server.domain.rules.conditions import Test
from server.domain.rules.definition import Active
from server.domain.rules.fields import WEEKDAYS, Case

# Period of a cap -> the name of the one in which a local moment lies. A cap per event
# needs no counter.
PERIOD_KEYS: Mapping[str, Callable[[datetime], str]] = {
    "day": lambda local: f"day:{local.date().isoformat()}",
    "week": lambda local: "week:{}-W{:02}".format(*local.isocalendar()),
    "month": lambda local: f"month:{local.date().isoformat()[:7]}",
    "year": lambda local: f"year:{local.year}",
    "ever": lambda _: "ever",
}


def compile_active(active: Active, program: Program) -> Test:
    """The test whether a rule counts at the moment of a Case."""
    start = active.start and active.start.replace(tzinfo=program.zone).astimezone(UTC)
    until = active.until and active.until.replace(tzinfo=program.zone).astimezone(UTC)
    days = frozenset(WEEKDAYS.index(day) for day in active.days) or frozenset(range(7))
    weekly = bool(active.days or active.hours)
    first, last = active.hours or (time(0), time(0))

    def counts(case: Case) -> bool:
        moment = case.activity.occurred_at
        if (start is not None and moment < start) or (until is not None and moment >= until):
            return False
        return not weekly or _in_week(case.local, days, first, last)

    return counts


def _in_week(local: datetime, days: frozenset[int], first: time, last: time) -> bool:
    """Whether the span of a chosen day covers the moment.

    A span that passes midnight belongs to the day on which it began.
    """
    now, today = local.time(), local.weekday()
    if first < last or last == time(0):
        return today in days and first <= now and (last == time(0) or now < last)
    if now >= first:
        return today in days
    return now < last and (today - 1) % 7 in days
