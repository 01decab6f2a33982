"""Each field and operator, held against activities that do and don't satisfy it."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from server.domain.activity import Activity, MemberFacts
from server.domain.rules.evaluate import evaluate
from server.domain.rules.evaluation import APPLIED
from tests.support.shop import DIWALI, event, holds, line, member, points, purchase, rules, when

TEA = {"field": "sku", "op": "eq", "value": "TEA"}
BASKET = purchase(
    line("300.00", "sweets", "LADOO", 3, "a", colour="red"),
    line("700.00", "drinks", "TEA", 7, "b"),
    store="mumbai-1",
    channel="pos",
    attributes={"tender": "cash"},
)
MEMBER = member(
    "gold",
    lifetime=6000,
    purchases=2,
    birth_month=11,
    tags=frozenset(("vip", "early")),
    segments=frozenset(("lapsed",)),
    attributes={"city": "Mumbai"},
)


@pytest.mark.parametrize(
    ("field", "op", "value", "expected"),
    [
        ("amount", "gte", "1000.00", True),
        ("amount", "gt", 1000, False),
        ("amount", "lt", "1000.01", True),
        ("amount", "lte", 999, False),
        ("amount", "eq", 1000.0, True),
        ("amount", "ne", 1000, False),
        ("amount", "between", [1000, 2000], True),
        ("amount", "between", ["0", "999.99"], False),
        ("amount", "in", [1, 1000], True),
        ("store", "eq", "mumbai-1", True),
        ("store", "starts_with", "mumbai-", True),
        ("store", "starts_with", "pune-", False),
        ("store", "in", ["mumbai-1", "pune-1"], True),
        ("store", "not_in", ["mumbai-1"], False),
        ("channel", "ne", "web", True),
        ("channel", "exists", True, True),
        ("channel", "exists", False, False),
        ("member.tier", "in", ["gold", "platinum"], True),
        ("member.tier", "eq", "silver", False),
        ("member.tags", "eq", "vip", True),
        ("member.tags", "ne", "vip", False),
        ("member.tags", "in", ["new", "early"], True),
        ("member.tags", "not_in", ["new", "late"], True),
        ("member.segments", "exists", True, True),
        ("member.segments", "eq", "vip", False),
        ("member.attributes.city", "eq", "Mumbai", True),
        ("member.attributes.country", "eq", "India", False),
        ("member.attributes.country", "ne", "India", True),
        ("member.attributes.country", "exists", False, True),
        ("member.lifetime", "gte", 6000, True),
        ("member.first_purchase", "eq", False, True),
        ("member.birthday_month", "eq", True, True),
        ("member.days_since_joining", "eq", 311, True),
        ("attributes.tender", "eq", "cash", True),
        ("attributes.tender", "starts_with", "ca", True),
        ("attributes.coupon", "not_in", ["X"], True),
        ("attributes.coupon", "starts_with", "X", False),
        ("time.hour", "between", [17, 18], True),
        ("time.weekday", "eq", "sun", True),
        ("time.weekday", "in", ["sat", "mon"], False),
        ("time.date", "gte", "2026-11-08", True),
        ("time.date", "lt", "2026-11-08", False),
        ("time.month", "eq", 11, True),
    ],
)
def test_a_field_compares_as_its_type_says(field: str, op: str, value: Any, expected: bool) -> None:
    assert holds({"field": field, "op": op, "value": value}, BASKET, MEMBER) is expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"any_item": {"field": "category", "op": "eq", "value": "sweets"}}, True),
        ({"any_item": {"field": "item.category", "op": "eq", "value": "toys"}}, False),
        ({"any_item": {"field": "quantity", "op": "gte", "value": 7}}, True),
        ({"any_item": {"field": "amount", "op": "gt", "value": 700}}, False),
        ({"any_item": {"field": "attributes.colour", "op": "eq", "value": "red"}}, True),
        ({"any_item": {"field": "attributes.colour", "op": "exists", "value": False}}, True),
        ({"all_items": {"field": "attributes.colour", "op": "eq", "value": "red"}}, False),
        ({"all_items": {"field": "quantity", "op": "gte", "value": 3}}, True),
        ({"sum_items": {"of": "amount", "op": "eq", "value": 1000}}, True),
        ({"sum_items": {"of": "quantity", "op": "between", "value": [10, 10]}}, True),
        (
            {
                "sum_items": {
                    "of": "amount",
                    "where": {"field": "sku", "op": "eq", "value": "TEA"},
                    "op": "lt",
                    "value": 700,
                }
            },
            False,
        ),
        ({"count_items": {"op": "eq", "value": 2}}, True),
        (
            {
                "count_items": {
                    "where": {"field": "sku", "op": "in", "value": ["TEA"]},
                    "op": "eq",
                    "value": 1,
                }
            },
            True,
        ),
        (
            {"count_items": {"where": {"field": "sku", "op": "eq", "value": "X"}, "op": "eq", "value": 0}},
            True,
        ),
        (
            {
                "any_item": {
                    "all": [
                        {"field": "category", "op": "eq", "value": "sweets"},
                        {"field": "amount", "op": "gt", "value": 500},
                    ]
                }
            },
            False,
        ),
    ],
)
def test_conditions_on_the_basket(condition: dict[str, Any], expected: bool) -> None:
    assert holds(condition, BASKET, MEMBER) is expected


YES = {"field": "amount", "op": "gt", "value": 0}
NO = {"field": "amount", "op": "eq", "value": 0}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"all": [YES, YES, YES]}, True),
        ({"all": [YES, YES, NO]}, False),
        ({"any": [NO, NO, YES]}, True),
        ({"any": [NO, NO, NO]}, False),
        ({"none": [NO, NO]}, True),
        ({"none": [NO, YES]}, False),
        ({"all": [YES], "any": [NO, YES], "none": [NO]}, True),
        ({"all": [YES], "any": [NO, YES], "none": [YES]}, False),
        ({"all": [{"any": [NO, {"none": [NO]}]}]}, True),
    ],
)
def test_groups_combine(condition: dict[str, Any], expected: bool) -> None:
    assert holds(condition, BASKET, MEMBER) is expected


def test_all_items_does_not_hold_without_a_basket() -> None:
    assert not holds({"all_items": {"field": "quantity", "op": "gte", "value": 1}}, event("REFERRAL"))


def test_without_a_condition_every_event_matches() -> None:
    rule = {"rule": "always", "then": [{"fixed": {"points": 3}}]}
    assert points([rule], event("REFERRAL")) == points([rule], purchase()) == 3


@pytest.mark.parametrize(
    ("attribute", "op", "value", "expected"),
    [
        ("rating", "gte", "4.5", True),
        ("rating", "between", [4.6, 5], False),
        ("verified", "eq", True, True),
        ("product", "exists", True, True),
    ],
)
def test_event_attributes_have_the_types_they_were_declared_with(
    attribute: str, op: str, value: Any, expected: bool
) -> None:
    review = event("REVIEW_SUBMITTED", rating=Decimal("4.5"), verified=True, product="LADOO")
    condition = {
        "all": [{"event": "REVIEW_SUBMITTED"}, {"field": f"attributes.{attribute}", "op": op, "value": value}]
    }
    assert holds(condition, review) is expected


def test_a_missing_or_foreign_attribute_satisfies_no_comparison() -> None:
    # REFERRAL has a rating too, of another type; the rule speaks of both through `any`.
    condition = {"any": [{"event": "PURCHASE"}, {"event": "REVIEW_SUBMITTED"}]}
    rated = {"all": [condition, {"field": "attributes.rating", "op": "gte", "value": 4}]}
    assert holds(rated, event("REVIEW_SUBMITTED", rating=Decimal(4)))
    assert not holds(rated, event("REVIEW_SUBMITTED"))
    assert not holds(rated, purchase(attributes={"rating": "5"}))


def test_a_first_purchase_is_one_before_which_none_was_recorded() -> None:
    condition = {"field": "member.first_purchase", "op": "eq", "value": True}
    assert holds(condition, purchase(), member(purchases=0))
    assert not holds(condition, purchase(), member(purchases=1))
    assert not holds(condition, event("REFERRAL"), member(purchases=0))


def test_an_unknown_birth_month_is_never_the_month_of_the_event() -> None:
    assert not holds(
        {"field": "member.birthday_month", "op": "eq", "value": True}, facts=member(birth_month=0)
    )


def test_days_since_joining_turn_at_midnight_in_the_programs_zone() -> None:
    facts = MemberFacts("gold", datetime(2026, 11, 7, 18, 29, tzinfo=UTC))  # 23:59 in Mumbai
    just_after = datetime(2026, 11, 7, 18, 30, tzinfo=UTC)  # 00:00 in Mumbai
    assert holds(
        {"field": "member.days_since_joining", "op": "eq", "value": 1}, purchase(at=just_after), facts
    )


def at(text: str) -> Activity:
    """A purchase at a moment on Mumbai's clock."""
    return purchase(at=datetime.fromisoformat(f"{text}+05:30").astimezone(UTC))


@pytest.mark.parametrize(
    ("active", "moment", "expected"),
    [
        ({"from": "2026-11-01T00:00"}, "2026-10-31T23:59:59", False),
        ({"from": "2026-11-01T00:00"}, "2026-11-01T00:00:00", True),
        ({"from": "2026-11-01"}, "2026-11-01T00:00:00", True),
        ({"until": "2026-11-15T00:00"}, "2026-11-14T23:59:59", True),
        ({"until": "2026-11-15T00:00"}, "2026-11-15T00:00:00", False),
        ({"days": ["fri", "sat"]}, "2026-11-07T12:00:00", True),
        ({"days": ["fri", "sat"]}, "2026-11-08T12:00:00", False),
        ({"hours": "17:00-21:00"}, "2026-11-08T17:00:00", True),
        ({"hours": "17:00-21:00"}, "2026-11-08T21:00:00", False),
        ({"hours": "17:00-21:00"}, "2026-11-08T16:59:59", False),
        ({"hours": "22:00-02:00"}, "2026-11-08T23:00:00", True),
        ({"hours": "22:00-02:00"}, "2026-11-08T01:59:00", True),
        ({"hours": "22:00-02:00"}, "2026-11-08T02:00:00", False),
        ({"hours": "18:00-24:00"}, "2026-11-08T23:59:59", True),
        ({"hours": "18:00-24:00"}, "2026-11-08T00:00:00", False),
        ({"hours": "18:00-00:00"}, "2026-11-08T23:59:59", True),
        ({"hours": "00:00-24:00"}, "2026-11-08T00:00:00", True),
        # The night that began on Friday lasts into Saturday, and Saturday's into Sunday.
        ({"days": ["fri"], "hours": "22:00-02:00"}, "2026-11-07T01:00:00", True),
        ({"days": ["fri"], "hours": "22:00-02:00"}, "2026-11-06T01:00:00", False),
        ({"days": ["fri"], "hours": "22:00-02:00"}, "2026-11-07T23:00:00", False),
    ],
)
def test_a_rule_counts_in_its_own_time_on_the_programs_clock(
    active: dict[str, Any], moment: str, expected: bool
) -> None:
    rule = {**when(YES), "active": active}
    assert (points([rule], at(moment)) == 1) is expected


def test_the_rule_of_the_brief_counts_as_it_reads() -> None:
    diwali = {
        "rule": "diwali-double",
        "type": "earn",
        "priority": 20,
        "when": {
            "all": [
                {"event": "PURCHASE"},
                {"field": "amount", "op": "gte", "value": "500.00", "currency": "INR"},
                {"field": "member.tier", "op": "in", "value": ["gold", "platinum"]},
                {"any_item": {"field": "category", "op": "eq", "value": "sweets"}},
            ]
        },
        "then": [{"multiply": {"by": 2, "of": "base"}}],
        "stacking": {"group": "festival", "mode": "best"},
        "caps": {"member": {"points": 1000, "per": "day"}},
        "active": {
            "from": "2026-11-01T00:00",
            "until": "2026-11-15T00:00",
            "days": ["fri", "sat"],
            "hours": "17:00-21:00",
        },
    }
    friday_evening, sunday_evening = at("2026-11-06T18:00:00"), DIWALI
    compiled = rules(diwali)
    assert [r.outcome for r in evaluate(compiled, friday_evening, member("gold"), {}).results] == [APPLIED]
    assert evaluate(compiled, friday_evening, member("silver"), {}).results == ()
    assert evaluate(compiled, purchase(at=sunday_evening), member("gold"), {}).results == ()
