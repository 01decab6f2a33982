"""What a support agent reads out, word for word."""

from typing import Any

from server.domain.rules import explain, trace
from server.domain.rules.evaluate import check_redemption
from server.domain.rules.evaluation import CapKey
from tests.support.shop import BASE, FESTIVAL, given, line, member, purchase, redemption, rules

GROUP = {"group": "festival", "mode": "best"}
GIFT = {"rule": "gift", "then": [{"fixed": {"points": 150}}], "stacking": GROUP}
CAPPED = {**FESTIVAL, "stacking": GROUP, "caps": {"member": {"points": 1000, "per": "day"}}}


def told(definitions: list[dict[str, Any]], *args: Any, **kwargs: Any) -> list[str]:
    return explain.sentences(trace.canonical(trace.dump(given(definitions, *args, **kwargs), "points")))


def test_three_rules_a_cap_and_a_best_of_group_are_explained_to_the_point() -> None:
    used = {CapKey("festival", "day:2026-11-08"): 600}
    assert told([{**BASE, "priority": 1}, CAPPED, GIFT], purchase(line("2500.00")), used=used) == [
        "Rule base (version 1) gave 500 points: 20 per 100.00 INR on 2500.00 INR.",
        "Rule festival (version 1) came to 500 points: 2 times the base of 500 points, that is 500 more.",
        "Rule festival was capped at 1000 points per day; 400 were left, so it gave 400 instead of 500.",
        "Rule gift (version 1) gave nothing: "
        "rule festival of the group festival gave more, 400 points against 150.",
    ]


def test_a_rule_outbid_because_of_its_cap_says_so() -> None:
    used = {CapKey("festival", "day:2026-11-08"): 900}
    assert told([CAPPED, GIFT, BASE], purchase(line("2500.00")), used=used)[1] == (
        "Rule festival (version 1) gave nothing: rule gift of the group festival gave more, "
        "150 points against 100 that its cap of 1000 points per day left."
    )


def test_a_cap_with_nothing_left_and_an_exclusive_rule() -> None:
    only = {**GIFT, "priority": -1, "stacking": {"exclusive": True}}
    later = {"rule": "later", "priority": -2, "then": [{"fixed": {"points": 9}}]}
    used = {CapKey("festival", "day:2026-11-08"): 1000}
    assert told([BASE, CAPPED, only, later], used=used)[1:] == [
        "Rule festival (version 1) came to 100 points: 2 times the base of 100 points, that is 100 more.",
        "Rule festival was capped at 1000 points per day; nothing was left, so it gave 0 instead of 100.",
        "Rule gift (version 1) gave 150 points: 150 points, whatever the amount.",
        "Rule later (version 1) gave nothing: rule gift is exclusive and came before it.",
    ]


def test_the_basket_units_and_tags_are_told() -> None:
    bonus = {
        "rule": "bonus",
        "when": {"any_item": {"field": "category", "op": "eq", "value": "sweets"}},
        "then": [{"bonus": {"points": 5, "per": "item"}}, {"add_tag": {"tag": "sweet-tooth"}}],
    }
    basket = purchase(line("250.50", quantity=2, line_id="a"), line("249.50", "drinks", line_id="b"))
    assert told([BASE, bonus], basket) == [
        "Rule base (version 1) gave 99 points: "
        "20 per 100.00 INR on 500.00 INR over 2 lines, each rounded down.",
        "Rule bonus (version 1) gave 10 points: 5 for each of 2 items.",
        "Rule bonus put the tag sweet-tooth on the member.",
    ]


def test_how_points_live_is_told_where_the_rule_says_it_itself() -> None:
    gift = {**GIFT, "pending": {"days": 14, "until": "REFERRAL"}, "expire": {"months": 12}}
    bonus = {"rule": "bonus", "priority": -1, "then": [{"fixed": {"points": 1}}], "pending": "none"}
    lasting = {"rule": "lasting", "priority": -2, "then": [{"fixed": {"points": 1}}], "expire": "never"}
    today = {**lasting, "rule": "today", "expire": {"days": 0}}
    assert told([BASE, gift, bonus, lasting, today])[1:] == [
        "Rule gift (version 1) gave 150 points: 150 points, whatever the amount.",
        "Rule gift says that its points can be spent after 14 days or with the next REFERRAL, "
        "whichever comes first, and expire at the end of the month, 12 months later.",
        "Rule bonus (version 1) gave 1 point: 1 point, whatever the amount.",
        "Rule bonus says that its points can be spent at once.",
        "Rule lasting (version 1) gave 1 point: 1 point, whatever the amount.",
        "Rule lasting says that its points never expire.",
        "Rule today (version 1) gave 1 point: 1 point, whatever the amount.",
        "Rule today says that its points expire at the end of the day.",
    ]


def test_one_point_is_one_point() -> None:
    assert told([{"rule": "r", "then": [{"fixed": {"points": 1}}]}]) == [
        "Rule r (version 1) gave 1 point: 1 point, whatever the amount."
    ]


def test_a_redemption_tells_what_its_points_were_worth() -> None:
    worth = {"rule": "worth", "type": "redeem", "then": [{"value": {"points": 4, "money": 1}}]}
    terms = check_redemption(rules(worth), redemption(10), member())
    assert explain.sentences(trace.canonical(trace.dump_terms(terms))) == [
        "Rule worth (version 1) made the points worth 2.50 INR: 1.00 INR for every 4."
    ]


def test_a_redemption_without_a_rule_has_nothing_to_tell() -> None:
    nothing = trace.dump_terms(check_redemption(rules(), redemption(10), member()))
    assert explain.sentences(trace.canonical(nothing)) == []
