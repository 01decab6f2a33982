from datetime import UTC, date, datetime

import pytest
from uuid_utils.compat import uuid7

from server.domain.birthdays import MOST_DAYS_LATE, agreed, birthday_among, days_since
from server.domain.members import Consent

TODAY = date(2026, 11, 24)


@pytest.mark.parametrize(
    ("since", "first", "number"),
    [
        (None, TODAY, 1),
        (TODAY, TODAY, 1),
        (date(2026, 11, 23), TODAY, 1),
        (date(2026, 11, 20), date(2026, 11, 21), 4),
        (date(2025, 1, 1), date(2026, 11, 17), MOST_DAYS_LATE + 1),
        # A clock that was put back.
        (date(2027, 1, 1), TODAY, 1),
    ],
)
def test_a_pause_is_made_up_for_within_a_week(since: date | None, first: date, number: int) -> None:
    days = days_since(since, TODAY)
    assert (days[0], days[-1], len(days)) == (first, TODAY, number)


@pytest.mark.parametrize(
    ("born", "day", "is_birthday"),
    [
        ("1990-11-24", "2026-11-24", True),
        ("1990-11-24", "2026-11-25", False),
        ("1990-10-24", "2026-11-24", False),
        ("2026-11-24", "2026-11-24", False),
        ("1992-02-29", "2028-02-29", True),
        ("1992-02-29", "2028-02-28", False),
        ("1992-02-29", "2027-02-28", True),
        ("1992-02-28", "2028-02-28", True),
        ("1992-03-01", "2027-03-01", True),
    ],
)
def test_whose_birthday_it_is(born: str, day: str, is_birthday: bool) -> None:
    found = birthday_among(date.fromisoformat(born), [date.fromisoformat(day)])
    assert (found is not None) == is_birthday


def consent(purpose: str, granted: bool) -> Consent:
    return Consent(uuid7(), purpose, granted, "1", "web", datetime.now(UTC), "staff:ann")


@pytest.mark.parametrize(
    ("decisions", "wanted"),
    [
        ({}, False),
        ({"marketing": False}, False),
        ({"profiling": True}, False),
        ({"marketing": True}, True),
        ({"marketing": False, "marketing.email": True}, True),
    ],
)
def test_only_who_agreed_on_some_channel(decisions: dict[str, bool], wanted: bool) -> None:
    assert agreed({p: consent(p, granted) for p, granted in decisions.items()}) is wanted
