"""Which days a pass tells of, and what a member is told."""

from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from server.domain.activity import MemberFacts
from server.domain.books import MemberState, Terms
from server.domain.events import PointsExpiring
from server.domain.ledger import Lot, Wallet
from server.domain.program import LedgerTerms, Program
from server.domain.rules.compile import RuleSet
from server.domain.warnings import Warned, Window, spans, warnings, windows

ANN = UUID(int=11)
# 05:30 ahead of UTC: the 24th begins there when it is half past six in the evening of the 23rd.
NOW = datetime(2026, 11, 23, 18, 30, tzinfo=UTC)
TODAY = date(2026, 11, 24)


def program(*warn_days: int) -> Program:
    return Program(UUID(int=1), "demo", "INR", "Asia/Kolkata", ledger=LedgerTerms(warn_days=warn_days))


def lot(number: int, points: int, expires_at: datetime | None, **facts: Any) -> Lot:
    return Lot(
        **{
            "lot_id": UUID(int=number),
            "point_type": "points",
            "transaction_id": UUID(int=100 + number),
            "points": points,
            "remaining": points,
            "expires_at": expires_at,
            **facts,
        }
    )


def told(
    *lots: Lot, status: str = "active", before: set[Warned] | None = None, **wallet: Any
) -> list[PointsExpiring]:
    scheme, ids = program(7, 30), count(1)
    terms = Terms(scheme, RuleSet.compile(scheme, []), 0, NOW, lambda: UUID(int=next(ids)), "", b"-")
    purse = Wallet("points", **{"balance": sum(x.remaining for x in lots if x.active), **wallet})
    facts = MemberFacts("member", NOW)
    member = MemberState(status, facts, 1, {"points": purse}, {x.lot_id: x for x in lots})
    return warnings(ANN, member, windows(scheme, TODAY - timedelta(days=1), TODAY), before or set(), terms)


def figures(*args: Any, **kwargs: Any) -> list[tuple[int, date, int]]:
    return [(w.points, w.expires_on, w.days_ahead) for w in told(*args, **kwargs)]


def midnight(days: int) -> datetime:
    """The beginning of the day so many days after today, there."""
    return NOW + timedelta(days=days)


def test_a_day_has_one_window_for_each_lead_time() -> None:
    yesterday = TODAY - timedelta(days=1)
    week, month = TODAY + timedelta(days=7), TODAY + timedelta(days=30)
    wanted = windows(program(30, 7), yesterday, TODAY)
    assert wanted == (Window(7, week, week), Window(30, month, month))
    assert spans(program(), wanted) == [(midnight(7), midnight(8)), (midnight(30), midnight(31))]


def test_days_without_a_pass_are_made_up_for_as_far_as_they_still_lie_ahead() -> None:
    assert windows(program(7), TODAY - timedelta(days=3), TODAY) == (
        Window(7, TODAY + timedelta(days=5), TODAY + timedelta(days=7)),
    )
    assert windows(program(7), TODAY - timedelta(days=300), TODAY) == (
        Window(7, TODAY, TODAY + timedelta(days=7)),
    )


def test_the_first_pass_tells_all_that_expires_within_the_longest_lead_time() -> None:
    short, long = windows(program(7, 30), None, TODAY)
    assert (short.first, short.last) == (TODAY, TODAY + timedelta(days=7))
    assert (long.first, long.last) == (TODAY + timedelta(days=1), TODAY + timedelta(days=30))


def test_a_day_is_told_once_and_not_at_all_without_lead_times() -> None:
    assert windows(program(7), TODAY, TODAY) == ()
    assert windows(program(7), TODAY + timedelta(days=1), TODAY) == ()
    assert windows(program(), None, TODAY) == ()


def test_points_of_a_day_are_told_together_by_when_the_first_expire() -> None:
    [warning] = told(
        lot(1, 10, midnight(7) + timedelta(hours=3)), lot(2, 5, midnight(7)), lot(3, 9, midnight(8))
    )
    assert (warning.points, warning.expires_at, warning.days_ahead) == (15, midnight(7), 7)
    assert warning.payload() == {
        "point_type": "points",
        "points": 15,
        "expires_at": "2026-11-30T18:30:00+00:00",
        "expires_on": "2026-12-01",
        "days_ahead": 7,
    }


def test_only_what_can_be_spent_is_told() -> None:
    week = TODAY + timedelta(days=7)
    assert figures(lot(1, 10, midnight(7), held=4)) == [(6, week, 7)]
    assert figures(lot(1, 10, midnight(7), held=10)) == []
    assert figures(lot(1, 10, midnight(7), active=False, activates_at=midnight(9))) == []
    assert figures(lot(1, 10, None)) == []
    assert figures(lot(1, 10, midnight(7)), status="suspended") == [(10, week, 7)]
    assert figures(lot(1, 10, midnight(7)), status="closed") == []


def test_what_is_due_counts_as_done() -> None:
    pending = lot(1, 10, midnight(7), active=False, activates_at=NOW)
    assert figures(pending) == []
    assert figures(pending, pending=10, next_due=NOW) == [(10, TODAY + timedelta(days=7), 7)]


def test_rolling_points_expire_from_the_last_activity_on() -> None:
    rolling = lot(1, 10, None, rolling_days=20)
    assert figures(rolling, active_at=NOW - timedelta(days=13)) == [(10, TODAY + timedelta(days=7), 7)]
    assert figures(rolling, active_at=NOW - timedelta(days=12)) == []


def test_what_was_told_is_not_told_again() -> None:
    week = TODAY + timedelta(days=7)
    assert figures(lot(1, 10, midnight(7)), before={Warned("points", week, 7)}) == []
    assert figures(lot(1, 10, midnight(7)), before={Warned("points", week, 30)}) == [(10, week, 7)]
