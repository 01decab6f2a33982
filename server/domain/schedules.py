"""Schedules: what is done by the clock, once each period."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID
from zoneinfo import ZoneInfo

from server.domain.lots import midnight

DAY = timedelta(days=1)
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
NOBODYS = UUID(int=0)  # the program of what is done for the whole installation
# So long after its time something is late, rather than about to be done.
PATIENCE = timedelta(minutes=5)
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)


class Outcome(StrEnum):
    """How the last run stands."""

    WAITING = "waiting"  # there was none yet
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"  # and will be tried again


@dataclass(frozen=True, slots=True)
class Standing:
    """A schedule as of now. ``program``: its name, "" for the whole installation.

    ``next_at``: when it is done next, or tried again. ``period``: the start of the one last begun,
    ``attempts`` how often it was begun, ``holder`` by whom last. ``done_period``: the start of the last that
    was done, ``did`` what came of it; ``error``: why the last one failed. ``alive``: somebody is at it now.
    """

    name: str
    program: str
    every: timedelta
    next_at: datetime
    outcome: Outcome
    period: datetime | None
    done_period: datetime | None
    attempts: int
    started_at: datetime | None
    ended_at: datetime | None
    did: str
    error: str
    holder: str
    alive: bool

    def late(self, now: datetime) -> timedelta:
        """How long it has waited beyond its time; zero if somebody is at it, or has still time to be."""
        since = self.started_at if self.outcome is Outcome.RUNNING else self.next_at
        waited = now - (since or self.next_at)
        return timedelta(0) if self.alive or waited <= PATIENCE else waited


def period_at(now: datetime, every: timedelta, zone: ZoneInfo) -> datetime:
    """The start of the period that ``now`` lies in: for a day the last midnight there."""
    if every == DAY:
        return midnight(now.astimezone(zone).date(), 0, zone)
    since: timedelta = (now - BEGINNING) % every
    return now - since


def following(period: datetime, every: timedelta, zone: ZoneInfo) -> datetime:
    """The start of the next period."""
    if every == DAY:
        return midnight(period.astimezone(zone).date(), 1, zone)
    return period + every


def again_at(now: datetime, attempts: int) -> datetime:
    """When to try again what has failed so often."""
    return now + min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(attempts - 1, 10)))
