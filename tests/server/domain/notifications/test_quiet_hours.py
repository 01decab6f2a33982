"""When a message that may not wake anybody goes out."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from server.domain.notifications.quiet_hours import NONE, QuietHours

NIGHT = QuietHours(time(21), time(8))
KOLKATA = ZoneInfo("Asia/Kolkata")

ZONES = st.sampled_from(
    # Half hours, a change of half an hour, one at midnight, no change at all, a day that was left out.
    [
        "UTC",
        "Asia/Kolkata",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Santiago",
        "Pacific/Apia",
    ]
).map(ZoneInfo)
CLOCKS = st.times().map(lambda t: t.replace(second=0, microsecond=0))
MOMENTS = st.datetimes(datetime(2011, 12, 25), datetime(2030, 1, 1)).map(lambda m: m.replace(tzinfo=UTC))


def at(hour: int, minute: int = 0, day: int = 24) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=KOLKATA).astimezone(UTC)


def test_a_night_lasts_over_midnight_until_the_morning() -> None:
    assert NIGHT.over(at(20, 59), KOLKATA) == at(20, 59)
    assert NIGHT.over(at(21), KOLKATA) == at(8, day=25)
    assert NIGHT.over(at(3), KOLKATA) == at(8)
    assert NIGHT.over(at(8), KOLKATA) == at(8)


def test_a_rest_at_noon_ends_the_same_day() -> None:
    noon = QuietHours(time(13), time(15))
    assert [noon.over(at(hour), KOLKATA) for hour in (12, 13, 15)] == [at(12), at(15), at(15)]


def test_equal_hours_are_none() -> None:
    assert NONE.over(at(0), KOLKATA) == at(0)


def test_where_clocks_go_back_the_end_is_the_next_that_comes() -> None:
    berlin, hours = ZoneInfo("Europe/Berlin"), QuietHours(time(22), time(2, 30))
    second = datetime(2026, 10, 25, 2, 10, tzinfo=berlin, fold=1)
    assert hours.over(second, berlin) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


@given(CLOCKS, CLOCKS, ZONES, MOMENTS)
def test_what_waits_goes_out_later_the_same_day_or_the_next_and_never_in_quiet_hours(
    begin: time, end: time, zone: ZoneInfo, moment: datetime
) -> None:
    hours = QuietHours(begin, end)
    over = hours.over(moment, zone)
    assert (over == moment) == (not hours.at(moment, zone))
    assert not hours.at(over, zone)
    assert timedelta() <= over - moment <= timedelta(hours=49)
