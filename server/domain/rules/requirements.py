"""What a condition demands at the least, read off its shape.

The index files rules by it, and the schema refuses rules that nothing can satisfy.
A demand may be missed, but everything stated here holds whenever the condition does.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from server.domain.rules.conditions import compare
from server.domain.rules.definition import Comparison, Condition, EventIs, Group, Items, Total
from server.domain.rules.fields import FIELDS, Type, field_of

# Field -> values of which the activity or the member must have at least one.
Demands = Mapping[str, frozenset[Any]]

_ZERO: Mapping[str, object] = {"amount": Decimal(0), "quantity": 0, "lines": 0}


def possible_events(condition: Condition | None) -> frozenset[str] | None:
    """The types of event that can satisfy the condition; None for any type."""
    match condition:
        case EventIs(event_type):
            return frozenset((event_type,))
        case Group(every, some):
            allowed: frozenset[str] | None = None
            for part in every:
                allowed = _both(allowed, possible_events(part))
            if some:
                branches = [possible_events(part) for part in some]
                known = [branch for branch in branches if branch is not None]
                if len(known) == len(branches):
                    allowed = _both(allowed, frozenset().union(*known))
            return allowed
        case _:
            return None


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def demands(condition: Condition | None) -> Demands:  # noqa: PLR0911 - one way out per kind of condition
    """For each field the values of which at least one must be there."""
    match condition:
        case Comparison(name, op, value):
            if op == "eq" and _indexable(name, value):
                return {name: frozenset((value,))}
            if op == "in" and isinstance(value, tuple) and all(_indexable(name, entry) for entry in value):
                return {name: frozenset(value)}
            return {}
        case Group(every, some):
            found = _merge(demands(part) for part in every)
            return _merge((found, _shared([demands(part) for part in some]))) if some else found
        case Items(_, where):
            return demands(where)
        case Total(of, where, op, value):
            # Satisfied by an empty sum, it demands nothing of the basket.
            return {} if compare(lambda zero: zero, op, value)(_ZERO[of]) else demands(where)
        case _:
            return {}


def _indexable(name: str, value: object) -> bool:
    known = FIELDS.get(name) or field_of(name)
    return known.type in (Type.TEXT, Type.SET) and isinstance(value, str)


def _merge(parts: Iterable[Demands]) -> dict[str, frozenset[Any]]:
    # Two demands on one field aren't intersected: different lines, or tags, may meet them.
    found: dict[str, frozenset[Any]] = {}
    for part in parts:
        for name, values in part.items():
            if name not in found or len(values) < len(found[name]):
                found[name] = values
    return found


def _shared(branches: list[Demands]) -> Demands:
    first, *rest = branches
    return {
        name: values.union(*(branch[name] for branch in rest))
        for name, values in first.items()
        if all(name in branch for branch in rest)
    }


def item_conditions(condition: Condition | None) -> Iterator[Condition]:
    """The conditions on lines that a rule states, save under ``none``: the rule is about these goods."""
    match condition:
        case Items(_, where):
            yield where
        case Total(_, where):
            if where is not None:
                yield where
        case Group(every, some):
            for part in (*every, *some):
                yield from item_conditions(part)
