"""What purchases and events come to under rules: the stories marketers rely on."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Any

import pytest

from server.domain.errors import FailedPrecondition
from server.domain.lots import Expiry, LotTerms, Until
from server.domain.program import LedgerTerms
from server.domain.rules.compile import RuleSet
from server.domain.rules.evaluate import cap_keys, check_redemption, evaluate
from server.domain.rules.evaluation import CapKey, Evaluation
from tests.support.shop import (
    BASE,
    DIWALI,
    FESTIVAL,
    PROGRAM,
    event,
    given,
    line,
    member,
    outcomes,
    points,
    purchase,
    redemption,
    rules,
)


def stacked(rule: dict[str, Any], priority: int = 0, **stacking: Any) -> dict[str, Any]:
    return {**rule, "priority": priority, "stacking": stacking}


def fixed(name: str, how_many: int, **more: Any) -> dict[str, Any]:
    return {"rule": name, "then": [{"fixed": {"points": how_many}}], **more}


def by_line(evaluation: Evaluation) -> dict[str, int]:
    """How the points of all rules spread over the basket."""
    return dict(sum((Counter(result.lines) for result in evaluation.results), Counter()))


def test_a_500_rupee_purchase_at_diwali_gives_200_points() -> None:
    assert points([BASE, FESTIVAL]) == 200


def test_without_the_festival_it_gives_100() -> None:
    assert points([BASE]) == 100


def test_no_rules_give_nothing() -> None:
    assert evaluate(RuleSet.empty(PROGRAM), purchase(), member(), {}).awards == {}


def test_points_are_rounded_line_by_line() -> None:
    basket = purchase(line("149.99", line_id="a"), line("149.99", line_id="b"))
    a_point_per_100 = {"rule": "r", "then": [{"earn": {"points": 1, "per": 100}}]}
    evaluation = given([a_point_per_100], basket)
    assert (evaluation.awards["points"].points, by_line(evaluation)) == (2, {"a": 1, "b": 1})


@pytest.mark.parametrize(
    ("rounding", "amount", "expected"),
    [
        ("floor", "199.99", 1),
        ("ceil", "100.01", 2),
        ("ceil", "100.00", 1),
        ("half_even", "150.00", 2),
        ("half_even", "250.00", 2),
        ("half_even", "250.01", 3),
        ("half_even", "0.00", 0),
    ],
)
def test_rounding_follows_the_rule(rounding: str, amount: str, expected: int) -> None:
    rule = {"rule": "r", "then": [{"earn": {"points": 1, "per": 100, "rounding": rounding}}]}
    assert points([rule], purchase(line(amount))) == expected


def test_arithmetic_is_exact_whatever_the_decimal_context() -> None:
    with localcontext() as context:
        context.prec = 3
        assert points([BASE], purchase(line("123456789.99"))) == 24_691_357


def test_earn_counts_only_the_items_it_names() -> None:
    sweets_only = {
        "rule": "r",
        "then": [
            {
                "earn": {
                    "points": 20,
                    "per": 100,
                    "items": {"field": "category", "op": "eq", "value": "sweets"},
                }
            }
        ],
    }
    basket = purchase(line("300", line_id="a"), line("700", "drinks", line_id="b"))
    assert by_line(given([sweets_only], basket)) == {"a": 60}


def test_a_rule_whose_items_are_not_in_the_basket_does_not_count_at_all() -> None:
    drinks = {
        "rule": "drinks",
        "priority": 1,
        "then": [
            {"earn": {"points": 9, "per": 1, "items": {"field": "category", "op": "eq", "value": "drinks"}}}
        ],
        "stacking": {"exclusive": True},
    }
    assert outcomes(given([BASE, drinks])) == {"base": ("applied", 100)}


def test_multiply_of_lines_counts_the_base_of_lines_that_the_rule_is_about() -> None:
    sweets_double = {
        "rule": "sweets-double",
        "when": {"any_item": {"field": "category", "op": "eq", "value": "sweets"}},
        "then": [{"multiply": {"by": 2, "of": "lines"}}],
    }
    basket = purchase(line("300", line_id="a"), line("700", "drinks", line_id="b"))
    evaluation = given([BASE, sweets_double], basket)
    assert (evaluation.awards["points"].points, by_line(evaluation)) == (260, {"a": 120, "b": 140})


def test_a_multiplier_of_one_and_a_half_adds_half_the_base() -> None:
    half_more = {"rule": "x", "then": [{"multiply": {"by": "1.5"}}]}
    assert points([BASE, half_more], purchase(line("5.00"))) == 1  # base 1, half of it rounded down
    assert points([BASE, half_more], purchase(line("505.00"))) == 151


def test_two_multipliers_both_count_from_the_base_not_from_each_other() -> None:
    assert points([BASE, FESTIVAL, {**FESTIVAL, "rule": "also"}]) == 300


def test_a_multiplier_does_not_multiply_fixed_points() -> None:
    assert points([BASE, FESTIVAL, fixed("gift", 50)]) == 250


def test_bonus_points_are_per_unit_of_the_lines_that_match() -> None:
    five_each = {
        "rule": "five",
        "when": {"any_item": {"field": "sku", "op": "eq", "value": "LADOO"}},
        "then": [{"bonus": {"points": 5, "per": "item"}}],
    }
    basket = purchase(line("30", quantity=3, line_id="a"), line("90", sku="TEA", quantity=9, line_id="b"))
    assert by_line(given([five_each], basket)) == {"a": 15}


def test_fixed_points_spread_over_the_lines_by_amount_so_that_a_return_can_be_exact() -> None:
    basket = purchase(line("100", line_id="a"), line("200", line_id="b"), line("0", line_id="c"))
    assert by_line(given([fixed("gift", 10)], basket)) == {"a": 3, "b": 7}


def test_fixed_points_for_free_goods_spread_by_units() -> None:
    basket = purchase(line("0", quantity=1, line_id="a"), line("0", quantity=3, line_id="b"))
    assert by_line(given([fixed("gift", 8)], basket)) == {"a": 2, "b": 6}


def test_an_event_without_a_basket_earns_fixed_points() -> None:
    review = fixed("review", 50, when={"event": "REVIEW_SUBMITTED"})
    evaluation = given([BASE, review], event("REVIEW_SUBMITTED"))
    assert (evaluation.awards["points"].points, by_line(evaluation)) == (50, {})


def test_a_rule_may_pay_into_another_wallet_and_multiply_there() -> None:
    credit = {"rule": "credits", "then": [{"earn": {"points": 1, "per": 10, "to": "credits"}}]}
    double = {"rule": "double-credits", "then": [{"multiply": {"by": 2, "to": "credits"}}]}
    awards = given([BASE, credit, double]).awards
    assert {name: award.points for name, award in awards.items()} == {"points": 100, "credits": 100}


def test_of_a_best_group_the_one_that_gives_most_counts() -> None:
    group = {"group": "festival", "mode": "best"}
    evaluation = given([BASE, stacked(FESTIVAL, **group), stacked(fixed("gift", 150), **group)])
    assert outcomes(evaluation) == {
        "base": ("applied", 100),
        "festival": ("outbid", 0),
        "gift": ("applied", 150),
    }


def test_best_compares_what_is_left_after_caps() -> None:
    group = {"group": "festival", "mode": "best"}
    capped = {**stacked(fixed("big", 500), **group), "caps": {"member": {"points": 600, "per": "ever"}}}
    evaluation = given([capped, stacked(fixed("small", 150), **group)], used={CapKey("big", "ever"): 500})
    assert outcomes(evaluation) == {"big": ("outbid", 0), "small": ("applied", 150)}
    assert evaluation.cap_usage == {}


def test_a_tie_in_a_best_group_goes_to_the_earlier_rule() -> None:
    group = {"group": "g", "mode": "best"}
    evaluation = given([stacked(fixed("a", 10), **group), stacked(fixed("z", 10), priority=5, **group)])
    assert outcomes(evaluation) == {"z": ("applied", 10), "a": ("outbid", 0)}


def test_of_a_first_group_the_first_by_priority_counts_even_if_it_gives_less() -> None:
    group = {"group": "g", "mode": "first"}
    evaluation = given([stacked(fixed("a", 100), **group), stacked(fixed("z", 10), priority=5, **group)])
    assert outcomes(evaluation) == {"z": ("applied", 10), "a": ("outbid", 0)}


def test_of_an_all_group_every_rule_counts() -> None:
    group = {"group": "g", "mode": "all"}
    assert points([stacked(fixed("a", 100), **group), stacked(fixed("z", 10), **group)]) == 110


def test_base_rules_compete_before_multipliers_count() -> None:
    group = {"group": "base", "mode": "best"}
    gold = {"rule": "gold", "then": [{"earn": {"points": 30, "per": "100.00"}}]}
    assert points([stacked(BASE, **group), stacked(gold, **group), FESTIVAL]) == 300


def test_an_exclusive_rule_keeps_out_the_rules_after_it() -> None:
    only = stacked(fixed("only", 10), priority=5, exclusive=True)
    evaluation = given([{**BASE, "priority": 9}, only, FESTIVAL])
    assert outcomes(evaluation) == {
        "base": ("applied", 100),
        "only": ("applied", 10),
        "festival": ("excluded", 0),
    }


def test_an_exclusive_rule_that_does_not_match_keeps_nobody_out() -> None:
    only = stacked(fixed("only", 10, when={"event": "REFERRAL"}), priority=5, exclusive=True)
    assert points([only, BASE]) == 100


def test_a_cap_truncates_and_spreads_what_remains_by_largest_remainder() -> None:
    capped = {**BASE, "caps": {"member": {"points": 50, "per": "event"}}}
    basket = purchase(
        line("100", line_id="a"), line("100", line_id="b"), line("100", line_id="c"), line("4", line_id="d")
    )
    evaluation = given([capped], basket)
    assert (evaluation.awards["points"].points, by_line(evaluation)) == (50, {"a": 17, "b": 17, "c": 16})


def test_a_cap_counts_what_was_given_before_in_its_period() -> None:
    capped = {**BASE, "caps": {"member": {"points": 150, "per": "day"}}}
    evaluation = given([capped], used={CapKey("base", "day:2026-11-08"): 90})
    assert evaluation.awards["points"].points == 60
    assert evaluation.cap_usage == {CapKey("base", "day:2026-11-08"): 60}


def test_the_tightest_of_several_caps_bites() -> None:
    caps = [{"points": 90, "per": "day"}, {"points": 1000, "per": "month"}, {"points": 95, "per": "event"}]
    evaluation = given([{**BASE, "caps": {"member": caps}}], used={CapKey("base", "month:2026-11"): 930})
    assert evaluation.awards["points"].points == 70
    assert evaluation.cap_usage == {CapKey("base", "day:2026-11-08"): 70, CapKey("base", "month:2026-11"): 70}


def test_a_used_up_cap_gives_nothing_and_says_so() -> None:
    capped = {**BASE, "caps": {"member": {"points": 90, "per": "ever"}}}
    evaluation = given([capped], used={CapKey("base", "ever"): 90})
    assert evaluation.awards == {}
    assert outcomes(evaluation) == {"base": ("capped", 0)}


def test_a_cap_lowered_below_what_was_given_gives_nothing() -> None:
    capped = {**BASE, "caps": {"member": {"points": 90, "per": "ever"}}}
    assert points([capped], used={CapKey("base", "ever"): 500}) == 0


def test_a_multiplier_multiplies_what_the_base_gave_after_its_cap() -> None:
    capped = {**BASE, "caps": {"member": {"points": 30, "per": "event"}}}
    assert points([capped, FESTIVAL]) == 60


def test_cap_periods_are_the_programs_own_days_and_iso_weeks() -> None:
    caps = [{"points": 1, "per": per} for per in ("day", "week", "month", "year", "ever", "event")]
    new_year_in_mumbai = datetime(2026, 12, 31, 19, 0, tzinfo=UTC)
    keys = cap_keys(rules({**BASE, "caps": {"member": caps}}), purchase(at=new_year_in_mumbai))
    assert keys == tuple(
        CapKey("base", period)
        for period in ("day:2027-01-01", "week:2026-W53", "month:2027-01", "year:2027", "ever")
    )


def test_tags_are_added_by_rules_that_apply_and_by_no_others() -> None:
    group = {"group": "g", "mode": "best"}
    winner = stacked({"rule": "a", "then": [{"fixed": {"points": 9}}, {"add_tag": {"tag": "won"}}]}, **group)
    loser = stacked({"rule": "b", "then": [{"fixed": {"points": 1}}, {"add_tag": {"tag": "lost"}}]}, **group)
    assert given([winner, loser]).tags == {"won"}


def test_a_rule_set_that_gives_absurdly_much_is_refused_rather_than_overflowing() -> None:
    absurd = {"rule": "absurd", "then": [{"earn": {"points": 10**9, "per": "0.01"}}]}
    with pytest.raises(FailedPrecondition) as refused:
        given([absurd], purchase(line("1000000")))
    assert refused.value.reason == "WALLET_LIMIT"


def test_earning_rules_leave_redemptions_alone() -> None:
    assert given([fixed("gift", 10), BASE], redemption(100)).results == ()


WORTH = {
    "rule": "worth",
    "type": "redeem",
    "then": [{"value": {"points": 4, "money": "1.00", "currency": "INR"}}],
}


def test_redeemed_points_are_worth_what_the_first_matching_rule_says() -> None:
    gold = {
        "rule": "worth-gold",
        "type": "redeem",
        "priority": 1,
        "when": {"field": "member.tier", "op": "eq", "value": "gold"},
        "then": [{"value": {"points": 2, "money": 1}}],
    }
    both = rules(WORTH, gold)
    assert check_redemption(both, redemption(10), member("silver")).value == Decimal("2.50")
    terms = check_redemption(both, redemption(10), member("gold"))
    assert (terms.value, terms.currency, terms.rule, terms.version) == (
        Decimal("5.00"),
        "INR",
        "worth-gold",
        1,
    )


def test_fractions_of_the_smallest_coin_are_dropped() -> None:
    thirds = {"rule": "r", "type": "redeem", "then": [{"value": {"points": 3, "money": 1}}]}
    assert check_redemption(rules(thirds), redemption(2), member()).value == Decimal("0.66")


def test_without_a_redeem_rule_points_have_no_stated_value() -> None:
    assert check_redemption(rules(BASE), redemption(10), member()).value is None


@pytest.mark.parametrize(
    ("asked", "limit"),
    [(99, "min 100"), (5100, "max 5000"), (150, "multiple_of 100"), (100, None), (5000, None)],
)
def test_a_limit_refuses_and_names_itself(asked: int, limit: str | None) -> None:
    limited = {
        "rule": "limits",
        "type": "redeem",
        "then": [{"limit": {"min": 100, "max": 5000, "multiple_of": 100}}],
    }
    if limit is None:
        assert check_redemption(rules(limited, WORTH), redemption(asked), member()).rule == "worth"
        return
    with pytest.raises(FailedPrecondition) as refused:
        check_redemption(rules(limited, WORTH), redemption(asked), member())
    assert refused.value.reason == "REDEMPTION_REFUSED"
    assert refused.value.metadata == {"rule": "limits", "limit": limit}


def test_limits_of_a_rule_that_does_not_match_do_not_bind() -> None:
    bronze = {
        "rule": "limits",
        "type": "redeem",
        "when": {"field": "member.tier", "op": "eq", "value": "bronze"},
        "then": [{"limit": {"min": 100}}],
    }
    assert check_redemption(rules(bronze), redemption(1, DIWALI), member("gold")).value is None


def test_points_of_rules_with_terms_of_their_own_stand_in_lots_of_their_own() -> None:
    program = replace(PROGRAM, ledger=LedgerTerms({"points": LotTerms(7, expiry=Expiry(Until.YEARS, 1))}))
    gift = {"rule": "gift", "then": [{"fixed": {"points": 30}}]}
    other = {**gift, "rule": "other"}
    later = {**gift, "rule": "later", "expire": {"days": 30}}
    as_usual = {**gift, "rule": "usual", "pending": {"days": 7}, "expire": {"years": 1}}
    at_once = {**later, "rule": "at-once", "pending": "none"}

    def lots(*definitions: dict[str, Any]) -> Any:
        return evaluate(rules(*definitions, program=program), purchase(), member(), {}).awards["points"].lots

    thirty = Expiry(Until.DAYS, 30)
    assert lots(gift, other) == ()
    assert lots(gift, as_usual) == ()
    # What a rule leaves out is as the program says; rules that say the same share a lot.
    assert lots(gift, later, as_usual) == ((None, 60), (LotTerms(7, "", thirty), 30))
    assert lots(later, {**later, "rule": "again"}) == ((LotTerms(7, "", thirty), 60),)
    assert set(lots(gift, at_once)) == {(None, 30), (LotTerms(0, "", thirty), 30)}


def test_a_rule_that_gave_nothing_makes_no_lot() -> None:
    spent = {**BASE, "rule": "spent", "expire": {"days": 1}, "caps": {"member": {"points": 5, "per": "ever"}}}
    evaluation = given([BASE, spent], used={CapKey("spent", "ever"): 5})
    assert evaluation.awards["points"].lots == ()
