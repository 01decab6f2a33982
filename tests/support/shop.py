"""A sweet shop in Mumbai and its customers, for stories about rules."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from server.domain.activity import PURCHASE, REDEMPTION, Activity, Line, MemberFacts
from server.domain.errors import InvalidArgument
from server.domain.program import Program, Tier
from server.domain.rules.compile import RuleSet
from server.domain.rules.evaluate import evaluate
from server.domain.rules.evaluation import CapKey, Evaluation
from server.domain.rules.schema import parse

PROGRAM = Program(
    program_id=UUID(int=1),
    name="sweets",
    currency="INR",
    time_zone="Asia/Kolkata",
    point_types=("points", "credits"),
    tiers=(Tier("bronze", 0), Tier("silver", 1000), Tier("gold", 5000), Tier("platinum", 10_000)),
    rates={"USD": Decimal("83.10")},
    event_types={
        "REVIEW_SUBMITTED": {"rating": "number", "product": "string", "verified": "boolean"},
        "REFERRAL": {"rating": "string", "friend": "string"},
    },
)
# A Sunday, 17:30 in Mumbai.
DIWALI = datetime(2026, 11, 8, 12, 0, tzinfo=UTC)

BASE = {"rule": "base", "when": {"event": "PURCHASE"}, "then": [{"earn": {"points": 20, "per": "100.00"}}]}
FESTIVAL = {"rule": "festival", "when": {"event": "PURCHASE"}, "then": [{"multiply": {"by": 2}}]}


def line(
    amount: str,
    category: str = "sweets",
    sku: str = "LADOO",
    quantity: int = 1,
    line_id: str = "1",
    **attributes: str,
) -> Line:
    return Line(line_id, sku, category, quantity, Decimal(amount), attributes)


def purchase(*lines: Line, at: datetime = DIWALI, **facts: Any) -> Activity:
    lines = lines or (line("500.00"),)
    amount = sum((entry.amount for entry in lines), Decimal(0))
    return Activity(PURCHASE, at, currency="INR", amount=amount, lines=lines, **facts)


def event(event_type: str, at: datetime = DIWALI, **attributes: Any) -> Activity:
    return Activity(event_type, at, attributes=attributes)


def redemption(points: int, at: datetime = DIWALI) -> Activity:
    return Activity(REDEMPTION, at, points=points)


def member(tier: str = "gold", **facts: Any) -> MemberFacts:
    return MemberFacts(tier, **{"joined_at": datetime(2026, 1, 1, tzinfo=UTC), **facts})


def rules(*definitions: Mapping[str, Any], program: Program = PROGRAM) -> RuleSet:
    return RuleSet.compile(program, [(1, definition) for definition in definitions])


def given(
    definitions: list[Mapping[str, Any]],
    activity: Activity | None = None,
    facts: MemberFacts | None = None,
    used: Mapping[CapKey, int] | None = None,
) -> Evaluation:
    return evaluate(rules(*definitions), activity or purchase(), facts or member(), used or {})


def points(*args: Any, **kwargs: Any) -> int:
    award = given(*args, **kwargs).awards.get("points")
    return award.points if award else 0


def outcomes(evaluation: Evaluation) -> dict[str, tuple[str, int]]:
    return {result.rule: (result.outcome, result.points) for result in evaluation.results}


def when(condition: Mapping[str, Any], rule: str = "conditional") -> dict[str, Any]:
    """A rule that gives one point if the condition holds."""
    return {"rule": rule, "when": condition, "then": [{"fixed": {"points": 1}}]}


def holds(
    condition: Mapping[str, Any], activity: Activity | None = None, facts: MemberFacts | None = None
) -> bool:
    return points([when(condition)], activity, facts) == 1


def mistakes(definition: object, program: Program | None = PROGRAM) -> dict[str, str]:
    """What is wrong with a definition: path -> description."""
    with pytest.raises(InvalidArgument) as refused:
        parse(definition, program)
    assert refused.value.reason == "RULE_INVALID"
    return {violation.field: violation.description for violation in refused.value.violations}
