"""Which rules could match an activity, without looking at each.

A rule is filed under each type of event it can count for and there under one field it
demands a value of, such as ``item.sku``: the field with the most different values over
the whole rule set, so that one value leads to few rules. Rules that demand nothing of the
kind are looked at always. An activity meets a superset of the rules that match.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from server.domain.rules.fields import FIELDS, Case, Level, Type, field_of
from server.domain.rules.requirements import Demands

# What the activity and the member hold under a field, as keys to look up.
Keys = Callable[[Case], Iterable[Any]]


class Shelf:
    """The rules for one type of event, by place in the order of consideration."""

    __slots__ = ("_always", "_filed")

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
        self._filed: Sequence[tuple[Keys, Mapping[Any, list[int]]]] = [
            (_keys(name), dict(by_value)) for name, by_value in sorted(filed.items())
        ]

    def places(self, case: Case) -> Sequence[int]:
        """The places of the rules that could match, ascending."""
        found: list[int] = []
        for keys, by_value in self._filed:
            for key in keys(case):
                if key in by_value:
                    found += by_value[key]
        # A rule may be met under two values.
        return sorted({*self._always, *found}) if found else self._always


def of_anybody(demanded: Demands) -> Demands:
    """What is demanded of the activity, whoever the member is."""
    return {name: values for name, values in demanded.items() if field_of(name).level is not Level.MEMBER}


def _keys(name: str) -> Keys:
    field = field_of(name)
    get = field.get
    if field.level is Level.ITEM:
        return lambda case: {get(line) for line in case.activity.lines}
    if name in FIELDS and field.type is Type.SET:
        return get
    return lambda case: (get(case),)
