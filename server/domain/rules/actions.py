"""Actions compiled into closures: points per line, and the arithmetic as notes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from server.domain.activity import Line
from server.domain.program import Program
from server.domain.rules.arithmetic import ROUND, spread, weights_by_amount
from server.domain.rules.conditions import Test, compile_condition, exact_sum
from server.domain.rules.definition import (
    AddTag,
    Bonus,
    Condition,
    Earn,
    Fixed,
    Group,
    Multiply,
    Paying,
    Rule,
)
from server.domain.rules.evaluation import Note
from server.domain.rules.reading import plain
from server.domain.rules.requirements import item_conditions


class Given(NamedTuple):
    """What one action gives: in all, line by line (nothing where there is no basket), and how."""

    points: int
    lines: Sequence[int]
    note: Note


# (lines of the basket, base points of each line) -> what the action gives
Give = Callable[[Sequence[Line], Sequence[int]], Given]


def compile_actions(rule: Rule, program: Program) -> tuple[Give, ...]:
    """The paying actions of a rule, in order."""
    about = tuple(item_conditions(rule.when))
    goods: Condition | None = (about[0] if len(about) == 1 else Group(any=about)) if about else None
    return tuple(_compile(action, goods, program) for action in rule.then if isinstance(action, Paying))


def tags_of(rule: Rule) -> frozenset[str]:
    """The tags the rule puts on the member."""
    return frozenset(action.tag for action in rule.then if isinstance(action, AddTag))


def _compile(action: Paying, goods: Condition | None, program: Program) -> Give:
    match action:
        case Earn():
            return _earn(action, program)
        case Multiply():
            return _multiply(action, _optional(action.items or goods) if action.of == "lines" else None)
        case Fixed(points, _):
            return _fixed(points, _optional(goods))
        case Bonus():
            return _bonus(action.points, _optional(action.items or goods))


def _optional(condition: Condition | None) -> Test | None:
    return None if condition is None else compile_condition(condition)


def _earn(action: Earn, program: Program) -> Give:
    per_numerator, per_denominator = action.per.as_integer_ratio()
    factor, divisor = action.points * per_denominator, per_numerator
    items = _optional(action.items)
    rounded = ROUND[action.rounding]
    terms: Note = {
        "kind": "earn",
        "points": action.points,
        "per": plain(action.per),
        "currency": program.currency,
        "rounding": action.rounding,
    }

    def give(lines: Sequence[Line], _: Sequence[int]) -> Given:
        parts: list[int] = []
        counted: list[Line] = []
        for line in lines:
            if items is None or items(line):
                numerator, denominator = line.amount.as_integer_ratio()
                parts.append(rounded(numerator * factor, denominator * divisor))
                counted.append(line)
            else:
                parts.append(0)
        amount = counted[0].amount if len(counted) == 1 else exact_sum(counted)
        return Given(sum(parts), parts, {**terms, "amount": plain(amount), "lines": len(counted)})

    return give


def _multiply(action: Multiply, items: Test | None) -> Give:
    factor, divisor = (action.by - 1).as_integer_ratio()
    rounded = ROUND[action.rounding]
    terms: Note = {"kind": "multiply", "by": plain(action.by), "of": action.of, "rounding": action.rounding}

    def give(lines: Sequence[Line], base: Sequence[int]) -> Given:
        if items is not None:
            base = [points if items(line) else 0 for line, points in zip(lines, base, strict=True)]
        parts = [rounded(points * factor, divisor) for points in base]
        more = sum(parts)
        return Given(more, parts, {**terms, "base": sum(base), "more": more})

    return give


def _fixed(points: int, items: Test | None) -> Give:
    note: Note = {"kind": "fixed", "points": points}

    def give(lines: Sequence[Line], _: Sequence[int]) -> Given:
        if not lines:
            return Given(points, (), note)
        if len(lines) == 1:
            return Given(points, (points,), note)
        counted = [items is None or items(line) for line in lines]
        if not any(counted):
            counted = [True] * len(lines)
        return Given(points, spread(points, weights_by_amount(lines, counted)), note)

    return give


def _bonus(points: int, items: Test | None) -> Give:
    def give(lines: Sequence[Line], _: Sequence[int]) -> Given:
        units = [line.quantity if items is None or items(line) else 0 for line in lines]
        parts = [points * count for count in units]
        return Given(sum(parts), parts, {"kind": "bonus", "points": points, "units": sum(units)})

    return give
