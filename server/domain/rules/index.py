"""Which rules could match an activity, without looking at each.

A rule is filed under each type of event it can count for and there under one field it
demands a value of, such as ``item.sku``: the field with the most different values over
the whole rule set, so that one value leads to few rules. Rules that demand nothing of the
kind are looked at always. An activity meets a superset of the rules that match.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from server.domain.rules.fields import FIELDS, Case, Field, Level, Type, field_of
from server.domain.rules.requirements import Demands

_NOWHERE: Sequence[int] = ()


class Shelf:
    """The rules for one type of event, by place in the order of consideration."""

    __slots__ = ("_always", "_by_one", "_by_some")

    def __init__(self, demands: Mapping[int, Demands]) -> None:
        distinct: defaultdict[str, set[Any]] = defaultdict(set)
        for demanded in demands.values():
            for name, values in demanded.items():
                distinct[name] |= values
        always: list[int] = []
        filed: defaultdict[str, defaultdict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, demanded in demands.items():
            if not demanded:
                always.append(place)
                continue
            name = max(demanded, key=lambda name: (len(distinct[name]) / len(demanded[name]), name))
            for value in demanded[name]:
                filed[name][value].append(place)
        self._always = sorted(always)
        fields = [(name, field_of(name), dict(by_value)) for name, by_value in sorted(filed.items())]
        self._by_one: Sequence[tuple[Callable[[Case], Any], Mapping[Any, list[int]]]] = [
            (field.get, by_value) for name, field, by_value in fields if not _is_some(name, field)
        ]
        self._by_some: Sequence[tuple[Callable[[Case], Iterable[Any]], Mapping[Any, list[int]]]] = [
            (_some(field), by_value) for name, field, by_value in fields if _is_some(name, field)
        ]

    def places(self, case: Case) -> Sequence[int]:
        """The places of the rules that could match, ascending."""
        found = list(self._always)
        for get, by_value in self._by_one:
            found += by_value.get(get(case), _NOWHERE)
        for some, by_value in self._by_some:
            for value in some(case):
                found += by_value.get(value, _NOWHERE)
        # A rule may be met under several values.
        return sorted(set(found))


def of_anybody(demanded: Demands) -> Demands:
    """What is demanded of the activity, whoever the member is."""
    return {name: values for name, values in demanded.items() if field_of(name).level is not Level.MEMBER}


def _is_some(name: str, field: Field) -> bool:
    """Whether a case has several values of the field: one of each line, or a member's many."""
    return field.level is Level.ITEM or (name in FIELDS and field.type is Type.SET)


def _some(field: Field) -> Callable[[Case], Iterable[Any]]:
    """All values that a case has of such a field."""
    get = field.get
    return get if field.level is not Level.ITEM else lambda case: {get(line) for line in case.activity.lines}
