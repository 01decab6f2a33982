"""What holds for every rule set, activity and member."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given as over
from hypothesis import settings
from hypothesis import strategies as some

from server.domain.activity import Activity, MemberFacts
from server.domain.lots import Expiry, LotTerms, Until
from server.domain.program import LedgerTerms
from server.domain.rules import explain, trace
from server.domain.rules.arithmetic import spread
from server.domain.rules.evaluate import cap_keys, evaluate
from server.domain.rules.evaluation import APPLIED, CapKey
from tests.support.definitions import activities, demanding, members, rule_sets
from tests.support.shop import BASE, PROGRAM, line, member, purchase, rules, when

Definitions = list[dict[str, Any]]


@over(rule_sets(), activities(), members())
def test_the_index_leads_to_every_rule_that_matches(
    definitions: Definitions, activity: Activity, facts: MemberFacts
) -> None:
    compiled = rules(*definitions)
    case = compiled.case(activity, facts)
    matching = [rule.name for rule in compiled.rules if rule.matches(case)]
    assert [rule.name for rule in compiled.matching(case)] == matching
    capped = [rule.name for rule in compiled.rules if rule.caps and rule.matches(case)]
    assert [rule.name for rule in compiled.capped_for_anybody(case) if rule.matches(case)] == capped
    assert [result.rule for result in evaluate(compiled, activity, facts, {}).results] == matching


@settings(max_examples=300)
@over(some.lists(demanding(), min_size=1, max_size=6), activities(), members())
def test_the_index_never_takes_a_condition_for_more_than_it_demands(
    conditions: list[dict[str, Any]], activity: Activity, facts: MemberFacts
) -> None:
    capped = {"caps": {"member": {"points": 1, "per": "day"}}}
    compiled = rules(
        *({**when(condition, f"r{place}"), **capped} for place, condition in enumerate(conditions))
    )
    case = compiled.case(activity, facts)
    matching = {rule.name for rule in compiled.rules if rule.matches(case)}
    assert matching <= {rule.name for rule in compiled.candidates(case)}
    assert matching <= {rule.name for rule in compiled.capped_for_anybody(case)}


@over(rule_sets(), activities(), members())
def test_lines_sum_to_the_award_and_results_to_the_awards(
    definitions: Definitions, activity: Activity, facts: MemberFacts
) -> None:
    evaluation = evaluate(rules(*definitions), activity, facts, {})
    given: Counter[str] = Counter()
    for result in evaluation.results:
        given[result.point_type] += result.points
        assert result.points <= result.computed
        assert sum(result.lines.values()) == (result.points if activity.lines else 0)
        assert set(result.lines) <= {line.line_id for line in activity.lines}
        assert result.outcome == APPLIED or result.points == 0
    assert {name: award.points for name, award in evaluation.awards.items()} == {
        k: v for k, v in given.items() if v
    }


@over(rule_sets(), activities(), members())
def test_the_lots_of_an_award_sum_to_its_points_and_stand_only_where_a_rule_has_terms_of_its_own(
    definitions: Definitions, activity: Activity, facts: MemberFacts
) -> None:
    program = replace(PROGRAM, ledger=LedgerTerms({"points": LotTerms(3, expiry=Expiry(Until.DAYS, 40))}))
    compiled = rules(*definitions, program=program)
    said = {d["rule"]: {"pending", "expire"} & set(d) for d in definitions}
    evaluation = evaluate(compiled, activity, facts, {})
    for award in evaluation.awards.values():
        gave = [result for result in evaluation.results if result.points]
        if any(said[result.rule] for result in gave) and award.lots:
            assert sum(points for _, points in award.lots) == award.points
            assert all(points > 0 for _, points in award.lots)
            assert len({terms for terms, _ in award.lots}) == len(award.lots)
        else:
            assert award.lots == ()
    for result in evaluation.results:
        noted = any(note["kind"] == "terms" for note in result.notes)
        assert noted is bool(said[result.rule] and result.points)


@over(rule_sets(4), some.lists(some.tuples(activities(), members()), max_size=12))
def test_no_sequence_of_events_gets_more_out_of_a_rule_than_its_caps(
    definitions: Definitions, happened: list[tuple[Activity, MemberFacts]]
) -> None:
    compiled = rules(*definitions)
    caps = {(rule.name, cap.per): cap.points for rule in compiled.rules for cap in rule.caps}
    used: Counter[CapKey] = Counter()
    for activity, facts in happened:
        wanted = cap_keys(compiled, activity)
        evaluation = evaluate(compiled, activity, facts, {key: used[key] for key in wanted})
        assert set(evaluation.cap_usage) <= set(wanted)
        used.update(evaluation.cap_usage)
        for result in evaluation.results:
            assert result.points <= caps.get((result.rule, "event"), result.points)
    for key, given in used.items():
        assert given <= caps[key.rule, key.period.partition(":")[0]]


@over(rule_sets(), activities(), members(), some.randoms(use_true_random=False))
def test_the_same_rules_event_and_facts_give_the_same_in_whatever_order_rules_were_stored(
    definitions: Definitions, activity: Activity, facts: MemberFacts, random: Any
) -> None:
    shuffled = list(definitions)
    random.shuffle(shuffled)
    assert evaluate(rules(*shuffled), activity, facts, {}) == evaluate(
        rules(*definitions), activity, facts, {}
    )


@over(rule_sets(), activities(), members())
def test_a_trace_survives_json_and_tells_every_result(
    definitions: Definitions, activity: Activity, facts: MemberFacts
) -> None:
    evaluation = evaluate(rules(*definitions), activity, facts, {})
    dumped = trace.dump(evaluation, "points")
    stored = trace.canonical(dumped)
    assert json.loads(stored) == dumped
    assert trace.canonical(json.loads(stored)) == stored
    assert only_exact(dumped)
    assert trace.load(stored) == tuple(r for r in evaluation.results if r.point_type == "points")
    told = explain.sentences(stored)
    assert all(any(result.rule in sentence for sentence in told) for result in trace.load(stored))
    assert all(explain.notes(result) for result in trace.load(stored))


def only_exact(value: object) -> bool:
    match value:
        case dict():
            return all(isinstance(key, str) and only_exact(entry) for key, entry in value.items())
        case list():
            return all(map(only_exact, value))
        case _:
            return isinstance(value, int | str)


@over(some.integers(0, 10**15), some.lists(some.integers(0, 10**18), min_size=1, max_size=50))
def test_spread_sums_exactly_and_stays_within_a_point_of_the_share(points: int, weights: list[int]) -> None:
    parts = spread(points, weights)
    assert sum(parts) == points
    total = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        if total:
            assert points * weight // total <= part <= -(-points * weight // total)


def test_ten_thousand_rules_leave_an_event_as_few_candidates_as_ten() -> None:
    def about(sku: str) -> dict[str, Any]:
        goods = {"field": "sku", "op": "eq", "value": sku}
        gift = {"fixed": {"points": 1}}
        shapes: list[dict[str, Any]] = [
            {"when": {"any_item": goods}, "then": [gift]},
            {"then": [{"earn": {"points": 1, "per": 1, "items": goods}}]},
            {
                "when": {"count_items": {"where": goods, "op": "gte", "value": 2}},
                "then": [{"fixed": {"points": 1}}],
            },
        ]
        tier = {"field": "member.tier", "op": "eq", "value": "gold"}
        shape = shapes[sum(sku.encode()) % len(shapes)]
        if "when" in shape:
            shape = {**shape, "when": {"all": [tier, shape["when"]]}}
        return {"rule": sku.lower(), **shape}

    compiled = rules(*(about(f"SKU-{n}") for n in range(10_000)), BASE)
    case = compiled.case(purchase(line("500", sku="SKU-77")), member("gold"))
    assert [rule.name for rule in compiled.candidates(case)] == ["base", "sku-77"]
