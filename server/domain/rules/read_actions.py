"""Reading actions: what stands under `then`."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from server.domain.program import Program
from server.domain.rules.definition import (
    Action,
    AddTag,
    Bonus,
    Condition,
    Earn,
    Fixed,
    Limit,
    Multiply,
    RuleType,
    Worth,
)
from server.domain.rules.read_conditions import MAX_AMOUNT, ConditionReader, Scope, check_currency
from server.domain.rules.reading import Reader, close_to, shown

MAX_ACTIONS = 20
MAX_POINTS = 10**9
MAX_REDEEMED = 10**12
MAX_MULTIPLIER = 1000
ROUNDINGS = ("floor", "half_even", "ceil")
MULTIPLIED = ("base", "lines")
SMALLEST = Decimal("0.000000001")


class ActionReader:
    """Reads the actions of one rule."""

    def __init__(self, reader: Reader, conditions: ConditionReader, scope: Scope) -> None:
        self._reader = reader
        self._conditions = conditions
        self._program: Program | None = scope.program
        self._rule_type = scope.rule_type

    def actions(self, raw: object, path: str) -> tuple[Action, ...]:
        """The list of actions, one key each."""
        read = [
            self._action(entry, f"{path}[{place}]")
            for place, entry in enumerate(self._reader.listed(raw, path, MAX_ACTIONS))
        ]
        return tuple(action for action in read if action is not None)

    def _action(self, raw: object, path: str) -> Action | None:
        readers = _READERS[self._rule_type]
        if not isinstance(raw, Mapping) or len(raw) != 1:
            self._reader.wrong(path, f"must be an object with one action, one of {', '.join(readers)}")
            return None
        ((key, body),) = raw.items()
        read = readers.get(key) if isinstance(key, str) else None
        if read is None:
            other = next((t for t, known in _READERS.items() if isinstance(key, str) and key in known), None)
            hint = f"; it goes with rules of type {other}" if other else close_to(key, readers)
            self._reader.wrong(path, f"{shown(key)} is no action of a rule of type {self._rule_type}{hint}")
            return None
        return read(self, body, f"{path}.{key}")

    def _earn(self, raw: object, path: str) -> Action | None:
        keys = ("points", "per", "currency", "rounding", "to", "items")
        record = self._reader.record(raw, path, keys, ("points", "per"))
        if record is None:
            return None
        points = self._points(record, path)
        per = self._money(record, path, "per")
        rounding, to, items = self._rounding(record, path), self._to(record, path), self._items(record, path)
        return None if points is None or per is None else Earn(points, per, rounding, to, items)

    def _multiply(self, raw: object, path: str) -> Action | None:
        record = self._reader.record(raw, path, ("by", "of", "rounding", "to", "items"), ("by",))
        if record is None:
            return None
        by = None
        if "by" in record:
            by = self._reader.decimal(
                record["by"], f"{path}.by", Decimal(1), Decimal(MAX_MULTIPLIER), places=4
            )
            if by == 1:
                self._reader.wrong(f"{path}.by", "must be more than 1; times 1 adds nothing")
        of = self._reader.choice(record.get("of", "base"), f"{path}.of", MULTIPLIED)
        if of == "base" and "items" in record:
            self._reader.wrong(f"{path}.items", "goes with `of: lines`")
        rounding, to, items = self._rounding(record, path), self._to(record, path), self._items(record, path)
        return None if by is None or of is None else Multiply(by, of, rounding, to, items)

    def _fixed(self, raw: object, path: str) -> Action | None:
        record = self._reader.record(raw, path, ("points", "to"), ("points",))
        if record is None:
            return None
        points, to = self._points(record, path), self._to(record, path)
        return None if points is None else Fixed(points, to)

    def _bonus(self, raw: object, path: str) -> Action | None:
        record = self._reader.record(raw, path, ("points", "per", "to", "items"), ("points", "per"))
        if record is None:
            return None
        if "per" in record:
            self._reader.choice(record["per"], f"{path}.per", ("item",))
        points, to, items = self._points(record, path), self._to(record, path), self._items(record, path)
        return None if points is None else Bonus(points, to, items)

    def _add_tag(self, raw: object, path: str) -> Action | None:
        record = self._reader.record(raw, path, ("tag",), ("tag",))
        if record is None or "tag" not in record:
            return None
        tag = self._reader.name(record["tag"], f"{path}.tag")
        return None if tag is None else AddTag(tag)

    def _worth(self, raw: object, path: str) -> Action | None:
        record = self._reader.record(raw, path, ("points", "money", "currency"), ("points", "money"))
        if record is None:
            return None
        points, money = self._points(record, path), self._money(record, path, "money")
        return None if points is None or money is None else Worth(points, money)

    def _limit(self, raw: object, path: str) -> Action | None:
        keys = ("min", "max", "multiple_of")
        record = self._reader.record(raw, path, keys)
        if record is None:
            return None
        if not any(key in record for key in keys):
            self._reader.wrong(path, "must have at least one of min, max and multiple_of")
        low, high, multiple = (
            (self._reader.count(record[key], f"{path}.{key}", 1, MAX_REDEEMED) or 0) if key in record else 0
            for key in keys
        )
        if high and low > high:
            self._reader.wrong(f"{path}.max", "must not be below min")
        elif high and multiple > high:
            self._reader.wrong(f"{path}.multiple_of", "must not be above max")
        return Limit(low, high, multiple)

    def _points(self, record: Mapping[str, Any], path: str) -> int | None:
        if "points" not in record:
            return None
        return self._reader.count(record["points"], f"{path}.points", 1, MAX_POINTS)

    def _money(self, record: Mapping[str, Any], path: str, key: str) -> Decimal | None:
        if "currency" in record:
            check_currency(self._reader, self._program, record["currency"], f"{path}.currency")
        if key not in record:
            return None
        return self._reader.decimal(record[key], f"{path}.{key}", SMALLEST, MAX_AMOUNT)

    def _rounding(self, record: Mapping[str, Any], path: str) -> str:
        return self._reader.choice(record.get("rounding", "floor"), f"{path}.rounding", ROUNDINGS) or "floor"

    def _to(self, record: Mapping[str, Any], path: str) -> str | None:
        if "to" not in record:
            return None
        if self._program is None:
            return self._reader.text(record["to"], f"{path}.to", most=64)
        return self._reader.choice(record["to"], f"{path}.to", self._program.point_types)

    def _items(self, record: Mapping[str, Any], path: str) -> Condition | None:
        if "items" not in record:
            return None
        return self._conditions.condition(record["items"], f"{path}.items", items=True)


_READERS: Mapping[RuleType, Mapping[str, Callable[[ActionReader, object, str], Action | None]]] = {
    RuleType.EARN: {
        "earn": ActionReader._earn,
        "multiply": ActionReader._multiply,
        "fixed": ActionReader._fixed,
        "bonus": ActionReader._bonus,
        "add_tag": ActionReader._add_tag,
    },
    RuleType.REDEEM: {"value": ActionReader._worth, "limit": ActionReader._limit},
}

# The words for actions, by type of rule.
ACTIONS: Mapping[RuleType, tuple[str, ...]] = {kind: tuple(readers) for kind, readers in _READERS.items()}
