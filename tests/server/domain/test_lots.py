"""When points can be spent and when they expire, on the calendars of several places."""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from server.domain.ledger import Lot
from server.domain.lots import Expiry, LotTerms, Until, expiry_of, new_lot

# Half an hour off, changes in spring and autumn, half a hemisphere away, changes at midnight itself.
ZONES = ("Asia/Kolkata", "Europe/London", "America/New_York", "Pacific/Auckland", "America/Havana", "UTC")
MOMENTS = some.datetimes(datetime(2019, 1, 1), datetime(2035, 1, 1), timezones=some.just(UTC))
TICK = timedelta(microseconds=1)


def lot(terms: LotTerms, moment: datetime, zone: str) -> Lot:
    return new_lot(UUID(int=1), "points", UUID(int=2), 10, terms, moment, ZoneInfo(zone))


def last_day(until: Until, number: int, moment: datetime, zone: str) -> date:
    """The last day on which they can be spent there, as the calendar in the shop shows it."""
    expires_at = lot(LotTerms(expiry=Expiry(until, number)), moment, zone).expires_at
    assert expires_at is not None
    first_without = expires_at.astimezone(ZoneInfo(zone)).date()
    last = (expires_at - TICK).astimezone(ZoneInfo(zone)).date()
    assert first_without == last + timedelta(days=1), "it is the moment at which one day becomes the next"
    return last


@given(MOMENTS, some.sampled_from(ZONES), some.integers(0, 800))
def test_days_end_with_the_day_so_many_days_ahead(moment: datetime, zone: str, days: int) -> None:
    today = moment.astimezone(ZoneInfo(zone)).date()
    assert last_day(Until.DAYS, days, moment, zone) == today + timedelta(days=days)


@given(MOMENTS, some.sampled_from(ZONES), some.integers(0, 60))
def test_months_end_with_the_last_day_of_the_month_so_many_ahead(
    moment: datetime, zone: str, months: int
) -> None:
    today = moment.astimezone(ZoneInfo(zone)).date()
    last = last_day(Until.MONTHS, months, moment, zone)
    assert last.day == monthrange(last.year, last.month)[1]
    assert (last.year - today.year) * 12 + last.month - today.month == months


@given(MOMENTS, some.sampled_from(ZONES), some.integers(0, 20))
def test_years_end_on_new_years_eve(moment: datetime, zone: str, years: int) -> None:
    today = moment.astimezone(ZoneInfo(zone)).date()
    assert last_day(Until.YEARS, years, moment, zone) == date(today.year + years, 12, 31)


@given(MOMENTS, some.sampled_from(ZONES), some.integers(1, 400))
def test_pending_days_end_with_the_start_of_a_day(moment: datetime, zone: str, days: int) -> None:
    made = lot(LotTerms(days), moment, zone)
    assert not made.active
    assert made.activates_at is not None
    there = ZoneInfo(zone)
    wanted = moment.astimezone(there).date() + timedelta(days=days)
    assert made.activates_at.astimezone(there).date() == wanted
    assert (made.activates_at - TICK).astimezone(there).date() == wanted - timedelta(days=1)


@pytest.mark.parametrize(
    ("zone", "moment", "expiry", "expires_at"),
    [
        # 23:59 and 00:00 in Mumbai: one day apart, one minute apart.
        ("Asia/Kolkata", "2026-11-23T18:29", Expiry(Until.DAYS, 0), "2026-11-23T18:30"),
        ("Asia/Kolkata", "2026-11-23T18:30", Expiry(Until.DAYS, 0), "2026-11-24T18:30"),
        # The last minute of January in Mumbai is still January in London.
        ("Asia/Kolkata", "2027-01-31T18:29", Expiry(Until.MONTHS, 1), "2027-02-28T18:30"),
        ("Asia/Kolkata", "2027-01-31T18:30", Expiry(Until.MONTHS, 1), "2027-03-31T18:30"),
        ("Europe/London", "2027-01-31T18:30", Expiry(Until.MONTHS, 1), "2027-03-01T00:00"),
        # Leap days.
        ("Europe/London", "2027-01-31T12:00", Expiry(Until.MONTHS, 13), "2028-03-01T00:00"),
        ("Europe/London", "2028-02-29T12:00", Expiry(Until.DAYS, 0), "2028-03-01T00:00"),
        ("Europe/London", "2028-02-29T12:00", Expiry(Until.MONTHS, 12), "2029-03-01T00:00"),
        ("Europe/London", "2028-02-29T12:00", Expiry(Until.YEARS, 1), "2030-01-01T00:00"),
        # Summer time: the day has 23 or 25 hours.
        ("Europe/London", "2026-03-28T12:00", Expiry(Until.DAYS, 1), "2026-03-29T23:00"),
        ("Europe/London", "2026-10-24T12:00", Expiry(Until.DAYS, 1), "2026-10-26T00:00"),
        ("America/New_York", "2026-03-08T02:00", Expiry(Until.DAYS, 1), "2026-03-09T04:00"),
        ("America/New_York", "2026-10-31T16:00", Expiry(Until.DAYS, 1), "2026-11-02T05:00"),
        # In Havana the clocks jump from midnight to one: the day begins with the jump.
        ("America/Havana", "2026-03-07T12:00", Expiry(Until.DAYS, 0), "2026-03-08T05:00"),
        # And go back from one to midnight: the first of the two midnights begins the day.
        ("America/Havana", "2026-10-31T12:00", Expiry(Until.DAYS, 0), "2026-11-01T04:00"),
        # December counts on into the next year.
        ("UTC", "2026-12-31T23:59", Expiry(Until.MONTHS, 0), "2027-01-01T00:00"),
        ("UTC", "2026-12-31T23:59", Expiry(Until.MONTHS, 12), "2028-01-01T00:00"),
    ],
)
def test_ends_of_days_months_and_years(zone: str, moment: str, expiry: Expiry, expires_at: str) -> None:
    made = lot(LotTerms(expiry=expiry), datetime.fromisoformat(moment).replace(tzinfo=UTC), zone)
    assert made.expires_at == datetime.fromisoformat(expires_at).replace(tzinfo=UTC)


@given(MOMENTS, MOMENTS, some.integers(1, 400))
def test_rolling_days_count_from_the_last_activity(earned: datetime, active: datetime, days: int) -> None:
    made = lot(LotTerms(expiry=Expiry(Until.ROLLING_DAYS, days)), earned, "Europe/London")
    assert made.expires_at is None
    assert expiry_of(made, active) == active + timedelta(days=days)
