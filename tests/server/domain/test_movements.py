"""What points do until they are spent: they wait, expire, are held, handed on and put right by hand.

One behaviour each, with numbers that one can check by hand.
"""

from datetime import timedelta
from uuid import UUID

import pytest

from server.domain.ledger import MAX_WALLET, Kind
from server.domain.lots import LotTerms
from tests.support.desk import ANN, BEN, START, THREE_DAYS, Desk, expiring, refused

# Lots: when their points can be spent, and until when.


def test_points_expire_at_the_end_of_the_day_in_the_zone_of_the_program() -> None:
    desk = Desk(lots=expiring(days=1))
    desk.buys(("book", 1, 10))
    desk.later(hours=24 + 6, minutes=29)  # 23:59 of the next day in Kolkata
    assert desk.wallet().balance == 10
    desk.later(minutes=1)
    assert desk.wallet().balance == 0


@pytest.mark.parametrize(
    ("expiry", "days"),
    [({"months": 0}, 8), ({"months": 1}, 39), ({"years": 0}, 39), ({"rolling_days": 5}, 5)],
)
def test_points_live_as_long_as_their_terms_say(expiry: dict[str, int], days: int) -> None:
    desk = Desk(lots=expiring(**expiry))
    desk.buys(("book", 1, 10))  # on 23 November, at 17:30 in Kolkata
    desk.later(days=days - 1)
    assert desk.wallet().balance == 10
    desk.later(days=1)
    assert desk.wallet().balance == 0


def test_rolling_points_live_on_with_each_purchase() -> None:
    desk = Desk(lots=expiring(rolling_days=5))
    desk.buys(("book", 1, 10))
    for _ in range(3):
        desk.later(days=4)
        desk.buys(("book", 1, 1))
    assert desk.wallet().balance == 13
    desk.later(days=5)
    assert desk.wallet().balance == 0


def test_pending_points_can_be_spent_when_their_day_begins() -> None:
    desk = Desk(lots={"points": LotTerms(pending_days=2)})
    desk.buys(("book", 1, 10))
    assert desk.wallet()[1:3] == (0, 10)
    assert refused(desk.spends, 1) == "INSUFFICIENT_POINTS"
    desk.later(hours=24 + 6, minutes=30)
    desk.spends(4)
    assert desk.wallet()[1:3] == (6, 0)
    assert desk.kinds() == [Kind.EARN, Kind.ACTIVATE, Kind.REDEEM]


def test_points_wait_for_an_event() -> None:
    desk = Desk(lots={"points": LotTerms(activates_on="VISIT")})
    desk.buys(("book", 1, 10))
    desk.later(days=300)
    assert desk.wallet().pending == 10
    desk.visits()
    assert desk.wallet().balance == 10


def test_what_expires_first_is_spent_first() -> None:
    desk = Desk()
    desk.adjusts(5, expires_at=START + timedelta(days=9))
    desk.adjusts(5, expires_at=START + timedelta(days=3))
    desk.adjusts(5)
    desk.spends(7)
    assert desk.lots() == [3, 5]


def test_points_that_had_expired_before_the_till_told_of_them_expire_at_once() -> None:
    desk = Desk(lots=expiring(days=1))
    told = desk.buys(("book", 1, 10), days_ago=5)
    assert (told.points, told.balance) == (10, 0)
    assert desk.kinds() == [Kind.EARN, Kind.EXPIRE]


def test_it_makes_no_difference_whether_anybody_looked_in_between() -> None:
    often, once = Desk(lots={"points": THREE_DAYS}), Desk(lots={"points": THREE_DAYS})
    for desk in (often, once):
        desk.buys(("book", 1, 10))
        desk.holds(4, seconds=3600)
        for _ in range(6):
            desk.later(days=1)
            if desk is often:
                desk.adjusts(1)
    often.adjusts(-4)  # the ones of the last four days
    assert often.wallet().balance == once.wallet().balance == 0
    assert often.wallet().lifetime == once.wallet().lifetime == 10


# Holds.


def test_what_is_held_cannot_be_spent_by_anybody_else() -> None:
    desk = Desk()
    desk.buys(("book", 1, 10))
    hold = desk.holds(7)
    assert refused(desk.spends, 4) == "INSUFFICIENT_POINTS"
    assert refused(desk.holds, 4) == "INSUFFICIENT_POINTS"
    assert refused(desk.hands, 4) == "INSUFFICIENT_POINTS"
    desk.spends(3)
    desk.captures(hold)
    assert desk.wallet()[1:4] == (0, 0, 0)


def test_capturing_a_part_gives_the_rest_back() -> None:
    desk = Desk()
    desk.buys(("book", 1, 10))
    hold = desk.holds(7)
    told = desk.captures(hold, 5)
    assert told.hold is not None
    assert (told.points, told.balance, told.hold.open_points) == (5, 5, 0)
    assert refused(desk.captures, hold) == "HOLD_NOT_OPEN"


def test_a_hold_may_be_captured_in_parts() -> None:
    desk = Desk()
    desk.buys(("book", 1, 10))
    hold = desk.holds(7)
    desk.captures(hold, 5, keep_rest=True)
    assert desk.wallet()[1:4] == (3, 0, 2)
    assert refused(desk.captures, hold, 3) == "HOLD_EXCEEDED"
    desk.captures(hold, 2)
    assert desk.wallet()[1:4] == (3, 0, 0)


def test_a_voided_hold_gives_all_back_and_is_over() -> None:
    desk = Desk()
    desk.buys(("book", 1, 10))
    hold = desk.holds(7)
    desk.voids(hold)
    assert desk.wallet()[1:4] == (10, 0, 0)
    assert refused(desk.captures, hold) == refused(desk.voids, hold) == "HOLD_NOT_OPEN"


def test_a_hold_ends_at_its_time_limit() -> None:
    desk = Desk()
    desk.buys(("book", 1, 10))
    hold = desk.holds(7, seconds=60)
    desk.later(seconds=59)
    assert desk.wallet().held == 7
    desk.later(seconds=1)
    assert desk.wallet().balance == 10
    assert refused(desk.captures, hold) == "HOLD_NOT_OPEN"
    assert refused(desk.holds, 1, seconds=desk.program.ledger.max_hold_seconds + 1) == "INVALID_FIELD"


def test_held_points_expire_when_they_are_released() -> None:
    desk = Desk(lots={"points": THREE_DAYS})
    desk.buys(("book", 1, 10))
    hold = desk.holds(7, seconds=10 * 24 * 3600)
    desk.later(days=5)
    assert desk.wallet()[1:4] == (0, 0, 7)
    told = desk.captures(hold, 5)
    assert told.balance == 0
    assert desk.kinds() == [Kind.EARN, Kind.HOLD, Kind.EXPIRE, Kind.CAPTURE, Kind.RELEASE, Kind.EXPIRE]


def test_a_hold_of_nobody_is_not_found() -> None:
    assert refused(Desk().voids, UUID(int=5)) == "HOLD_NOT_FOUND"


# Transfers.


def test_points_that_are_handed_on_keep_their_expiry() -> None:
    desk = Desk(lots={"points": THREE_DAYS})
    desk.buys(("book", 1, 10))
    desk.later(days=2)
    desk.hands(4)
    assert (desk.wallet(ANN).balance, desk.wallet(BEN).balance) == (6, 4)
    desk.later(days=2)
    assert (desk.wallet(ANN).balance, desk.wallet(BEN).balance) == (0, 0)


def test_points_that_are_handed_on_count_for_nobody_s_tier() -> None:
    desk = Desk()
    desk.buys(("book", 1, 60))
    desk.hands(60)
    assert (desk.wallet(ANN).lifetime, desk.wallet(BEN).lifetime) == (60, 0)
    assert (desk.member(ANN).facts.tier, desk.member(BEN).facts.tier) == ("silver", "bronze")


def test_points_that_are_handed_on_pay_a_debt_first() -> None:
    desk = Desk()
    bought = desk.buys(("cup", 1, 20), who=BEN)
    desk.spends(20, who=BEN)
    desk.returns(bought, who=BEN)
    desk.buys(("book", 1, 50))
    desk.hands(30)
    assert (desk.wallet(BEN).balance, desk.wallet(BEN).debt) == (10, 0)


def test_nobody_hands_points_to_themselves_or_more_than_they_have_or_may() -> None:
    desk = Desk(transfer_points=8)
    desk.buys(("book", 1, 7))
    assert refused(desk.hands, 3, to=ANN) == "INVALID_FIELD"
    assert refused(desk.hands, 8) == "INSUFFICIENT_POINTS"
    assert refused(desk.hands, 9) == "TRANSFER_LIMIT"
    assert refused(desk.hands, 1, to=UUID(int=99)) == "MEMBER_NOT_FOUND"
    assert (desk.wallet(ANN).balance, desk.wallet(BEN).balance) == (7, 0)


# Adjustments.


def test_large_adjustments_take_a_second_person() -> None:
    desk = Desk(approval_points=10)
    desk.adjusts(10)
    asked = desk.adjusts(11)
    assert (asked.awards, asked.balance, desk.lots()) == ((), 10, [10])
    assert refused(desk.approves, asked, by="desk") == "APPROVAL_REQUIRED"
    assert desk.approves(asked, by="Zoe").balance == 21
    assert refused(desk.approves, asked, by="Zoe") == "ADJUSTMENT_NOT_PENDING"


def test_an_adjustment_takes_out_no_more_than_there_is_and_is_no_earning() -> None:
    desk = Desk()
    desk.adjusts(60)
    assert refused(desk.adjusts, -61) == "INSUFFICIENT_POINTS"
    assert desk.adjusts(-20).balance == 40
    assert (desk.wallet().lifetime, desk.member().facts.tier) == (0, "bronze")


def test_no_wallet_holds_more_than_its_limit() -> None:
    desk = Desk(approval_points=MAX_WALLET)
    desk.adjusts(MAX_WALLET)
    desk.holds(10)
    assert refused(desk.adjusts, 1) == "WALLET_LIMIT"
    desk.adjusts(-1)
    desk.adjusts(1)
