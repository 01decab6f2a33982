"""Rate limits: how many calls a subject may make, by the generic cell rate algorithm.

A limit is a rate and a burst. All that has to be remembered of a subject is one time,
its *theoretical arrival time* (``tat``): how far that lies ahead of now says how much of
the burst is used up. Times and spans are whole microseconds.

Processes share a subject's ``tat`` without asking about every call. Each keeps an
``Allowance``: it lets a few calls through on credit, the limit's ``slack`` at most, and
settles now and then, which charges them to the ``tat`` and tells how much room is left.
In any span of ``t`` seconds N processes together let through no more than
``burst + rate * t + N * slack`` calls, one process alone no more than ``burst + rate * t``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

SECOND = 1_000_000
# The credit of one process, as a part of the burst.
SLACK_PART = 10
MAX_RATE = SECOND
MAX_BURST = 10_000_000
# What a tat further ahead than that stems from is a clock that was put back.
MOST_BURSTS_AHEAD = 3

_WORD = re.compile(r"([a-z]+)=(\d+(?:\.\d+)?):(\d+)")


class RateClass(StrEnum):
    """The kinds of calls that share a limit, as in access.proto."""

    READ = "read"
    WRITE = "write"
    REDEEM = "redeem"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Limit:
    """``rate`` calls a second in the long run, ``burst`` at once."""

    rate: float
    burst: int
    # What one call costs, in microseconds.
    interval: int = field(init=False)
    # How many calls a process may let through before it has settled them.
    slack: int = field(init=False)
    # So many unsettled calls are worth settling.
    due: int = field(init=False)
    # For how many calls a refused subject is let wait.
    step: int = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.rate <= MAX_RATE or not 1 <= self.burst <= MAX_BURST:
            raise ValueError(
                f"a rate is above 0 and at most {MAX_RATE:,}, a burst from 1 to {MAX_BURST:,} calls"
            )
        slack = max(1, self.burst // SLACK_PART)
        interval = max(1, round(SECOND / self.rate))
        for name, value in (
            ("interval", interval),
            ("slack", slack),
            ("due", max(1, slack // 2)),
            ("step", max(1, min(slack // 2, SECOND // interval))),
        ):
            object.__setattr__(self, name, value)

    def charge(self, tat: int, now: int, used: int, known: int = 0) -> int:
        """The tat after so many calls. ``known``: it was at least that far ahead of now, as others saw it."""
        ahead = min(max(tat - now, known, 0), MOST_BURSTS_AHEAD * self.burst * self.interval)
        return now + ahead + used * self.interval

    def room(self, ahead: int) -> int:
        """How many calls fit when the tat is that far ahead of now; below 0 after too many."""
        return self.burst + -ahead // self.interval


class Allowance:
    """What one process may let through for one subject, and what it has not settled yet."""

    __slots__ = ("left", "limit", "opens_at", "owed", "tat")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        # How many more, without settling first.
        self.left = limit.slack
        # How many since the last settlement.
        self.owed = 0
        # As far as this process knows, by its own clock.
        self.tat = 0
        # With nothing left: when there may be again. 0 if only settling can tell.
        self.opens_at = 0

    def take(self, now: int) -> bool:
        """Let one call through, if that is possible without settling."""
        if not self.left and 0 < self.opens_at <= now:
            self.opens_at = 0
            self.left = self.limit.step
        if not self.left:
            return False
        self.left -= 1
        self.owed += 1
        return True

    def wait(self, now: int) -> int:
        """Microseconds until a refused caller may come again; 0 if that isn't known without settling."""
        return 0 if self.left else max(0, self.opens_at - now)

    def settled(self, ahead: int, charged: int, now: int) -> None:
        """So many calls have been charged; the tat was then that far ahead of ``now``."""
        limit = self.limit
        self.tat = now + ahead
        self.owed -= charged
        room = limit.room(ahead) - self.owed
        self.left = max(0, min(room, limit.slack - self.owed))
        # Who waits for one call only comes back for each; so all wait for a few.
        due = self.tat + (self.owed + limit.step - limit.burst) * limit.interval
        self.opens_at = 0 if room > 0 else max(due, now + 1)

    def settle_alone(self, now: int) -> None:
        """Charge what is owed as if there were no other process."""
        tat = self.limit.charge(self.tat, now, self.owed)
        self.settled(tat - now, self.owed, now)


def read_limits(text: str) -> Mapping[RateClass, Limit]:
    """The limits in ``read=50:500 redeem=5:60``: calls a second, and calls at once; classes may be missing.

    Raises ValueError with what is wrong.
    """
    limits: dict[RateClass, Limit] = {}
    for word in text.split():
        name, rate, burst = _parts(word)
        if name not in RateClass.__members__.values() or RateClass(name) in limits:
            raise ValueError(f"each of {', '.join(RateClass)} may stand there once, and nothing else")
        limits[RateClass(name)] = Limit(float(rate), int(burst))
    return limits


def read_limit(text: str) -> Limit | None:
    """The limit in ``50:500``; None for an empty text. Raises ValueError with what is wrong."""
    if not text.strip():
        return None
    _, rate, burst = _parts(f"any={text.strip()}")
    return Limit(float(rate), int(burst))


def _parts(word: str) -> tuple[str, str, str]:
    found = _WORD.fullmatch(word)
    if found is None:
        raise ValueError("a limit reads RATE:BURST, such as 50:500 for 50 calls a second and 500 at once")
    return found[1], found[2], found[3]
