"""What applying a file of rules would change, and how to show it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import yaml
from rich.text import Text

from laurel.failures import Failure
from laurel.rule_files import RuleFile
from server.domain.activity import BUILT_IN_TYPES, PURCHASE
from server.domain.rules.canonical import canonical
from server.domain.rules.read_conditions import named_events
from server.domain.rules.reading import close_to, shown

Definition = Mapping[str, Any]

ADDED, CHANGED, RETIRED = "added", "changed", "retired"
_KEYS = (
    *("rule", "type", "priority", "when", "then", "stacking", "caps", "active", "pending", "expire"),
    *(
        "by",
        "of",
        "where",
        "field",
        "op",
        "value",
        "points",
        "money",
        "per",
        "currency",
        "rounding",
        "to",
        "items",
    ),
    *("group", "mode", "exclusive", "from", "until", "days", "hours", "min", "max", "multiple_of"),
)
_RANKS = {key: rank for rank, key in enumerate(_KEYS)}
_SIGNS = {ADDED: ("+", "green"), CHANGED: ("~", "yellow"), RETIRED: ("-", "red")}


@dataclass(frozen=True, slots=True)
class InForce:
    """What the server has: versions in force and their definitions, event types, the revision of both."""

    rules: Mapping[str, tuple[int, Definition]]
    event_types: Mapping[str, Mapping[str, str]]
    revision: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What would change.

    ``store``: definitions to make versions of. ``other``: how many rules in force are left
    alone because the file doesn't name them.
    """

    event_types: tuple[Mapping[str, Any], ...]
    kinds: Mapping[str, str]
    store: Mapping[str, Definition]
    retire: tuple[str, ...]
    unchanged: int
    other: int

    @property
    def empty(self) -> bool:
        """Whether nothing would change."""
        return not (self.event_types or self.store or self.retire)


def plan(file: RuleFile, found: InForce, prune: bool) -> Plan:
    """The way from what is in force to what the file says. Raises Failure where there is none."""
    clashes = [
        name
        for name, event_type in file.event_types.items()
        if name in found.event_types and found.event_types[name] != event_type["attributes"]
    ]
    if clashes:
        raise Failure(
            f"event type {', '.join(sorted(clashes))} is registered with other attributes, which rules and "
            "history rely on; register another type"
        )
    kinds: dict[str, str] = {}
    for name, definition in file.rules.items():
        if name not in found.rules:
            kinds[name] = ADDED
        elif canonical(found.rules[name][1]) != canonical(definition):
            kinds[name] = CHANGED
    _check_events(file, found, kinds)
    others = sorted(set(found.rules) - set(file.rules))
    retire = tuple(others) if prune else ()
    return Plan(
        event_types=tuple(t for name, t in file.event_types.items() if name not in found.event_types),
        kinds=kinds | dict.fromkeys(retire, RETIRED),
        store={name: file.rules[name] for name in kinds},
        retire=retire,
        unchanged=len(file.rules) - len(kinds),
        other=len(others) - len(retire),
    )


def _check_events(file: RuleFile, found: InForce, names: Iterable[str]) -> None:
    """Refuse events that nobody has registered, as the server will: a look ahead tells of it too."""
    known = (PURCHASE, *{**found.event_types, **file.event_types})
    mistakes = [
        f"rule {name}: {shown(event)} is no registered event type{close_to(event, known)}"
        for name in names
        for event in sorted(named_events(file.rules[name].get("when")) - {*known, *BUILT_IN_TYPES})
    ]
    if mistakes:
        raise Failure("\n".join(mistakes))


def described(change: Plan, found: InForce) -> Iterator[Text]:
    """The plan, line by line."""
    for event_type in change.event_types:
        declared = ", ".join(f"{name} {kind}" for name, kind in event_type["attributes"].items())
        attributes = f" ({declared})" if declared else ""
        yield Text(f"+ event type {event_type['name']}{attributes}", "bold green")
    for name, kind in sorted(change.kinds.items()):
        sign, colour = _SIGNS[kind]
        version = f", version {found.rules[name][0]} in force" if name in found.rules else ""
        yield Text(f"{sign} {name} ({kind}{version})", f"bold {colour}")
        if kind == ADDED:
            lines = as_yaml(change.store[name]).splitlines()
            yield from (Text(f"    {line}", "green") for line in lines)
        elif kind == CHANGED:
            before, after = canonical(found.rules[name][1]), canonical(change.store[name])
            yield from _indented(differences(before, after))


def summary(change: Plan) -> str:
    """The plan in one line, with what stays as it is."""
    counts = [f"{sum(k == kind for k in change.kinds.values())} {kind}" for kind in _SIGNS]
    counts.append(f"{change.unchanged} unchanged")
    if change.event_types:
        counts.append(f"{len(change.event_types)} new event type{'s' * (len(change.event_types) > 1)}")
    if change.other:
        counts.append(f"{change.other} in force that the file doesn't name")
    return ", ".join(count for count in counts if not count.startswith("0 ")) or "nothing to change"


def as_yaml(definition: Definition) -> str:
    """A definition to read: keys in the usual order, small parts on one line, as people write them."""
    text: str = yaml.safe_dump(
        _ordered(definition), sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text


def _ordered(value: Any) -> Any:
    """The same with keys as docs/rules.md writes them; the database keeps them by length."""
    if isinstance(value, list):
        return [_ordered(entry) for entry in value]
    if not isinstance(value, Mapping):
        return value
    return {key: _ordered(value[key]) for key in sorted(value, key=lambda key: _RANKS.get(key, len(_RANKS)))}


def differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(sign, text) for each field that differs between two canonical definitions."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            below = f"{path}.{key}" if path else key
            if key not in after:
                yield "-", f"{below}: {_shown(before[key])}"
            elif key not in before:
                yield "+", f"{below}: {_shown(after[key])}"
            else:
                yield from differences(before[key], after[key], below)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _list_differences(before, after, path)
    else:
        yield "~", f"{path}: {_shown(before)} -> {_shown(after)}"


def _list_differences(before: list[Any], after: list[Any], path: str) -> Iterator[tuple[str, str]]:
    # Entries that stayed keep their place in neither list, so they are found by what they say.
    old, new = [json.dumps(entry) for entry in before], [json.dumps(entry) for entry in after]
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        pairs = min(b - a, d - c)
        for place in range(pairs):
            yield from differences(before[a + place], after[c + place], f"{path}[{c + place}]")
        for place in range(a + pairs, b):
            yield "-", f"{path}[{place}]: {_shown(before[place])}"
        for place in range(c + pairs, d):
            yield "+", f"{path}[{place}]: {_shown(after[place])}"


def _indented(lines: Iterator[tuple[str, str]]) -> Iterator[Text]:
    colours = dict(_SIGNS.values())
    for sign, line in lines:
        yield Text(f"    {sign} {line}", colours[sign])


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
