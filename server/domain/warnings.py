"""Forewarning: members are told some days ahead that points of theirs will expire.

By days of the program's calendar: points that expire on a day are told of together, once for
each lead time, from midnight on that lies so many days before. A pass over the members covers
all days since the last whole pass, so that no warning is lost while nothing runs.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from server.domain.books import MemberState, Terms
from server.domain.due import as_due
from server.domain.events import PointsExpiring
from server.domain.lots import expiry_of, midnight
from server.domain.program import Program


class Window(NamedTuple):
    """Points that expire from ``first`` to ``last`` are told of as ``days_ahead`` days ahead."""

    days_ahead: int
    first: date
    last: date


class Warned(NamedTuple):
    """What a member was told: of points of one wallet, the day on which they expire, and how long ahead."""

    point_type: str
    expires_on: date
    days_ahead: int


def windows(program: Program, warned_on: date | None, today: date) -> tuple[Window, ...]:
    """What a pass of ``today`` tells, the shortest lead time first; nothing if today's is out.

    ``warned_on``: the day of the last whole pass. Without one everything is told that expires within the
    longest lead time.
    """
    ahead = sorted(set(program.ledger.warn_days))
    if not ahead or (warned_on is not None and warned_on >= today):
        return ()
    since = (warned_on or today - timedelta(days=ahead[-1])) + timedelta(days=1)
    return tuple(
        Window(days, max(today, since + timedelta(days=days)), today + timedelta(days=days)) for days in ahead
    )


def spans(program: Program, wanted: Sequence[Window]) -> list[tuple[datetime, datetime]]:
    """The windows as moments, each from the first to before the second."""
    return [(midnight(w.first, 0, program.zone), midnight(w.last, 1, program.zone)) for w in wanted]


def warnings(
    member_id: UUID,
    member: MemberState,
    wanted: Sequence[Window],
    told: Collection[Warned],
    terms: Terms,
) -> list[PointsExpiring]:
    """What the member is to be told now. ``told`` is what it has been; ``member`` has all open lots.

    Only points that can be spent count: neither pending nor held ones. Of several lead times that a
    long pause has brought together the shortest is told.
    """
    if member.status == "closed":
        return []
    program, now = terms.program, terms.now
    return [
        PointsExpiring(
            event_id=terms.new_id(),
            program_id=program.program_id,
            member_id=member_id,
            occurred_at=now,
            recorded_at=now,
            point_type=point_type,
            points=points,
            expires_at=first,
            expires_on=day,
            days_ahead=days_ahead,
        )
        for (point_type, day), (points, first) in _expiring(member_id, member, program, now).items()
        if (days_ahead := next((w.days_ahead for w in wanted if w.first <= day <= w.last), 0))
        and Warned(point_type, day, days_ahead) not in told
    ]


def _expiring(
    member_id: UUID, member: MemberState, program: Program, now: datetime
) -> Mapping[tuple[str, date], tuple[int, datetime]]:
    """Spendable points by wallet and day of expiry, with the first moment of that day at which any expire."""
    found: defaultdict[tuple[str, date], list[tuple[int, datetime]]] = defaultdict(list)
    member = as_due(member_id, member, program, now)
    for lot in member.lots.values():
        moment = expiry_of(lot, member.wallet(lot.point_type).active_at)
        if lot.active and lot.remaining > lot.held and moment is not None and moment > now:
            found[lot.point_type, program.business_date(moment)].append((lot.remaining - lot.held, moment))
    return {
        key: (sum(points for points, _ in lots), min(moment for _, moment in lots))
        for key, lots in sorted(found.items())
    }
