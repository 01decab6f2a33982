"""Birthdays on a program's calendar."""

from collections.abc import Collection, Mapping
from datetime import date, timedelta

from server.domain.members import Consent

# Who had a birthday while nothing ran is told so late at most.
MOST_DAYS_LATE = 7
PURPOSE = "marketing"
LEAP_DAY, DAY_BEFORE = (2, 29), (2, 28)


def days_since(since: date | None, today: date) -> tuple[date, ...]:
    """The days whose birthdays are looked for: today, and those after ``since``, the last that was done."""
    first = today if since is None else max(since + timedelta(days=1), today - timedelta(days=MOST_DAYS_LATE))
    return tuple(first + timedelta(days=n) for n in range((today - first).days + 1)) or (today,)


def birthday_among(born: date, days: Collection[date]) -> date | None:
    """Which of the days is the birthday, None for none. Who was born on a leap day has it a day earlier."""
    return next((day for day in days if _falls_on(born, day)), None)


def _falls_on(born: date, day: date) -> bool:
    month_and_day = (born.month, born.day)
    leap = (day + timedelta(days=1)).month == 2
    if month_and_day == LEAP_DAY and (day.month, day.day) == DAY_BEFORE and not leap:
        return True
    return month_and_day == (day.month, day.day) and born < day


def agreed(decisions: Mapping[str, Consent]) -> bool:
    """Whether the member wants to be written to on any channel; ``decisions`` are in force, by purpose."""
    return any(
        decision.granted
        for purpose, decision in decisions.items()
        if purpose == PURPOSE or purpose.startswith(f"{PURPOSE}.")
    )
