"""Conditions compiled into closures, once per rule version."""

from collections.abc import Callable, Iterable, Mapping
from decimal import Context, Decimal
from typing import Any

from server.domain.activity import Line
from server.domain.rules.definition import Comparison, Condition, EventIs, Group, Items, Total, Value
from server.domain.rules.fields import FIELDS, Case, Type, field_of

# Takes a Case, or a Line inside item conditions.
Test = Callable[[Any], bool]
Getter = Callable[[Any], Any]

# Wide enough for any sum of amounts: nothing is ever rounded here.
_EXACT = Context(prec=200)
_ABSENT: tuple[object, ...] = ("", None, frozenset())
_OPPOSITE: Mapping[str, str] = {"ne": "eq", "not_in": "in"}

# Operator -> how the test of a getter against a value is made.
_TESTS: Mapping[str, Callable[[Getter, Any], Test]] = {
    "eq": lambda get, value: lambda subject: get(subject) == value,
    "gt": lambda get, value: lambda subject: get(subject) > value,
    "gte": lambda get, value: lambda subject: get(subject) >= value,
    "lt": lambda get, value: lambda subject: get(subject) < value,
    "lte": lambda get, value: lambda subject: get(subject) <= value,
    "in": lambda get, value: _member_of(get, frozenset(value)),
    "between": lambda get, value: lambda subject: value[0] <= get(subject) <= value[1],
    "starts_with": lambda get, value: lambda subject: get(subject).startswith(value),
    # "", None and an empty set are absent; 0 and False are there.
    "exists": lambda get, value: lambda subject: (get(subject) not in _ABSENT) is value,
}


def compile_condition(condition: Condition | None) -> Test:
    """The test of a condition, of a Case or of a Line; None is always true."""
    match condition:
        case None:
            return _always
        case EventIs(event_type):
            return lambda case: bool(case.activity.event_type == event_type)
        case Comparison(name, op, value):
            return _comparison(name, op, value)
        case Group():
            return _group(condition)
        case Items(quantifier, where):
            return _items(quantifier, compile_condition(where))
        case Total(of, where, op, value):
            return compare(_total(of, compile_condition(where)), op, value)


def compare(get: Getter, op: str, value: Value) -> Test:
    """The test of what ``get`` returns against a value."""
    if op in _OPPOSITE:
        positive = _TESTS[_OPPOSITE[op]](get, value)
        return lambda subject: not positive(subject)
    return _TESTS[op](get, value)


def _always(_: Any) -> bool:
    return True


def _member_of(get: Getter, values: frozenset[Any]) -> Test:
    return lambda subject: get(subject) in values


def _comparison(name: str, op: str, value: Value) -> Test:
    get = field_of(name).get
    if op == "exists":
        return compare(get, op, value)
    if name in FIELDS:
        return _set_test(get, op, value) if FIELDS[name].type is Type.SET else compare(get, op, value)
    if op in _OPPOSITE:
        positive = _comparison(name, _OPPOSITE[op], value)
        return lambda subject: not positive(subject)
    # An attribute may be missing, or of another type in another type of event: then no
    # comparison holds.
    kind = type(value[0] if isinstance(value, tuple) else value)
    test = compare(get, op, value)
    return lambda subject: type(get(subject)) is kind and test(subject)


def _set_test(get: Getter, op: str, value: Value) -> Test:
    wanted = frozenset(value if isinstance(value, tuple) else (value,))
    absent = op in _OPPOSITE
    return lambda subject: wanted.isdisjoint(get(subject)) is absent


def _group(group: Group) -> Test:
    tests = [compile_condition(part) for part in group.all]
    if group.any:
        tests.append(_any([compile_condition(part) for part in group.any]))
    if group.none:
        some = _any([compile_condition(part) for part in group.none])
        tests.append(lambda subject: not some(subject))
    return _all(tests)


def _all(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda subject: first(subject) and second(subject)

    def every(subject: Any) -> bool:
        for test in tests:  # noqa: SIM110 - a generator would cost more than the tests
            if not test(subject):
                return False
        return True

    return every


def _any(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def some(subject: Any) -> bool:
        for test in tests:  # noqa: SIM110
            if test(subject):
                return True
        return False

    return some


def _items(quantifier: str, where: Test) -> Test:
    if quantifier == "any":

        def some(case: Case) -> bool:
            for line in case.activity.lines:  # noqa: SIM110
                if where(line):
                    return True
            return False

        return some

    def every(case: Case) -> bool:
        for line in case.activity.lines:
            if not where(line):
                return False
        # An event without a basket doesn't consist of the right goods.
        return bool(case.activity.lines)

    return every


def _total(of: str, where: Test) -> Getter:
    if of == "lines":
        return lambda case: sum(1 for line in case.activity.lines if where(line))
    if of == "quantity":
        return lambda case: sum(line.quantity for line in case.activity.lines if where(line))

    def amount(case: Case) -> Decimal:
        return exact_sum(line for line in case.activity.lines if where(line))

    return amount


def exact_sum(lines: Iterable[Line]) -> Decimal:
    """The sum of the lines' amounts, exact whatever the caller's decimal context."""
    total = Decimal(0)
    for line in lines:
        total = _EXACT.add(total, line.amount)
    return total
