"""What time will do to a wallet: which of its points expire when, and when pending ones can be spent."""

from datetime import datetime
from typing import NamedTuple

from server.domain.books import MemberState
from server.domain.lots import expiry_of

MOST = 12  # of each list; what comes after is one sum


class Expiring(NamedTuple):
    """Points of the balance that expire at one moment."""

    points: int
    expires_at: datetime


class Activating(NamedTuple):
    """Pending points that can be spent from a moment on, or with an event, or with what comes first."""

    points: int
    activates_at: datetime | None
    activates_on: str


class Outlook(NamedTuple):
    """The next changes, soonest first.

    What expires, expires later and never expires is the balance; what activates and activates later is what
    is pending. Held points are in neither: whether they are spent or come back is not a question of time.
    """

    expiring: tuple[Expiring, ...] = ()
    expiring_later: int = 0
    never_expiring: int = 0
    activating: tuple[Activating, ...] = ()
    activating_later: int = 0


def outlook(member: MemberState, point_type: str) -> Outlook:
    """The outlook of a wallet in which nothing is overdue.

    ``member`` has all open lots of the wallet, unless nothing ever falls due in it and nothing is pending.
    """
    wallet = member.wallet(point_type)
    if wallet.next_due is None and not wallet.pending:
        return Outlook(never_expiring=wallet.balance)
    ends: dict[datetime, int] = {}
    starts: dict[tuple[datetime | None, str], int] = {}
    for lot in member.lots.values():
        if lot.point_type != point_type:
            continue
        if lot.active:
            end = expiry_of(lot, wallet.active_at)
            if end is not None and lot.remaining > lot.held:
                ends[end] = ends.get(end, 0) + lot.remaining - lot.held
        elif lot.remaining:
            start = (lot.activates_at, lot.activates_on)
            starts[start] = starts.get(start, 0) + lot.remaining
    expiring = [Expiring(ends[end], end) for end in sorted(ends)]
    activating = [Activating(starts[start], *start) for start in sorted(starts, key=_by_moment)]
    return Outlook(
        tuple(expiring[:MOST]),
        sum(bucket.points for bucket in expiring[MOST:]),
        wallet.balance - sum(ends.values()),
        tuple(activating[:MOST]),
        sum(bucket.points for bucket in activating[MOST:]),
    )


def _by_moment(start: tuple[datetime | None, str]) -> tuple[bool, float, str]:
    """Those that only wait for an event come last."""
    moment, event_type = start
    return moment is None, 0.0 if moment is None else moment.timestamp(), event_type
