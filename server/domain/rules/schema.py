"""A definition read from JSON or YAML: every mistake refused with the path to it."""

from collections.abc import Mapping

from server.domain.activity import PURCHASE
from server.domain.program import Program
from server.domain.rules.definition import (
    Action,
    Active,
    AddTag,
    Bonus,
    Cap,
    Condition,
    Earn,
    Fixed,
    Limit,
    Multiply,
    Paying,
    Rule,
    RuleType,
    Stacking,
    Worth,
)
from server.domain.rules.fields import WEEKDAYS
from server.domain.rules.read_actions import ActionReader
from server.domain.rules.read_conditions import ConditionReader, Scope, named_events
from server.domain.rules.read_terms import check_terms, read_expire, read_pending
from server.domain.rules.reading import Reader, closest
from server.domain.rules.requirements import item_conditions, possible_events

KEYS = ("rule", "type", "priority", "when", "then", "stacking", "caps", "active", "pending", "expire")
MODES = ("best", "first", "all")
PERIODS = ("event", "day", "week", "month", "year", "ever")
MAX_PRIORITY = 1_000_000
MAX_CAP = 10**12
NO_STACKING = Stacking("", "all", False)
# Actions that count lines of a basket, so that only a purchase can satisfy them.
OF_A_BASKET = (Earn, Multiply, Bonus)


def parse(definition: object, program: Program | None) -> Rule:
    """The rule that a definition states, checked against the program.

    Raises InvalidArgument (RULE_INVALID) with the path to every mistake. Without a
    program what only it can tell (tiers, wallets, event types, currency) goes unchecked.
    """
    reader = Reader()
    record = reader.record(definition, "", KEYS, ("rule", "then"))
    if record is None:
        reader.check()
        raise AssertionError
    name = reader.name(record["rule"], "rule") if "rule" in record else None
    rule_type = RuleType(reader.choice(record.get("type", "earn"), "type", tuple(RuleType)) or "earn")
    priority = reader.count(record.get("priority", 0), "priority", -MAX_PRIORITY, MAX_PRIORITY)
    scope = Scope(program, rule_type, named_events(record.get("when")))
    conditions = ConditionReader(reader, scope)
    when = conditions.condition(record["when"], "when") if "when" in record else None
    then = ActionReader(reader, conditions, scope).actions(record["then"], "then") if "then" in record else ()
    rule = Rule(
        name or "",
        rule_type,
        priority or 0,
        when,
        then,
        _stacking(reader, record["stacking"]) if "stacking" in record else NO_STACKING,
        _caps(reader, record["caps"]) if "caps" in record else (),
        _active(reader, record["active"]) if "active" in record else None,
        read_pending(reader, record["pending"], "pending", program) if "pending" in record else None,
        read_expire(reader, record["expire"], "expire") if "expire" in record else None,
    )
    if not reader.mistakes:
        _check_whole(reader, rule, program)
    reader.check()
    return rule


def events_of(rule: Rule) -> frozenset[str] | None:
    """The types of event the rule can count for; None for all that earn."""
    if any(isinstance(action, OF_A_BASKET) for action in rule.then):
        return frozenset((PURCHASE,))
    return possible_events(rule.when)


def wallet_of(rule: Rule, main: str) -> str:
    """The wallet the rule pays into; the main one if it pays nothing."""
    return next((a.to for a in rule.then if isinstance(a, Paying) and a.to is not None), main)


def is_base(rule: Rule) -> bool:
    """Whether the rule's points are what multipliers multiply."""
    return any(isinstance(action, Earn) for action in rule.then)


def _stacking(reader: Reader, raw: object) -> Stacking:
    record = reader.record(raw, "stacking", ("group", "mode", "exclusive"))
    if record is None:
        return NO_STACKING
    if not record:
        reader.wrong("stacking", "must have a group and its mode, or `exclusive: true`")
    for key, other in (("group", "mode"), ("mode", "group")):
        if key in record and other not in record:
            reader.wrong(f"stacking.{other}", f"is required beside {key}")
    group = reader.name(record["group"], "stacking.group") if "group" in record else None
    mode = reader.choice(record["mode"], "stacking.mode", MODES) if "mode" in record else None
    exclusive = reader.flag(record.get("exclusive", False), "stacking.exclusive")
    return Stacking(group or "", mode or "all", bool(exclusive))


def _caps(reader: Reader, raw: object) -> tuple[Cap, ...]:
    record = reader.record(raw, "caps", ("member",), ("member",))
    if record is None or "member" not in record:
        return ()
    given = record["member"]
    if not isinstance(given, list | tuple):
        cap = _cap(reader, given, "caps.member")
        return (cap,) if cap else ()
    entries = reader.listed(given, "caps.member", len(PERIODS))
    caps: dict[str, Cap] = {}
    for place, entry in enumerate(entries):
        cap = _cap(reader, entry, f"caps.member[{place}]")
        if cap and cap.per in caps:
            reader.wrong(f"caps.member[{place}].per", f"there is a cap per {cap.per} already")
        elif cap:
            caps[cap.per] = cap
    return tuple(caps.values())


def _cap(reader: Reader, raw: object, path: str) -> Cap | None:
    record = reader.record(raw, path, ("points", "per"), ("points", "per"))
    if record is None or "points" not in record or "per" not in record:
        return None
    points = reader.count(record["points"], f"{path}.points", 1, MAX_CAP)
    per = reader.choice(record["per"], f"{path}.per", PERIODS)
    return None if points is None or per is None else Cap(points, per)


def _active(reader: Reader, raw: object) -> Active | None:
    record = reader.record(raw, "active", ("from", "until", "days", "hours"))
    if record is None:
        return None
    if not record:
        reader.wrong("active", "must have at least one of from, until, days and hours")
    start = reader.moment(record["from"], "active.from") if "from" in record else None
    until = reader.moment(record["until"], "active.until") if "until" in record else None
    if start and until and start >= until:
        reader.wrong("active.until", "must lie after from")
    days: list[str] = []
    if "days" in record:
        for place, entry in enumerate(reader.listed(record["days"], "active.days", len(WEEKDAYS))):
            day = reader.choice(entry, f"active.days[{place}]", WEEKDAYS)
            if day in days:
                reader.wrong(f"active.days[{place}]", f"{day} stands there twice")
            elif day:
                days.append(day)
    hours = reader.hours(record["hours"], "active.hours") if "hours" in record else None
    return Active(start, until, tuple(sorted(days, key=WEEKDAYS.index)), hours)


def _check_whole(reader: Reader, rule: Rule, program: Program | None) -> None:
    """What no single part shows: parts that don't go together."""
    if rule.type is RuleType.REDEEM:
        _check_redeem(reader, rule)
        return
    possible = possible_events(rule.when)
    if possible is not None and not possible:
        reader.wrong("when", "can never hold: it asks for two types of event at once")
        return
    base = next((place for place, action in enumerate(rule.then) if isinstance(action, Earn)), None)
    wallets: set[str | None] = set()
    main = program.main_point_type if program else None
    for place, action in enumerate(rule.then):
        path = f"then[{place}].{_KEY[type(action)]}"
        if base is not None and isinstance(action, Multiply | Fixed | Bonus):
            reader.wrong(
                path, "can't stand beside earn: earn makes the base, the others come on top; use two rules"
            )
        if isinstance(action, OF_A_BASKET) and possible is not None and possible != {PURCHASE}:
            others = ", ".join(sorted(possible - {PURCHASE}))
            # Only a program could tell whether the event exists.
            slip = program is None and closest(others, (PURCHASE,)) is not None
            remedy = f'did you mean "{PURCHASE}"?' if slip else "use fixed"
            reader.wrong(path, f"needs a {PURCHASE}, and {others} has no amount; {remedy}")
        if isinstance(action, Multiply) and action.of == "lines" and not _lines_named(rule.when, action):
            reader.wrong(f"{path}.of", "of which lines? add `items`, or a condition on items to `when`")
        if isinstance(action, Paying):
            wallets.add(action.to or main)
            if program is not None and len(wallets) > 1:
                reader.wrong(f"{path}.to", "a rule pays into one wallet; use a second rule for the other")
    if rule.caps and not wallets:
        reader.wrong("caps", "there are no points to cap")
    for key, given in (("pending", rule.pending), ("expire", rule.expire)):
        if given is not None and not wallets:
            reader.wrong(key, "there are no points that it could be about")
    check_terms(reader, rule.pending, rule.expire, "expire")


def _lines_named(when: Condition | None, action: Multiply) -> bool:
    return action.items is not None or any(True for _ in item_conditions(when))


def _check_redeem(reader: Reader, rule: Rule) -> None:
    for key, given in (
        ("stacking", rule.stacking != NO_STACKING),
        ("caps", bool(rule.caps)),
        ("pending", rule.pending is not None),
        ("expire", rule.expire is not None),
    ):
        if given:
            reader.wrong(key, "goes with rules of type earn")
    for kind in (Worth, Limit):
        places = [place for place, action in enumerate(rule.then) if isinstance(action, kind)]
        for place in places[1:]:
            reader.wrong(f"then[{place}].{_KEY[kind]}", "stands there twice; a rule has one")


_KEY: Mapping[type, str] = {
    Earn: "earn",
    Multiply: "multiply",
    Fixed: "fixed",
    Bonus: "bonus",
    AddTag: "add_tag",
    Worth: "value",
    Limit: "limit",
}


def action_key(action: Action) -> str:
    """The word under which an action stands in a definition."""
    return _KEY[type(action)]
