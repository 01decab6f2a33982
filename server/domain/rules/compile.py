"""Rules compiled once: closures, and the index that leads to them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from server.domain.activity import PURCHASE, REDEMPTION, Activity, MemberFacts
from server.domain.errors import InvalidArgument, Violation
from server.domain.lots import LotTerms
from server.domain.program import Program
from server.domain.rules.actions import Give, compile_actions, tags_of
from server.domain.rules.conditions import Test, compile_condition
from server.domain.rules.definition import (
    Bonus,
    Condition,
    Earn,
    EventIs,
    Group,
    Items,
    Limit,
    Multiply,
    Rule,
    RuleType,
    Worth,
)
from server.domain.rules.evaluation import Note
from server.domain.rules.fields import Case
from server.domain.rules.index import Shelf, of_anybody
from server.domain.rules.periods import PERIOD_KEYS, compile_active
from server.domain.rules.reading import shown
from server.domain.rules.requirements import Demands, demands
from server.domain.rules.schema import events_of, is_base, parse, wallet_of


class CompiledRule:
    """One version of a rule, ready to run."""

    __slots__ = (
        "base",
        "caps",
        "counted",
        "exclusive",
        "gives",
        "group",
        "holds",
        "limit",
        "matches",
        "mode",
        "name",
        "point_type",
        "rule",
        "tag_notes",
        "tags",
        "terms",
        "terms_notes",
        "version",
        "worth",
    )

    def __init__(self, rule: Rule, version: int, program: Program) -> None:
        self.rule = rule
        self.name = rule.name
        self.version = version
        self.point_type = wallet_of(rule, program.main_point_type)
        self.base = is_base(rule)
        self.gives: tuple[Give, ...] = compile_actions(rule, program)
        self.tags = tags_of(rule)
        self.tag_notes: tuple[Note, ...] = tuple({"kind": "tag", "tag": tag} for tag in sorted(self.tags))
        self.caps = rule.caps
        # The periods of caps that need a counter.
        self.counted = tuple(cap.per for cap in rule.caps if cap.per in PERIOD_KEYS)
        self.group = rule.stacking.group
        self.mode = rule.stacking.mode
        self.exclusive = rule.stacking.exclusive
        self.worth = next((action for action in rule.then if isinstance(action, Worth)), None)
        self.limit = next((action for action in rule.then if isinstance(action, Limit)), None)
        self.holds = _holds(rule, program)
        self.matches = _matches(rule, self.holds)
        self.terms = _terms(rule, program.ledger.lot_terms(self.point_type))
        self.terms_notes = _terms_notes(rule)


def _terms(rule: Rule, default: LotTerms) -> LotTerms | None:
    """By which terms the rule's points live; None for the program's."""
    if rule.pending is None and rule.expire is None:
        return None
    days, until = default.pending_days, default.activates_on
    if rule.pending is not None:
        days, until = rule.pending.days, rule.pending.until
    terms = LotTerms(days, until, default.expiry if rule.expire is None else rule.expire)
    return None if terms == default else terms


def _terms_notes(rule: Rule) -> tuple[Note, ...]:
    """What the rule itself says about how its points live."""
    note: dict[str, int | str] = {}
    if rule.pending is not None:
        note |= {"days": rule.pending.days, "until": rule.pending.until}
    if rule.expire is not None:
        note |= {"expire": str(rule.expire.until), "number": rule.expire.number}
    return ({"kind": "terms", **note},) if note else ()


def _holds(rule: Rule, program: Program) -> Test:
    """Whether a rule counts for a Case of a type of event that is right: its time, its condition."""
    condition = full_condition(rule)
    if isinstance(condition, Group):
        # What stands directly under ``all`` is true of every such type.
        condition = replace(condition, all=tuple(c for c in condition.all if not isinstance(c, EventIs)))
    elif isinstance(condition, EventIs):
        condition = None
    holds = compile_condition(condition)
    if not rule.active:
        return holds
    active = compile_active(rule.active, program)
    return lambda case: active(case) and holds(case)


def _matches(rule: Rule, holds: Test) -> Test:
    """Whether a rule counts for a Case, whatever its type of event."""
    earns = rule.type is RuleType.EARN
    events = events_of(rule)

    def matches(case: Case) -> bool:
        event_type = case.activity.event_type
        if (event_type == REDEMPTION) is earns or (events is not None and event_type not in events):
            return False
        return holds(case)

    return matches


def full_condition(rule: Rule) -> Condition | None:
    """``when``, and where every action counts only certain items, that one of them is in the basket."""
    items = [a.items if isinstance(a, Earn | Multiply | Bonus) else None for a in rule.then]
    named = [condition for condition in items if condition is not None]
    if not named or len(named) < len(items):
        return rule.when
    needed = Items("any", named[0] if len(named) == 1 else Group(any=tuple(named)))
    return needed if rule.when is None else Group(all=(rule.when, needed))


class RuleSet:
    """The rules in force, compiled once and never changed.

    ``rules`` are those that earn and ``redeeming`` those about redemptions, each in the
    order of consideration: priority descending, then name. ``timed``: whether any points
    that they give activate or expire.
    """

    __slots__ = ("_capped", "_shelves", "program", "redeeming", "rules", "timed")

    def __init__(self, program: Program, compiled: Iterable[CompiledRule]) -> None:
        ordered = sorted(compiled, key=lambda rule: (-rule.rule.priority, rule.name))
        self.program = program
        self.rules = tuple(rule for rule in ordered if rule.rule.type is RuleType.EARN)
        self.redeeming = tuple(rule for rule in ordered if rule.rule.type is RuleType.REDEEM)
        self.timed = bool(program.ledger.lots) or any(rule.terms is not None for rule in self.rules)
        demanded = {place: demands(full_condition(rule.rule)) for place, rule in enumerate(self.rules)}
        self._shelves = self._by_event(demanded)
        self._capped = self._by_event(
            {place: of_anybody(demanded[place]) for place, rule in enumerate(self.rules) if rule.caps}
        )

    @classmethod
    def compile(cls, program: Program, definitions: Iterable[tuple[int, Mapping[str, Any]]]) -> "RuleSet":
        """The rule set of these (version, definition) pairs.

        Raises InvalidArgument (RULE_INVALID) if a definition is wrong, if a name occurs
        twice or if the rules of a stacking group don't go together.
        """
        compiled: list[CompiledRule] = []
        mistakes: list[Violation] = []
        for version, definition in definitions:
            try:
                compiled.append(CompiledRule(parse(definition, program), version, program))
            except InvalidArgument as refused:
                name = shown(definition.get("rule") if isinstance(definition, Mapping) else definition).strip(
                    "'"
                )
                mistakes += [Violation(f"{name}: {v.field}", v.description) for v in refused.violations]
        mistakes += _mistakes_among(compiled)
        if mistakes:
            raise InvalidArgument(mistakes[:100], "RULE_INVALID")
        return cls(program, compiled)

    @classmethod
    def empty(cls, program: Program) -> "RuleSet":
        """No rules: nothing earns, and points may be redeemed without a stated value."""
        return cls(program, ())

    def matching(self, case: Case) -> Sequence[CompiledRule]:
        """The rules that match, in the order of consideration."""
        return [rule for rule in self.candidates(case) if rule.holds(case)]

    def candidates(self, case: Case) -> Sequence[CompiledRule]:
        """The rules that could match, in the same order: of the right type of event, and few that don't."""
        rules = self.rules
        return [rules[place] for place in _shelf(self._shelves, case).places(case)]

    def capped_for_anybody(self, case: Case) -> Sequence[CompiledRule]:
        """The rules with a cap that could match for some member; only the activity is looked at."""
        rules = self.rules
        return [rules[place] for place in _shelf(self._capped, case).places(case)]

    def case(self, activity: Activity, facts: MemberFacts) -> Case:
        """The activity and the member as conditions see them."""
        return Case(activity, facts, self.program.zone)

    def _by_event(self, demanded: Mapping[int, Demands]) -> Mapping[str | None, Shelf]:
        """A shelf for each type of event that a rule names; under None that of all others."""
        events = {place: events_of(self.rules[place].rule) for place in demanded}
        named = {PURCHASE}.union(*(allowed for allowed in events.values() if allowed is not None))
        shelves = {
            event_type: Shelf(
                {
                    place: demanded[place]
                    for place, allowed in events.items()
                    if allowed is None or event_type in allowed
                }
            )
            for event_type in (*named, None)
        }
        return {**shelves, REDEMPTION: Shelf({})}


def _shelf(shelves: Mapping[str | None, Shelf], case: Case) -> Shelf:
    return shelves.get(case.activity.event_type, shelves[None])


def _mistakes_among(rules: Sequence[CompiledRule]) -> list[Violation]:
    """What only shows between rules."""
    mistakes: list[Violation] = []
    seen: set[str] = set()
    groups: defaultdict[str, list[CompiledRule]] = defaultdict(list)
    for rule in rules:
        if rule.name in seen:
            mistakes.append(Violation(f"{rule.name}: rule", "stands there twice"))
        seen.add(rule.name)
        if rule.group:
            groups[rule.group].append(rule)
    for group, (first, *others) in groups.items():
        for other in others:
            both = f"{first.name} and {other.name} are both in the stacking group {group}"
            if other.mode != first.mode:
                mistakes.append(
                    Violation(f"{other.name}: stacking.mode", f"{both} but say {first.mode} and {other.mode}")
                )
            if other.base != first.base:
                base, extra = (first, other) if first.base else (other, first)
                mistakes.append(
                    Violation(
                        f"{other.name}: stacking.group",
                        f"{both}, but {base.name} makes the base and {extra.name} adds to it",
                    )
                )
            elif other.point_type != first.point_type:
                mistakes.append(
                    Violation(
                        f"{other.name}: stacking.group",
                        f"{both} but pay into different wallets: {first.point_type} and {other.point_type}",
                    )
                )
    return mistakes
