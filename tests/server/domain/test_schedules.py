from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from server.domain.schedules import (
    DAY,
    LONGEST_PAUSE,
    PATIENCE,
    Outcome,
    Standing,
    again_at,
    following,
    period_at,
)

BERLIN, KOLKATA, UTC_ZONE = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata"), ZoneInfo("UTC")
MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "every", "zone", "period", "next_one"),
    [
        ("2026-11-24T10:20:45", MINUTE, KOLKATA, "2026-11-24T10:20:00", "2026-11-24T10:21:00"),
        ("2026-11-24T10:20:00", MINUTE, UTC_ZONE, "2026-11-24T10:20:00", "2026-11-24T10:21:00"),
        # A day begins at midnight over there, and has 23 or 25 hours where clocks are changed.
        ("2026-11-24T19:00:00", DAY, KOLKATA, "2026-11-24T18:30:00", "2026-11-25T18:30:00"),
        ("2026-11-24T18:00:00", DAY, KOLKATA, "2026-11-23T18:30:00", "2026-11-24T18:30:00"),
        ("2026-10-25T12:00:00", DAY, BERLIN, "2026-10-24T22:00:00", "2026-10-25T23:00:00"),
        ("2026-03-29T12:00:00", DAY, BERLIN, "2026-03-28T23:00:00", "2026-03-29T22:00:00"),
    ],
)
def test_periods_follow_each_other(
    now: str, every: timedelta, zone: ZoneInfo, period: str, next_one: str
) -> None:
    found = period_at(at(now), every, zone)
    assert found == at(period)
    assert following(found, every, zone) == at(next_one)
    assert period_at(at(next_one), every, zone) == at(next_one)


def test_failures_in_a_row_are_tried_again_later_and_later() -> None:
    now = at("2026-11-24T10:00:00")
    pauses = [again_at(now, attempts) - now for attempts in range(1, 30)]
    assert pauses == sorted(pauses)
    assert pauses[0] == timedelta(seconds=30)
    assert pauses[-1] == LONGEST_PAUSE


NOW = at("2026-11-24T10:00:00")


@pytest.mark.parametrize(
    ("outcome", "next_at", "started_at", "alive", "late"),
    [
        (Outcome.DONE, NOW + MINUTE, NOW - DAY, False, timedelta(0)),
        (Outcome.DONE, NOW - PATIENCE, NOW - DAY, False, timedelta(0)),
        (Outcome.DONE, NOW - timedelta(minutes=6), NOW - DAY, False, timedelta(minutes=6)),
        (Outcome.WAITING, NOW - DAY, None, False, DAY),
        # At it for hours, and alive.
        (Outcome.RUNNING, NOW - DAY, NOW - DAY, True, timedelta(0)),
        # Whoever was at it died; the next period has not come yet.
        (Outcome.RUNNING, NOW + DAY, NOW - 9 * MINUTE, False, 9 * MINUTE),
    ],
)
def test_who_is_late(
    outcome: Outcome, next_at: datetime, started_at: datetime | None, alive: bool, late: timedelta
) -> None:
    standing = Standing(
        "due", "demo", MINUTE, next_at, outcome, None, None, 1, started_at, None, "", "", "", alive
    )
    assert standing.late(NOW) == late
