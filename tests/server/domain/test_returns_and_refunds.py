"""What is undone of purchases and redemptions, with numbers that one can check by hand."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from server.domain.lots import LotTerms
from server.domain.program import Clawback
from tests.support.desk import BEN, START, THREE_DAYS, Desk, expiring, refused

# Returns.


def test_the_last_unit_that_comes_back_takes_exactly_the_rest() -> None:
    desk = Desk()
    bought = desk.buys(("cup", 3, 10))  # 10 points for 3 units
    assert desk.returns(bought, ("cup", 2)).points == 6  # floor(10 x 2 / 3)
    assert desk.returns(bought, ("cup", 1)).points == 4
    assert desk.wallet().balance == desk.wallet().lifetime == 0
    assert refused(desk.returns, bought, ("cup", 1)) == "RETURN_EXCEEDS_PURCHASE"
    assert refused(desk.returns, bought) == "RETURN_EXCEEDS_PURCHASE"


@given(some.lists(some.integers(1, 4), min_size=1, max_size=5), some.integers(0, 100), some.randoms())
def test_the_split_of_a_return_and_its_order_make_no_difference(
    quantities: list[int], rupees: int, source: Any
) -> None:
    desk = Desk()
    basket = [(f"sku-{n}", quantity, rupees * n) for n, quantity in enumerate(quantities)]
    bought = desk.buys(*basket)
    units = [sku for sku, quantity, _ in basket for _ in range(quantity)]
    source.shuffle(units)
    assert sum(desk.returns(bought, (sku, 1)).points for sku in units) == bought.points
    assert (desk.wallet().balance, desk.wallet().debt, desk.lots()) == (0, 0, [])


def test_a_return_without_a_purchase_finds_the_latest_that_still_has_the_goods() -> None:
    desk = Desk()
    first = desk.buys(("cup", 2, 20))
    desk.later(days=1)
    second = desk.buys(("cup", 1, 14), ("pen", 1, 3))
    told = desk.returns(None, ("cup", 2), ("hat", 1))
    assert told.points == 24  # 14 for the later one, 10 for one of the two before
    assert [(line.event_id, line.quantity) for line in told.lines] == [
        (second.event_id, 1),
        (first.event_id, 1),
    ]
    assert [(item.sku, item.quantity) for item in told.unmatched] == [("hat", 1)]


def test_a_return_is_never_matched_to_what_was_bought_afterwards_or_by_others() -> None:
    desk = Desk()
    desk.buys(("cup", 1, 20), who=BEN)
    told = desk.returns(None, ("cup", 1))
    assert (told.points, [item.sku for item in told.unmatched]) == (0, ["cup"])


def test_a_purchase_of_another_member_is_not_found() -> None:
    desk = Desk()
    bought = desk.buys(("cup", 1, 20), who=BEN)
    assert refused(desk.returns, bought) == "PURCHASE_NOT_FOUND"


def test_points_that_are_spent_are_owed_and_paid_first() -> None:
    desk = Desk()
    bought = desk.buys(("cup", 1, 20))
    desk.spends(15)
    told = desk.returns(bought)
    assert (told.points, told.balance, told.debt) == (20, 0, 15)
    desk.buys(("pen", 1, 6))
    assert (desk.wallet().balance, desk.wallet().debt) == (0, 9)
    desk.buys(("pen", 1, 10))
    assert (desk.wallet().balance, desk.wallet().debt) == (1, 0)


def test_only_what_is_there_is_taken_and_the_rest_recorded() -> None:
    desk = Desk(clawback=Clawback.WITHIN_BALANCE)
    bought = desk.buys(("cup", 1, 20))
    desk.spends(15)
    told = desk.returns(bought)
    assert (told.points, told.shortfall, told.debt) == (5, 15, 0)
    assert desk.wallet().lifetime == 0


def test_a_return_of_what_is_spent_may_be_refused() -> None:
    desk = Desk(clawback=Clawback.REFUSE)
    bought = desk.buys(("cup", 1, 20))
    desk.spends(15)
    assert refused(desk.returns, bought) == "POINTS_ALREADY_SPENT"
    assert (desk.wallet().balance, desk.wallet().lifetime) == (5, 20)


@pytest.mark.parametrize("clawback", [Clawback.ALLOW_DEBT, Clawback.WITHIN_BALANCE])
def test_a_return_leaves_what_is_held_alone_and_its_release_pays_the_debt(clawback: Clawback) -> None:
    desk = Desk(clawback=clawback)
    bought = desk.buys(("cup", 1, 20))
    hold = desk.holds(15)
    told = desk.returns(bought)
    assert (told.balance, told.debt, desk.wallet().held) == (0, 15, 15)
    desk.voids(hold)
    assert desk.wallet()[1:5] == (0, 0, 0, 0)


def test_a_return_takes_the_purchase_s_own_points_first_also_while_they_are_pending() -> None:
    desk = Desk(lots={"points": LotTerms(pending_days=2)})
    desk.adjusts(5)
    bought = desk.buys(("cup", 2, 20))
    assert desk.returns(bought, ("cup", 1)).points == 10
    assert desk.wallet()[1:3] == (5, 10)


def test_a_return_gives_tier_and_cap_back() -> None:
    rule = {
        "rule": "capped",
        "then": [{"earn": {"points": 1, "per": "1.00"}}],
        "caps": {"member": {"points": 60, "per": "month"}},
    }
    desk = Desk(rules=[(1, rule)])
    bought = desk.buys(("cup", 1, 80))
    assert (bought.points, bought.tier, desk.used()) == (60, "silver", 60)
    assert desk.returns(bought).tier == "bronze"
    assert (desk.member().facts.tier, desk.used()) == ("bronze", 0)
    assert desk.buys(("cup", 1, 80)).points == 60


# Refunds.


def test_refunded_points_keep_their_own_expiry() -> None:
    desk = Desk(lots={"points": THREE_DAYS})
    desk.buys(("book", 1, 10))
    spent = desk.spends(6)
    desk.later(days=1)
    assert desk.refunds(spent).balance == 10
    desk.later(days=3)
    assert desk.wallet().balance == 0


def test_what_expired_meanwhile_gets_the_grace_period() -> None:
    desk = Desk(lots={"points": THREE_DAYS}, refund_grace_days=2)
    desk.buys(("book", 1, 10))
    spent = desk.spends(6)
    desk.later(days=30)
    assert desk.refunds(spent).balance == 6
    desk.later(days=2)
    assert desk.wallet().balance == 0


@pytest.mark.parametrize(("days", "left"), [(4, 6), (5, 0)])
def test_activity_revives_no_rolling_points_that_were_too_old_for_it_when_they_were_spent(
    days: int, left: int
) -> None:
    desk = Desk(lots=expiring(rolling_days=5), refund_grace_days=2)
    desk.buys(("book", 1, 6))
    spent = desk.spends(6)
    desk.later(days=days)
    desk.buys(("cup", 1, 1))
    desk.later(days=1)
    assert desk.refunds(spent).balance == 7
    desk.later(days=2)
    assert desk.wallet().balance == left + 1


def test_a_purchase_that_comes_to_be_known_later_ends_the_idle_time_no_sooner() -> None:
    desk = Desk(lots=expiring(rolling_days=5), refund_grace_days=1)
    desk.buys(("book", 1, 6))
    spent = desk.spends(6)
    desk.later(days=6)
    desk.buys(("cup", 1, 1), days_ago=3)
    assert desk.refunds(spent).balance == 7
    desk.later(days=1)
    assert desk.lots() == [1]


def test_no_more_is_refunded_than_was_spent_in_however_many_parts() -> None:
    desk = Desk()
    desk.buys(("book", 1, 10))
    spent = desk.spends(6)
    assert desk.refunds(spent, 4).points == 4
    assert refused(desk.refunds, spent, 3) == "REFUND_EXCEEDS_REDEMPTION"
    assert desk.refunds(spent).points == 2
    assert refused(desk.refunds, spent) == "REFUND_EXCEEDS_REDEMPTION"
    assert desk.wallet().balance == 10


@given(some.lists(some.integers(1, 9), min_size=1, max_size=6))
def test_the_split_of_a_refund_makes_no_difference(parts: list[int]) -> None:
    whole, split = Desk(), Desk()
    for desk in (whole, split):
        for day in range(len(parts)):
            desk.adjusts(11, expires_at=START + timedelta(days=9 - day))
    spent = [desk.spends(sum(parts)) for desk in (whole, split)]
    for desk in (whole, split):
        desk.later(days=6)
    whole.refunds(spent[0])
    for part in parts:
        split.refunds(spent[1], part)
    assert whole.wallet().balance == split.wallet().balance
    for desk in (whole, split):
        desk.later(days=2)
    assert whole.wallet().balance == split.wallet().balance


def test_a_refund_pays_a_debt_first() -> None:
    desk = Desk()
    bought = desk.buys(("cup", 1, 20))
    spent = desk.spends(15)
    desk.returns(bought)
    told = desk.refunds(spent)
    assert (told.points, told.balance, told.debt) == (15, 0, 0)


@given(
    some.sampled_from(Clawback),
    some.integers(1, 60),
    some.integers(1, 60),
    some.integers(1, 60),
    some.integers(0, 40),
)
def test_a_return_before_the_refund_of_what_was_spent_costs_its_shortfall_and_no_more(
    clawback: Clawback, earned: int, spent: int, refunded: int, other: int
) -> None:
    spent = min(spent, earned + other)
    refunded = min(refunded, spent)

    def ends(*, refund_first: bool) -> tuple[int, int]:
        """What the member has net, and what the return could not take."""
        desk = Desk(clawback=clawback)
        if other:
            desk.buys(("tea", 1, other))
        bought = desk.buys(("book", 1, earned))
        redeemed = desk.spends(spent)
        if refund_first:
            desk.refunds(redeemed, refunded)
        short = desk.returns(bought).shortfall
        if not refund_first:
            desk.refunds(redeemed, refunded)
        return desk.wallet().balance - desk.wallet().debt, short

    if clawback is Clawback.REFUSE and earned + other - spent < earned:
        return  # the goods come back once the redemption is undone
    (before, unpaid), (after, written_off) = ends(refund_first=True), ends(refund_first=False)
    # A debt is paid by whatever comes in. What the program bears is borne for good.
    assert after - before == written_off - unpaid
    assert 0 <= written_off - unpaid <= refunded
    if clawback is Clawback.ALLOW_DEBT:
        assert written_off == 0


def test_a_capture_can_be_refunded() -> None:
    desk = Desk()
    desk.buys(("book", 1, 10))
    assert desk.refunds(desk.captures(desk.holds(7), 5)).balance == 10
