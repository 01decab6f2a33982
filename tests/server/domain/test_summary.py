"""A summary says of a member what the member says, also after it was written down and read."""

from datetime import timedelta

from server.domain.lots import Expiry, LotTerms, Until
from server.domain.outlook import outlook
from server.domain.summary import Summary, dump, load, summary_of
from tests.support.desk import ANN, START, Desk

TERMS = {"points": LotTerms(pending_days=3, expiry=Expiry(Until.DAYS, 10))}


def kept(desk: Desk) -> Summary:
    """The summary of Ann that somebody reads who was not there."""
    return load(dump(summary_of(desk.member(ANN))))


def test_what_is_read_is_what_the_member_has() -> None:
    desk = Desk(lots=TERMS)
    for day in range(15):  # more expiries than an outlook lists
        desk.buys(("a", 1, 10 + day))
        desk.later(hours=7)
    desk.later(days=4)
    desk.buys(("a", 1, 100))
    desk.holds(20, seconds=3600)
    desk.spends(5)
    member, summary = desk.member(ANN), kept(desk)
    assert (summary.version, summary.tier) == (member.version, member.facts.tier)
    assert summary.lifetime == member.facts.lifetime > 0
    wallet, coming = summary.wallet("points")
    shown = member.wallet("points")
    assert wallet[:6] == shown[:6]
    assert coming == outlook(member, "points")
    assert coming.expiring
    assert coming.activating


def test_it_holds_until_something_falls_due() -> None:
    desk = Desk(lots=TERMS)
    desk.buys(("a", 1, 10))
    summary = kept(desk)
    moment = desk.wallet().next_due
    assert moment is not None
    assert summary.next_due == moment
    assert summary.holds_at(moment - timedelta(microseconds=1))
    assert not summary.holds_at(moment)
    assert kept(Desk()).holds_at(START + timedelta(days=10_000))


def test_a_wallet_that_was_never_touched_is_empty() -> None:
    wallet, coming = kept(Desk()).wallet("points")
    assert (wallet.point_type, wallet.balance, coming.never_expiring) == ("points", 0, 0)
