"""Households in stories that one can check by hand."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from server.domain.commands import CaptureHold, Earn, Merge, Outcome, Redeem, Refund, Transfer, VoidHold
from server.domain.errors import Refused
from server.domain.households import MAX_OPEN_INVITATIONS, MAX_SEATS, Role, pool_id
from server.domain.ledger import Kind, Wallet
from server.domain.lots import Expiry, LotTerms, Until
from server.domain.points_in_words import told
from server.domain.program import Clawback
from tests.support.desk import ANN, BEN
from tests.support.home import CARL, Home

STRANGER = UUID(int=99)


def refused(reason: str, call: Callable[..., Any], *args: Any, **said: Any) -> Refused:
    with pytest.raises(Refused) as raised:
        call(*args, **said)
    assert raised.value.reason == reason, raised.value
    return raised.value


def ten_days(**ledger: Any) -> Home:
    """A home whose points expire ten days after they were earned."""
    return Home(lots={"points": LotTerms(expiry=Expiry(Until.DAYS, 10))}, **ledger)


def test_the_pool_pays_for_whoever_may_spend_the_soonest_to_expire_first() -> None:
    home = ten_days()
    home.joins(BEN)
    home.buys(("TEA", 1, 30))
    home.later(days=3)
    home.buys(("TEA", 1, 50), who=BEN)
    home.gives(50, BEN)
    home.gives(30)
    paid = home.shops(40, BEN)
    assert (paid.member_id, paid.spender_id, paid.balance) == (home.pool, BEN, 40)
    # Ann's expire first, so they went first, though they came in last.
    assert sorted(home.lots(home.pool)) == [40]
    assert home.leaves(BEN).points == 40
    assert home.balances() == (0, 40, 0, 0)


def test_who_may_not_spend_and_who_sits_nowhere_get_nothing_of_the_pool() -> None:
    home = Home()
    home.joins(BEN, may_spend=False)
    home.buys(("TEA", 1, 30))
    home.gives(30)
    refused("SPENDING_NOT_ALLOWED", home.shops, 10, BEN)
    refused("SPENDING_NOT_ALLOWED", home.reserves, 10, BEN)
    refused("HOUSEHOLD_NOT_FOUND", home.shops, 10, CARL)
    refused("INSUFFICIENT_POINTS", home.shops, 31)
    home.changes(BEN, by=ANN, may_spend=True)
    assert home.shops(10, BEN).balance == 20


def test_what_a_contributor_earns_goes_on_to_the_pool_after_their_debt() -> None:
    home = Home(clawback=Clawback.ALLOW_DEBT)
    bought = home.buys(("TEA", 1, 20), who=BEN)
    home.spends(20, BEN)
    home.returns(bought, who=BEN)
    assert home.wallet(BEN).debt == 20
    home.joins(BEN, contributes=True)
    earned = home.buys(("TEA", 1, 50), who=BEN)
    assert (earned.points, earned.balance, earned.shared, earned.household_id) == (50, 0, 30, home.pool)
    assert (home.wallet(BEN).debt, home.wallet(home.pool).balance) == (0, 30)
    # What tiers look at stays with who earned it.
    assert home.wallet(home.pool).lifetime == 0
    assert home.member(BEN).facts.tier == "silver"
    home.changes(BEN, by=BEN, contributes=False)
    assert home.buys(("TEA", 1, 5), who=BEN).shared == 0
    assert home.balances() == (0, 5, 0, 30)


def test_pending_points_wait_in_the_pool_for_an_event_of_who_earned_them() -> None:
    terms = {"lots": {"points": LotTerms(activates_on="VISIT", expiry=Expiry(Until.DAYS, 10))}}
    home = Home(contributes=True, **terms)
    home.joins(BEN, contributes=True)
    home.buys(("TEA", 1, 30))
    home.buys(("TEA", 1, 7), who=BEN)
    assert (home.wallet().pending, home.wallet(home.pool).pending) == (0, 37)
    home.visits(BEN)
    assert (home.wallet(home.pool).balance, home.wallet(home.pool).pending) == (7, 30)
    home.leaves(BEN)
    assert home.balances() == (0, 7, 0, 0)
    home.later(days=12)
    assert (home.wallet(BEN).balance, home.wallet(home.pool).pending) == (0, 0)


def test_what_a_pending_contributor_gave_goes_back_pending() -> None:
    home = Home(lots={"points": LotTerms(pending_days=5)})
    home.joins(BEN, contributes=True)
    home.buys(("TEA", 1, 30), who=BEN)
    home.leaves(BEN)
    assert (home.wallet(BEN).pending, home.wallet(home.pool).pending) == (30, 0)
    home.later(days=5)
    assert home.wallet(BEN).balance == 30


def test_rolling_points_live_on_by_the_activity_in_the_pool() -> None:
    home = Home(lots={"points": LotTerms(expiry=Expiry(Until.ROLLING_DAYS, 10))})
    home.joins(BEN)
    home.buys(("TEA", 1, 30))
    home.gives(30)
    home.later(days=8)
    home.buys(("TEA", 1, 10), who=BEN)
    home.gives(10, BEN)
    home.later(days=8)
    assert home.wallet(home.pool).balance == 40
    home.later(days=3)
    assert home.wallet(home.pool).balance == 0


def test_who_leaves_takes_what_is_left_of_theirs_and_a_hold_keeps_what_it_reserves() -> None:
    home = Home()
    home.joins(BEN)
    home.buys(("TEA", 1, 30))
    home.buys(("TEA", 1, 50), who=BEN)
    home.gives(30)
    home.gives(50, BEN)
    hold_id = home.reserves(40)
    home.leaves(BEN)
    assert home.balances() == (0, 40, 0, 0)
    assert home.wallet(home.pool).held == 40
    home.does(CaptureHold, home.pool, hold_id=hold_id, points=35, spender_id=ANN)
    # What Ben's ten left of: five stay with the pool.
    assert home.balances() == (0, 40, 0, 5)
    home.dissolves()
    assert home.balances() == (5, 40, 0, 0)


def test_a_hold_of_the_pool_that_is_voided_goes_back_to_the_pool() -> None:
    home = Home()
    home.buys(("TEA", 1, 30))
    home.gives(30)
    hold_id = home.reserves(20)
    home.does(VoidHold, home.pool, hold_id=hold_id)
    assert home.balances() == (0, 0, 0, 30)


def test_a_refund_goes_back_to_the_lots_of_the_pool() -> None:
    home = Home()
    home.joins(BEN)
    home.buys(("TEA", 1, 30))
    home.gives(30)
    paid = home.shops(25, BEN)
    home.does(Refund, home.pool, transaction_id=paid.awards[0].transaction_id, points=20)
    assert home.lots(home.pool) == [25]
    home.dissolves()
    assert home.balances() == (25, 0, 0, 0)


@pytest.mark.parametrize(
    ("spent", "own", "left", "owed"),
    [
        (0, 0, 60, 0),  # the purchase's own points are still in the pool
        (20, 0, 40, 0),  # some are spent: Ben's others in the pool stand for them
        (70, 0, 0, 10),  # all but ten of Ben's are spent: Ben owes the rest
        (70, 25, 0, 0),  # or pays with what else they have
    ],
)
def test_goods_that_come_back_take_what_they_earned_out_of_the_pool(
    spent: int, own: int, left: int, owed: int
) -> None:
    home = Home(clawback=Clawback.ALLOW_DEBT)
    home.joins(BEN, contributes=True)
    bought = home.buys(("TEA", 1, 20), who=BEN)
    home.buys(("TEA", 1, 60), who=BEN)
    home.buys(("TEA", 1, 5))
    home.gives(5)
    if own:
        home.changes(BEN, contributes=False)
        home.buys(("TEA", 1, own), who=BEN)
    if spent:
        home.shops(spent)
    back = home.returns(bought, who=BEN)
    assert back.points == 20
    assert home.wallet(home.pool).balance == left + 5
    assert (home.wallet(BEN).debt, home.wallet(BEN).balance) == (owed, max(0, own - 10))
    assert home.wallet(BEN).lifetime == 60 + own


def test_goods_that_come_back_after_their_buyer_left_take_their_own_points() -> None:
    home = Home()
    home.joins(BEN, contributes=True)
    bought = home.buys(("TEA", 1, 20), who=BEN)
    home.buys(("TEA", 1, 60), who=BEN)
    home.leaves(BEN)
    assert home.lots(BEN) == [20, 60]
    home.returns(bought, who=BEN)
    assert home.lots(BEN) == [60]


def test_what_nobody_there_gave_goes_to_the_head_when_the_household_ends() -> None:
    home = Home()
    home.joins(BEN)
    home.joins(CARL)
    for who, rupees in ((ANN, 10), (BEN, 20), (CARL, 30)):
        home.buys(("TEA", 1, rupees), who=who)
        home.gives(rupees, who)
    paid = home.shops(60)
    home.leaves(CARL)
    # Back come Ann's 10, Ben's 20 and Carl's 30, who is gone.
    home.does(Refund, home.pool, transaction_id=paid.awards[0].transaction_id)
    home.dissolves()
    assert home.balances() == (40, 20, 0, 0)
    assert home.seat(ANN) is None
    refused("HOUSEHOLD_NOT_FOUND", home.invites)
    refused("HOUSEHOLD_NOT_FOUND", home.shops, 1)


def test_a_household_with_an_open_hold_does_not_end() -> None:
    home = Home()
    home.buys(("TEA", 1, 30))
    home.gives(30)
    hold_id = home.reserves(10)
    refused("MEMBER_HAS_HOLDS", home.dissolves)
    home.does(VoidHold, home.pool, hold_id=hold_id)
    home.dissolves()
    assert home.balances() == (30, 0, 0, 0)


def test_an_invitation_is_good_for_one_seat_and_for_a_time() -> None:
    home = Home()
    invitation = home.invites(seconds=3600)
    home.joins(BEN, invitation)
    refused("INVITATION_NOT_FOUND", home.joins, CARL, invitation)
    late = home.invites(seconds=3600)
    home.later(hours=1)
    refused("INVITATION_NOT_FOUND", home.joins, CARL, late)
    refused("ALREADY_IN_HOUSEHOLD", home.joins, BEN)
    # Ben's second waits for somebody else.
    for _ in range(MAX_OPEN_INVITATIONS - 1):
        home.invites()
    refused("TOO_MANY_INVITATIONS", home.invites)


def test_a_household_has_so_many_seats_and_no_more() -> None:
    home = Home()
    for number in range(MAX_SEATS - 1):
        guest = UUID(int=100 + number)
        home.adopts(guest)
        home.joins(guest)
    refused("HOUSEHOLD_FULL", home.joins, BEN)
    home.leaves(UUID(int=100))
    home.joins(BEN)


def test_each_may_do_what_their_seat_says() -> None:
    home = Home()
    home.joins(BEN)
    home.joins(CARL)
    refused("HOUSEHOLD_HEAD_ONLY", home.invites, BEN)
    refused("HOUSEHOLD_HEAD_ONLY", home.leaves, CARL, by=BEN)
    refused("HOUSEHOLD_HEAD_ONLY", home.dissolves, BEN)
    refused("HOUSEHOLD_HEAD_ONLY", home.changes, CARL, by=BEN, may_spend=False)
    refused("HOUSEHOLD_HEAD_ONLY", home.changes, BEN, by=BEN, make_head=True)
    refused("HOUSEHOLD_SEAT_ONLY", home.changes, BEN, by=ANN, contributes=True)
    refused("INVALID_FIELD", home.changes, ANN, by=ANN, may_spend=False)
    refused("HOUSEHOLD_NEEDS_HEAD", home.leaves, ANN, by=ANN)
    home.leaves(CARL, by=ANN)
    for asked in (home.invites, home.dissolves):
        refused("HOUSEHOLD_NOT_FOUND", asked, CARL)
    refused("HOUSEHOLD_NOT_FOUND", home.leaves, CARL, by=ANN)
    refused("HOUSEHOLD_NOT_FOUND", home.changes, BEN, by=STRANGER, may_spend=False)


def test_the_head_hands_over_and_leaves() -> None:
    home = Home()
    home.joins(BEN, may_spend=False)
    home.changes(BEN, by=ANN, make_head=True)
    ben, ann = home.seat(BEN), home.seat(ANN)
    assert ben is not None
    assert ann is not None
    assert (ben.role, ben.may_spend, ann.role) == (Role.HEAD, True, Role.MEMBER)
    home.leaves(ANN, by=BEN)
    assert home.seat(ANN) is None


def test_a_pool_is_no_person() -> None:
    home = Home()
    home.buys(("TEA", 1, 30))
    refused("MEMBER_NOT_FOUND", home.buys, ("TEA", 1, 30), who=home.pool)
    refused("MEMBER_NOT_FOUND", home.does, Redeem, home.pool, points=1)
    refused("MEMBER_NOT_FOUND", home.does, Transfer, to_member_id=home.pool, to_given="", points=1)
    refused("MEMBER_NOT_FOUND", home.does, Merge, merged_member_id=home.pool)
    refused("MEMBER_NOT_FOUND", home.does, Earn, home.pool, event_type="VISIT")
    home.pool = BEN
    refused("HOUSEHOLD_NOT_FOUND", home.invites)


def test_nobody_is_merged_away_from_a_household() -> None:
    home = Home()
    home.joins(BEN)
    refused("MEMBER_IN_HOUSEHOLD", home.does, Merge, CARL, merged_member_id=BEN)
    home.leaves(BEN)
    home.does(Merge, CARL, merged_member_id=BEN)


def test_rows_say_in_words_whose_points_went_where_and_why() -> None:
    home = Home()
    home.joins(BEN)
    home.buys(("TEA", 1, 30))
    home.gives(30)
    home.shops(10, BEN)
    said = {row.kind: " ".join(told(row, [])) for row in home.rows}
    assert f"from member {ANN} to the pool of household {home.pool}" in said[Kind.TRANSFER_OUT]
    assert f"for member {BEN}" in said[Kind.REDEEM]
    paid = next(row for row in home.rows if row.kind is Kind.REDEEM)
    assert json.loads(paid.trace)["household"] == {"id": str(home.pool), "spender": str(BEN)}


MOVES = some.tuples(
    some.sampled_from(
        ["buys", "buys", "gives", "shops", "reserves", "captures", "refunds", "returns", "joins", "leaves"]
    ),
    some.sampled_from([ANN, BEN, CARL]),
    some.integers(1, 60),
    some.booleans(),
)


def given_by(home: Home, who: UUID) -> int:
    """What is left in the pool of somebody's gifts, counted from the rows alone."""
    from_whom = {
        row.transaction_id: json.loads(row.trace)["transfer"]["from"]
        for row in home.rows
        if row.kind is Kind.TRANSFER_IN and row.member_id == home.pool
    }
    lots = home.member(home.pool).lots.values()
    return sum(x.remaining - x.held for x in lots if from_whom.get(x.transaction_id) == str(who))


def worth(wallet: Wallet) -> int:
    return wallet.balance + wallet.pending + wallet.held - wallet.debt


@settings(max_examples=150)
@given(some.lists(MOVES, max_size=25), some.sampled_from(list(Clawback)))
def test_whatever_a_family_does_nothing_is_lost_and_each_leaves_with_their_own(
    moves: list[tuple[str, UUID, int, bool]], clawback: Clawback
) -> None:
    home = ten_days(clawback=clawback)
    bought: list[tuple[UUID, Outcome]] = []
    paid: list[Outcome] = []
    holds: list[tuple[UUID, UUID]] = []
    for move, who, points, flag in moves:
        left, before = given_by(home, who), worth(home.wallet(who))
        with suppress(Refused):
            match move:
                case "buys":
                    bought.append((who, home.buys(("TEA", 1, points), who=who, days_ago=flag * 8)))
                case "gives":
                    home.gives(points, who)
                case "shops":
                    paid.append(home.shops(points, who))
                case "reserves":
                    holds.append((who, home.reserves(points, who)))
                case "captures" if holds:
                    spender_id, hold_id = holds.pop()
                    home.does(CaptureHold, home.pool, hold_id=hold_id, spender_id=spender_id)
                case "refunds" if paid:
                    spent = paid.pop().awards[0].transaction_id
                    home.does(Refund, home.pool, transaction_id=spent)
                case "returns" if bought:
                    buyer, purchase = bought.pop()
                    home.returns(purchase, who=buyer)
                case "joins":
                    home.joins(who, contributes=flag)
                case "leaves":
                    home.leaves(who)
                    assert worth(home.wallet(who)) == before + left
                    assert given_by(home, who) == 0
        if flag:
            home.later(days=1)
        wallets = [home.recorded(each) for each in (ANN, BEN, CARL, home.pool)]
        assert all(min(w.balance, w.pending, w.held, w.debt) >= 0 for w in wallets)
        assert sum(map(worth, wallets)) == issued(home)


def issued(home: Home) -> int:
    """What has come from the program and not gone back to it, by the rows alone."""
    total = 0
    for row in home.rows:
        for account, points in ((row.debit_account, row.points), (row.credit_account, -row.points)):
            total += points if account.startswith("program.") and account != "program.transfer" else 0
    return total


def test_pools_are_locked_after_members() -> None:
    fresh = UUID("0199a2f0-6c1e-7c50-8d3e-0e2b7a5c4d10")
    made = pool_id(fresh)
    assert (made.version, made.variant) == (7, fresh.variant)
    assert made.bytes[:8] == fresh.bytes[:8]
    assert made.bytes[8:12] == b"\xbf\xff\xff\xff"
    assert made.bytes[12:] == fresh.bytes[12:]
