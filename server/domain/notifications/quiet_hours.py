"""Quiet hours: when no message may wake anybody, on the clock of the member."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From ``begin`` to before ``end`` on the local clock, over midnight too; none if they are equal."""

    begin: time
    end: time

    def at(self, moment: datetime, zone: ZoneInfo) -> bool:
        """Whether it is quiet at that moment there."""
        clock = moment.astimezone(zone).time()
        if self.begin <= self.end:
            return self.begin <= clock < self.end
        return clock >= self.begin or clock < self.end

    def over(self, moment: datetime, zone: ZoneInfo) -> datetime:
        """The moment itself if it isn't quiet then, else when quiet hours end, in UTC.

        Where clocks go forward over the end, that is at most the time that they skip too late.
        """
        if not self.at(moment, zone):
            return moment
        today = moment.astimezone(zone).date()
        ends = (datetime.combine(today + timedelta(days), self.end, zone) for days in range(3))
        # Where clocks go back, a time comes twice; where they skip all that isn't quiet, the next day's end
        # counts. In UTC, since within a zone `>` compares clocks alone.
        moments = (end.replace(fold=fold).astimezone(UTC) for end in ends for fold in (0, 1))
        return next(end for end in moments if end > moment and not self.at(end, zone))


NONE = QuietHours(time(0), time(0))
