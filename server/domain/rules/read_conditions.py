"""Reading conditions: `when`, and `items` and `where` inside it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from server.domain.activity import BUILT_IN_TYPES, PURCHASE, REDEMPTION
from server.domain.program import Program
from server.domain.rules.definition import (
    Comparison,
    Condition,
    EventIs,
    Group,
    Items,
    RuleType,
    Scalar,
    Total,
    Value,
)
from server.domain.rules.fields import (
    ALL_OPERATORS,
    EVENT_ATTRIBUTE,
    FIELDS,
    OPERATORS,
    WEEKDAYS,
    Field,
    Level,
    Type,
    attribute,
    attribute_prefix,
)
from server.domain.rules.reading import ATTRIBUTE_NAME, MAX_SET, Reader, close_to, shown

MAX_DEPTH = 10
MAX_CONDITIONS = 200
MAX_AMOUNT = Decimal(10**12)
GROUPS = ("all", "any", "none")
ITEM_QUANTIFIERS: Mapping[str, str] = {"any_item": "any", "all_items": "all"}
TOTALS = ("sum_items", "count_items")
SUMS = ("amount", "quantity")
LEAVES = ("event", "field", *ITEM_QUANTIFIERS, *TOTALS)
_DECLARED: Mapping[str, Type] = {"string": Type.TEXT, "number": Type.NUMBER, "boolean": Type.FLAG}


@dataclass(frozen=True, slots=True)
class Scope:
    """What a definition may refer to.

    Without a program, which is enough to compare definitions, names go unchecked.
    """

    program: Program | None
    rule_type: RuleType
    named_events: frozenset[str]


def named_events(raw: object, depth: int = 0) -> frozenset[str]:
    """Every event type named anywhere in a raw condition, before it is checked."""
    if depth > MAX_DEPTH + 1:
        return frozenset()
    if isinstance(raw, Mapping):
        here = {name for name in (raw.get("event"),) if isinstance(name, str)}
        return frozenset(here).union(*(named_events(part, depth + 1) for part in raw.values()))
    if isinstance(raw, list | tuple):
        # A list is no deeper than the condition that holds it.
        return frozenset[str]().union(
            *(named_events(part, depth + 1) for part in raw if isinstance(part, Mapping))
        )
    return frozenset()


def known_event(reader: Reader, program: Program | None, name: str, path: str) -> bool:
    """Whether the program has this type of event; a mistake if not."""
    if program is None or name in BUILT_IN_TYPES or name in program.event_types:
        return True
    known = (PURCHASE, *program.event_types)
    reader.wrong(path, f"{shown(name)} is no registered event type{close_to(name, known)}")
    return False


class ConditionReader:
    """Reads the conditions of one rule; together they may be at most MAX_CONDITIONS."""

    def __init__(self, reader: Reader, scope: Scope) -> None:
        self._reader = reader
        self._scope = scope
        self._left = MAX_CONDITIONS

    def condition(  # noqa: PLR0911 - one way out per kind
        self, raw: object, path: str, items: bool = False, depth: int = 1
    ) -> Condition | None:
        """One condition, of the activity and the member, or of a line where ``items``."""
        reader = self._reader
        if depth > MAX_DEPTH:
            reader.wrong(path, f"is nested deeper than {MAX_DEPTH} levels")
            return None
        self._left -= 1
        if self._left == -1:
            reader.wrong(path, f"is one condition too many; a rule may have {MAX_CONDITIONS}")
        if self._left < 0:
            return None
        if not isinstance(raw, Mapping):
            reader.wrong(path, f"must be a condition, an object, not {shown(raw)}")
            return None
        kinds = (*GROUPS, "field") if items else (*GROUPS, *LEAVES)
        kind = next((key for key in kinds if key in raw), None)
        if kind in GROUPS:
            return self._group(raw, path, items, depth)
        if kind == "field":
            return self._comparison(raw, path, items)
        if kind is None:
            self._no_condition(raw, path, kinds, items)
            return None
        if reader.record(raw, path, (kind,)) is None:
            return None
        body, below = raw[kind], f"{path}.{kind}"
        if self._scope.rule_type is RuleType.REDEEM and kind != "event":
            reader.wrong(below, "a redemption has no basket; only earn rules look at items")
            return None
        if kind == "event":
            return self._event(body, below)
        if kind in ITEM_QUANTIFIERS:
            where = self.condition(body, below, items=True, depth=depth + 1)
            return where and Items(ITEM_QUANTIFIERS[kind], where)
        return self._total(kind, body, below, depth)

    def _no_condition(self, raw: Mapping[Any, Any], path: str, kinds: tuple[str, ...], items: bool) -> None:
        if not raw:
            self._reader.wrong(path, f"is empty; a condition has one of {', '.join(kinds)}")
        for key in raw:
            if items and key in LEAVES:
                self._reader.wrong(f"{path}.{key}", "can't stand inside a condition on items")
            else:
                self._reader.record({key: None}, path, kinds)

    def _group(self, raw: Mapping[Any, Any], path: str, items: bool, depth: int) -> Condition | None:
        self._reader.record(raw, path, GROUPS)
        parts: dict[str, tuple[Condition, ...]] = {}
        for key in GROUPS:
            if key in raw:
                entries = self._reader.listed(raw[key], f"{path}.{key}", MAX_CONDITIONS)
                read = [
                    self.condition(entry, f"{path}.{key}[{place}]", items, depth + 1)
                    for place, entry in enumerate(entries)
                ]
                parts[key] = tuple(part for part in read if part is not None)
        return Group(**parts)

    def _event(self, raw: object, path: str) -> Condition | None:
        program, rule_type = self._scope.program, self._scope.rule_type
        if not isinstance(raw, str):
            self._reader.wrong(path, f"must be the name of an event type, not {shown(raw)}")
            return None
        if (raw == REDEMPTION) is not (rule_type is RuleType.REDEEM):
            what = "only redemptions" if rule_type is RuleType.REDEEM else "what earns, never a REDEMPTION"
            self._reader.wrong(path, f"a rule of type {rule_type} is about {what}")
            return None
        return EventIs(raw) if known_event(self._reader, program, raw, path) else None

    def _total(self, kind: str, raw: object, path: str, depth: int) -> Condition | None:
        summed = kind == "sum_items"
        keys = ("of", "where", "op", "value", "currency") if summed else ("where", "op", "value")
        record = self._reader.record(raw, path, keys, ("of", "op") if summed else ("op",))
        if record is None:
            return None
        of: str | None = "lines"
        if summed:
            of = self._reader.choice(record["of"], f"{path}.of", SUMS) if "of" in record else None
        where = None
        if "where" in record:
            where = self.condition(record["where"], f"{path}.where", items=True, depth=depth + 1)
        if of is None:
            return None
        field = Field(Type.MONEY if of == "amount" else Type.COUNT, Level.EVENT, lambda case: None)
        compared = self._operator_and_value(record, path, field, of)
        return compared and Total(of, where, *compared)

    def _comparison(self, raw: Mapping[Any, Any], path: str, items: bool) -> Condition | None:
        self._reader.record(raw, path, ("field", "op", "value", "currency"), ("op",))
        found = self._field(raw["field"], f"{path}.field", items)
        if found is None:
            return None
        name, field = found
        compared = self._operator_and_value(raw, path, field, str(raw["field"]))
        return compared and Comparison(name, *compared)

    def _field(  # noqa: PLR0911 - one way out per mistake
        self, raw: object, path: str, items: bool
    ) -> tuple[str, Field] | None:
        if not isinstance(raw, str):
            self._reader.wrong(path, f"must be the name of a field, not {shown(raw)}")
            return None
        name = f"item.{raw}" if items and not raw.startswith("item.") else raw
        prefix = attribute_prefix(name)
        if prefix is None and name not in FIELDS:
            self._reader.wrong(
                path, f"there is no field {shown(raw)} here{close_to(raw, self._names(items))}"
            )
            return None
        if prefix is not None and not ATTRIBUTE_NAME.fullmatch(name.removeprefix(prefix)):
            self._reader.wrong(
                path, f"{shown(raw)} doesn't name an attribute; write {prefix}colour, for example"
            )
            return None
        field = FIELDS[name] if prefix is None else self._attribute(name, prefix, path)
        if field is None:
            return None
        if (field.level is Level.ITEM) is not items:
            where = "stands inside any_item, all_items, sum_items or count_items only"
            self._reader.wrong(path, f"{raw} {where}")
            return None
        if field.rule_type not in (None, self._scope.rule_type):
            self._reader.wrong(path, f"{raw} is known in rules of type {field.rule_type} only")
            return None
        return name, field

    def _names(self, items: bool) -> Iterable[str]:
        for name, field in FIELDS.items():
            if (field.level is Level.ITEM) is items and field.rule_type in (None, self._scope.rule_type):
                yield name.removeprefix("item.")

    def _attribute(self, name: str, prefix: str, path: str) -> Field | None:
        program, named = self._scope.program, self._scope.named_events
        if prefix != EVENT_ATTRIBUTE:
            return attribute(name)
        if program is None:
            return attribute(name, Type.ANY)
        short = name.removeprefix(prefix)
        declaring = [program.event_types[event] for event in sorted(named) if event in program.event_types]
        types = {declared[short] for declared in declaring if short in declared}
        if len(types) > 1:
            self._reader.wrong(
                path, f"the event types named in the rule declare {short} differently; split the rule"
            )
            return None
        if types:
            return attribute(name, _DECLARED[types.pop()])
        if declaring and PURCHASE not in named:
            known = sorted({attribute_name for declared in declaring for attribute_name in declared})
            self._reader.wrong(
                path,
                f"no event type named in the rule declares the attribute {short}{close_to(short, known)}",
            )
            return None
        return attribute(name)

    def _operator_and_value(
        self, raw: Mapping[Any, Any], path: str, field: Field, label: str
    ) -> tuple[str, Value] | None:
        allowed = (*OPERATORS[field.type], *(("exists",) if field.optional else ()))
        self._currency(raw, path, field)
        op = raw.get("op")
        if not isinstance(op, str) or op not in allowed:
            if "op" in raw:
                close = close_to(op, allowed if op not in ALL_OPERATORS else ())
                known = f" ({', '.join(allowed)} do)" if op in ALL_OPERATORS else ""
                self._reader.wrong(
                    f"{path}.op", f"{shown(op)} does not go with {shown(label)}, a {field.type}{known}{close}"
                )
            return None
        if op == "exists":
            value: Value | None = self._reader.flag(raw.get("value", True), f"{path}.value")
        elif "value" in raw:
            value = self._value(raw["value"], f"{path}.value", op, field, label)
        else:
            self._reader.wrong(f"{path}.value", "is required")
            return None
        return None if value is None else (op, value)

    def _currency(self, raw: Mapping[Any, Any], path: str, field: Field) -> None:
        if "currency" not in raw:
            return
        if field.type is not Type.MONEY:
            self._reader.wrong(f"{path}.currency", "goes with amounts only")
        else:
            check_currency(self._reader, self._scope.program, raw["currency"], f"{path}.currency")

    def _value(self, raw: object, path: str, op: str, field: Field, label: str) -> Value | None:
        if op in ("in", "not_in"):
            entries = self._reader.listed(raw, path, MAX_SET)
            read = [self._scalar(e, f"{path}[{i}]", field, label) for i, e in enumerate(entries)]
            values = tuple(entry for entry in read if entry is not None)
            return values if entries and len(values) == len(entries) else None
        if op == "between":
            ends = self._reader.listed(raw, path, most=2, least=2)
            low, high = [self._scalar(e, f"{path}[{i}]", field, label) for i, e in enumerate(ends)] + [
                None
            ] * (2 - len(ends))
            if low is None or high is None:
                return None
            if field.type is not Type.ANY and low > high:  # type: ignore[operator]
                self._reader.wrong(path, "must go from the smaller to the larger")
                return None
            return low, high
        return self._scalar(raw, path, field, label)

    def _scalar(self, raw: object, path: str, field: Field, label: str) -> Scalar | None:  # noqa: PLR0911
        reader, program = self._reader, self._scope.program
        match field.type:
            case Type.MONEY:
                return reader.decimal(raw, path, Decimal(0), MAX_AMOUNT)
            case Type.NUMBER:
                return reader.decimal(raw, path, -MAX_AMOUNT, MAX_AMOUNT)
            case Type.COUNT:
                return reader.count(raw, path, field.low, field.high)
            case Type.FLAG:
                return reader.flag(raw, path)
            case Type.DATE:
                return reader.day(raw, path)
            case Type.WEEKDAY:
                return reader.choice(raw, path, WEEKDAYS)
            case Type.ANY:
                if isinstance(raw, str | bool):
                    return raw
                return reader.decimal(raw, path, -MAX_AMOUNT, MAX_AMOUNT)
        if label == "member.tier" and program is not None:
            return reader.choice(raw, path, [tier.name for tier in program.tiers])
        return reader.text(raw, path)


def check_currency(reader: Reader, program: Program | None, raw: object, path: str) -> None:
    """Rules count in the program's currency; naming another one is a mistake."""
    if not isinstance(raw, str) or len(raw) != 3 or not (raw.isascii() and raw.isupper()):
        reader.wrong(path, f"must be a currency code such as INR, not {shown(raw)}")
    elif program is not None and raw != program.currency:
        reader.wrong(
            path, f"rules of this program count in {program.currency}; {raw} amounts are converted first"
        )
