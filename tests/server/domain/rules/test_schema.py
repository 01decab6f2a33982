"""Definitions that are read, and those that are refused with the path to each mistake."""

import json
import re
from typing import Any

import pytest
from hypothesis import given as over
from hypothesis import strategies as some
from jsonschema import Draft202012Validator

from server.domain.errors import InvalidArgument, Violation
from server.domain.program import Program
from server.domain.rules.canonical import canonical
from server.domain.rules.compile import RuleSet
from server.domain.rules.json_schema import JSON_SCHEMA
from server.domain.rules.schema import parse
from tests.support.definitions import definitions
from tests.support.shop import BASE, FESTIVAL, PROGRAM, mistakes, rules

VALIDATOR = Draft202012Validator(JSON_SCHEMA)


def rule(**parts: Any) -> dict[str, Any]:
    return {"rule": "r", "then": [{"fixed": {"points": 1}}], **parts}


def leaf(**parts: Any) -> dict[str, Any]:
    return rule(when={"all": [{"event": "PURCHASE"}, parts]})


@pytest.mark.parametrize(
    ("definition", "path", "part"),
    [
        ([], "definition", "must be an object"),
        ({}, "rule", "is required"),
        ({}, "then", "is required"),
        (rule(rule="Diwali Double"), "rule", "is no name"),
        (rule(type="spend"), "type", "known are earn, redeem"),
        (rule(prioritty=3), "prioritty", 'did you mean "priority"?'),
        (rule(priority=1.5), "priority", "must be a whole number"),
        (rule(priority=True), "priority", "must be a whole number"),
        (rule(expiry="30d"), "expiry", "is unknown"),
        (rule(then=[]), "then", "must have 1 to 20 entries"),
        (rule(when={"all": []}), "when.all", "must have 1 to 200 entries"),
        (rule(when={}), "when", "is empty"),
        (rule(when={"every": []}), "when.every", "is unknown"),
        (rule(when={"any_itm": {}}), "when.any_itm", 'did you mean "any_item"?'),
        (rule(when={"event": "REVIEW_SUBMITED"}), "when.event", 'did you mean "REVIEW_SUBMITTED"?'),
        (rule(when={"event": "REDEMPTION"}), "when.event", "never a REDEMPTION"),
        (leaf(field="amuont", op="gt", value=1), "when.all[1].field", 'did you mean "amount"?'),
        (leaf(field="amount", op="gtr", value=1), "when.all[1].op", 'did you mean "gt"?'),
        (
            leaf(field="amount", op="starts_with", value="1"),
            "when.all[1].op",
            "does not go with 'amount', a money",
        ),
        (leaf(field="amount", op="exists"), "when.all[1].op", "does not go with"),
        (leaf(field="amount", op="gt"), "when.all[1].value", "is required"),
        (leaf(field="amount", value=1), "when.all[1].op", "is required"),
        (leaf(field="amount", op="gt", value="much"), "when.all[1].value", "must be a number"),
        (leaf(field="amount", op="gt", value=-1), "when.all[1].value", "must be between 0"),
        (leaf(field="amount", op="gt", value=1, currency="USD"), "when.all[1].currency", "count in INR"),
        (leaf(field="store", op="eq", value="x", currency="INR"), "when.all[1].currency", "amounts only"),
        (leaf(field="amount", op="between", value=[2, 1]), "when.all[1].value", "smaller to the larger"),
        (leaf(field="amount", op="between", value=[2]), "when.all[1].value", "must have 2 to 2"),
        (leaf(field="store", op="in", value="x"), "when.all[1].value", "must be a list"),
        (leaf(field="store", op="eq", value="a\x00b"), "when.all[1].value", "control characters"),
        (leaf(field="store", op="eq", value=""), "when.all[1].value", "1 to 200 characters"),
        (leaf(field="member.tier", op="eq", value="gol"), "when.all[1].value", 'did you mean "gold"?'),
        (
            leaf(field="member.tier", op="in", value=["gold", "x"]),
            "when.all[1].value[1]",
            "is not known here",
        ),
        (leaf(field="time.hour", op="eq", value=24), "when.all[1].value", "between 0 and 23"),
        (leaf(field="time.weekday", op="eq", value="sunday"), "when.all[1].value", "is not known here"),
        (leaf(field="time.date", op="eq", value="2026-02-30"), "when.all[1].value", "no day of the calendar"),
        (leaf(field="item.sku", op="eq", value="x"), "when.all[1].field", "inside any_item"),
        (leaf(field="points", op="gt", value=1), "when.all[1].field", "rules of type redeem only"),
        (leaf(field="attributes.", op="exists"), "when.all[1].field", "doesn't name an attribute"),
        (
            leaf(any_item={"field": "store", "op": "eq", "value": "x"}),
            "when.all[1].any_item.field",
            "no field",
        ),
        (leaf(any_item={"event": "PURCHASE"}), "when.all[1].any_item.event", "inside a condition on items"),
        (
            leaf(sum_items={"of": "sku", "op": "gt", "value": 1}),
            "when.all[1].sum_items.of",
            "known are amount, quantity",
        ),
        (leaf(count_items={"op": "gt", "value": 1.5}), "when.all[1].count_items.value", "whole number"),
        (
            rule(
                when={
                    "all": [
                        {"event": "REVIEW_SUBMITTED"},
                        {"field": "attributes.ratng", "op": "gt", "value": 1},
                    ]
                }
            ),
            "when.all[1].field",
            'did you mean "rating"?',
        ),
        (
            rule(
                when={
                    "all": [
                        {"any": [{"event": "REVIEW_SUBMITTED"}, {"event": "REFERRAL"}]},
                        {"field": "attributes.rating", "op": "gt", "value": 1},
                    ]
                }
            ),
            "when.all[1].field",
            "declare rating differently",
        ),
        (rule(when={"all": [{"event": "PURCHASE"}, {"event": "REFERRAL"}]}), "when", "can never hold"),
        (rule(then=[{"earn": {"points": 20, "pre": "100.00"}}]), "then[0].earn.pre", 'did you mean "per"?'),
        (rule(then=[{"earn": {"points": 20, "pre": "100.00"}}]), "then[0].earn.per", "is required"),
        (rule(then=[{"earn": {"points": 20, "per": 0}}]), "then[0].earn.per", "must be between"),
        (
            rule(then=[{"earn": {"points": 10**10, "per": 1}}]),
            "then[0].earn.points",
            "between 1 and 1000000000",
        ),
        (rule(then=[{"earn": {"points": 1, "per": 1, "to": "creditz"}}]), "then[0].earn.to", '"credits"'),
        (
            rule(then=[{"earn": {"points": 1, "per": 1, "rounding": "up"}}]),
            "then[0].earn.rounding",
            "half_even",
        ),
        (rule(then=[{"multiply": {"by": "1.00001"}}]), "then[0].multiply.by", "at most 4 decimal places"),
        (rule(then=[{"multiply": {"by": 1001}}]), "then[0].multiply.by", "between 1 and 1000"),
        (rule(then=[{"multiply": {"by": 1}}]), "then[0].multiply.by", "more than 1"),
        (rule(then=[{"multiply": {"by": 2, "of": "lines"}}]), "then[0].multiply.of", "of which lines?"),
        (rule(then=[{"fixed": {"points": 5, "expiry": "30d"}}]), "then[0].fixed.expiry", "is unknown"),
        (rule(then=[{"award_badge": {}}]), "then[0]", "is no action"),
        (rule(then=[{"limit": {"min": 1}}]), "then[0]", "goes with rules of type redeem"),
        (
            rule(then=[{"earn": {"points": 1, "per": 1}}, {"multiply": {"by": 2}}]),
            "then[1].multiply",
            "can't stand beside earn",
        ),
        (
            rule(then=[{"fixed": {"points": 1}}, {"fixed": {"points": 1, "to": "credits"}}]),
            "then[1].fixed.to",
            "pays into one wallet",
        ),
        (
            rule(when={"event": "REFERRAL"}, then=[{"earn": {"points": 1, "per": 1}}]),
            "then[0].earn",
            "REFERRAL has no amount",
        ),
        (rule(stacking={"group": "g"}), "stacking.mode", "is required beside group"),
        (rule(stacking={"group": "g", "mode": "each"}), "stacking.mode", "best, first, all"),
        (rule(caps={"member": {"points": 5, "per": "hour"}}), "caps.member.per", "is not known here"),
        (rule(caps={"member": [{"points": 5, "per": "day"}] * 2}), "caps.member[1].per", "per day already"),
        (
            rule(then=[{"add_tag": {"tag": "t"}}], caps={"member": {"points": 5, "per": "day"}}),
            "caps",
            "no points",
        ),
        (rule(active={"from": "2026-11-01T00:00+05:30"}), "active.from", "without an offset"),
        (rule(active={"from": "2026-11-02", "until": "2026-11-01"}), "active.until", "must lie after from"),
        (rule(active={"hours": "9-17"}), "active.hours", "must be a span"),
        (rule(active={"hours": "09:00-09:00"}), "active.hours", "must not be empty"),
        (rule(active={"days": ["fri", "fri"]}), "active.days[1]", "twice"),
        (rule(pending="3 days"), "pending", "must be none, or an object"),
        (rule(pending={}), "pending", "must have days or until"),
        (rule(pending={"day": 3}), "pending.day", 'did you mean "days"?'),
        (rule(pending={"days": 0}), "pending.days", "between 1 and 36500"),
        (rule(pending={"until": "REVIEW_SUBMITED"}), "pending.until", 'did you mean "REVIEW_SUBMITTED"?'),
        (rule(pending={"until": "REDEMPTION"}), "pending.until", "never for a REDEMPTION"),
        (rule(pending={"until": 3}), "pending.until", "must be text"),
        (rule(expire="tomorrow"), "expire", "must be never, or an object"),
        (rule(expire={}), "expire", "must have one of days, months"),
        (rule(expire={"days": 3, "months": 1}), "expire", "must have one of days, months"),
        (rule(expire={"weeks": 3}), "expire.weeks", "known are days, months, years, rolling_days"),
        (rule(expire={"months": 1201}), "expire.months", "between 0 and 1200"),
        (rule(expire={"rolling_days": 0}), "expire.rolling_days", "between 1 and 36500"),
        (rule(pending={"days": 8}, expire={"days": 7}), "expire", "pending for 8 days"),
        (rule(pending={"days": 29}, expire={"months": 1}), "expire", "pending for 29 days"),
        (rule(then=[{"add_tag": {"tag": "t"}}], expire="never"), "expire", "no points"),
        (rule(then=[{"limit": {"min": 5}}], type="redeem", pending="none"), "pending", "type earn"),
        (rule(type="redeem"), "then[0]", "goes with rules of type earn"),
        (
            rule(type="redeem", then=[{"limit": {"min": 5, "max": 1}}]),
            "then[0].limit.max",
            "must not be below min",
        ),
        (
            rule(type="redeem", then=[{"limit": {"min": 5}}], caps={"member": {"points": 5, "per": "day"}}),
            "caps",
            "type earn",
        ),
        (
            rule(type="redeem", then=[{"limit": {"min": 5}}], when={"count_items": {"op": "eq", "value": 1}}),
            "when.count_items",
            "no basket",
        ),
    ],
)
def test_a_mistake_is_named_with_its_path(definition: object, path: str, part: str) -> None:
    found = mistakes(definition)
    assert path in found, found
    assert part in found[path]


def test_all_mistakes_are_named_at_once() -> None:
    bad = {"rule": "UP", "priority": "x", "when": {"event": "NO"}, "then": [{"fixed": {}}], "colour": "red"}
    assert set(mistakes(bad)) == {"rule", "priority", "when.event", "then[0].fixed.points", "colour"}


def test_nesting_and_size_are_bounded() -> None:
    deep: dict[str, Any] = {"event": "PURCHASE"}
    for _ in range(10):
        deep = {"all": [deep]}
    assert any("deeper than 10" in text for text in mistakes(rule(when=deep)).values())
    wide = {"any": [{"any": [{"event": "PURCHASE"}] * 150}] * 2}
    assert any("200" in text for text in mistakes(rule(when=wide)).values())
    many = {"field": "store", "op": "in", "value": [str(n) for n in range(10_001)]}
    assert "when.value" in mistakes(rule(when=many))


def test_a_structure_deeper_than_python_can_follow_is_refused_like_any_other() -> None:
    deep: dict[str, Any] = {"event": "PURCHASE"}
    for _ in range(5000):
        deep = {"all": [deep]}
    assert mistakes(rule(when=deep, priority=[deep]))


def test_rules_of_one_group_must_agree() -> None:
    def grouped(rule: dict[str, Any], mode: str) -> dict[str, Any]:
        return {**rule, "stacking": {"group": "g", "mode": mode}}

    with pytest.raises(InvalidArgument, match=r"base and festival .* say best and first"):
        rules(grouped(BASE, "best"), grouped({**FESTIVAL, "then": BASE["then"]}, "first"))
    with pytest.raises(InvalidArgument, match="base makes the base and festival adds to it"):
        rules(grouped(BASE, "best"), grouped(FESTIVAL, "best"))


def test_a_wrong_rule_in_a_set_is_named() -> None:
    with pytest.raises(InvalidArgument) as refused:
        RuleSet.compile(PROGRAM, [(1, BASE), (2, {**FESTIVAL, "then": 3})])
    assert [violation.field for violation in refused.value.violations] == ["festival: then"]


def test_numbers_may_come_as_text_as_integers_or_as_integral_floats() -> None:
    def earning(points: object, per: object) -> dict[str, Any]:
        return rule(then=[{"earn": {"points": points, "per": per}}], priority=points)

    same = [earning(20, "500.00"), earning(20.0, 500), earning("20", 500.0), earning(20, "500")]
    assert len({parse(definition, PROGRAM) for definition in same}) == 1
    assert len({json.dumps(canonical(definition)) for definition in same}) == 1
    # A float says what it shows, not its nearest binary fraction.
    assert parse(earning(1, 0.1), PROGRAM) == parse(earning(1, "0.1"), PROGRAM)


def test_canonical_leaves_out_defaults_and_orders_sets() -> None:
    written = {
        "rule": "r",
        "type": "earn",
        "priority": 0,
        "when": {"all": [{"field": "store", "op": "in", "value": ["b", "a", "b"]}]},
        "then": [{"earn": {"points": 1, "per": "1.50", "currency": "INR", "rounding": "floor"}}],
        "stacking": {"exclusive": True},
        "caps": {"member": [{"points": 5, "per": "day"}]},
        "active": {"days": ["sat", "fri"], "from": "2026-11-01"},
        "pending": {"until": "PURCHASE", "days": "14"},
        "expire": {"months": 12.0},
    }
    assert canonical(written) == {
        "rule": "r",
        "type": "earn",
        "when": {"all": [{"field": "store", "op": "in", "value": ["a", "b"]}]},
        "then": [{"earn": {"points": 1, "per": "1.5"}}],
        "stacking": {"exclusive": True},
        "caps": {"member": {"points": 5, "per": "day"}},
        "active": {"from": "2026-11-01T00:00", "days": ["fri", "sat"]},
        "pending": {"days": 14, "until": "PURCHASE"},
        "expire": {"months": 12},
    }


@over(definitions())
def test_canonical_changes_the_writing_and_never_the_rule(definition: dict[str, Any]) -> None:
    written = canonical(definition)
    assert canonical(written) == written
    assert canonical(parse_text(written)) == written
    assert VALIDATOR.is_valid(written)


def parse_text(definition: dict[str, Any]) -> Any:
    return json.loads(json.dumps(definition))


@over(definitions())
def test_whatever_the_parser_accepts_satisfies_the_json_schema(definition: dict[str, Any]) -> None:
    parse(definition, PROGRAM)
    VALIDATOR.validate(definition)


@pytest.mark.parametrize(
    "definition",
    [
        [],
        {},
        rule(colour="red"),
        rule(then=[]),
        rule(then=[{"earn": {"points": 1}}]),
        rule(then=[{"limit": {"min": 1}}]),
        rule(type="redeem"),
        rule(when={"all": []}),
        rule(when={"field": "amuont", "op": "gt", "value": 1}),
        rule(when={"field": "amount", "op": "gt"}),
        rule(when={"any_item": {"field": "store", "op": "eq", "value": "x"}}),
        rule(stacking={"group": "g"}),
        rule(active={"hours": "9-17"}),
        rule(pending="never"),
        rule(pending={}),
        rule(expire={"days": 1, "months": 1}),
        rule(expire={"rolling_days": 0}),
        rule(type="redeem", then=[{"limit": {"min": 5}}], expire="never"),
    ],
)
def test_the_json_schema_refuses_what_it_can_see(definition: object) -> None:
    assert not VALIDATOR.is_valid(definition)
    assert mistakes(definition)


def test_the_json_schema_is_one() -> None:
    Draft202012Validator.check_schema(JSON_SCHEMA)


WORDS = re.findall(
    r"\S+",
    "rule type when then all any none event field op value any_item sum_items of where earn points per items "
    "caps member active days from hours stacking group currency limit min fixed multiply by exists "
    "pending until expire never days months rolling_days",
)
VALUES = ["PURCHASE", "amount", "item.sku", "in", "between", "gte", "earn", "2026-11-01", "attributes.x"]
ANY_JSON = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats()
    | some.text(max_size=20)
    | some.sampled_from(VALUES),
    lambda inner: (
        some.lists(inner, max_size=4)
        | some.dictionaries(some.text(max_size=5) | some.sampled_from(WORDS), inner, max_size=5)
    ),
    max_leaves=20,
)


def refused(definition: object, program: Program | None = PROGRAM) -> tuple[Violation, ...]:
    try:
        parse(definition, program)
    except InvalidArgument as refusal:
        return refusal.violations
    return ()


@over(ANY_JSON)
def test_any_json_is_read_or_refused_and_never_crashes(definition: object) -> None:
    for program in (PROGRAM, None):
        assert all(violation.description.isprintable() for violation in refused(definition, program))


@over(definitions(), some.data())
def test_a_definition_with_one_part_spoilt_is_read_or_refused_and_never_crashes(
    definition: dict[str, Any], data: some.DataObject
) -> None:
    part: Any = definition
    for _ in range(data.draw(some.integers(1, 6))):
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        if not keys:
            break
        key = data.draw(some.sampled_from(keys))
        if not isinstance(part[key], dict | list):
            part[key] = data.draw(ANY_JSON)
            break
        part = part[key]
    if not refused(definition):
        VALIDATOR.validate(definition)
