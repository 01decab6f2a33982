"""A definition in the one way to write it, so that equal rules compare equal."""

from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from server.domain.lots import Expiry, Until
from server.domain.rules.definition import (
    Action,
    Active,
    AddTag,
    Bonus,
    Cap,
    Comparison,
    Condition,
    Earn,
    EventIs,
    Fixed,
    Group,
    Items,
    Limit,
    Multiply,
    Pending,
    Rule,
    Scalar,
    Total,
    Value,
    Worth,
)
from server.domain.rules.fields import Level, field_of
from server.domain.rules.read_terms import AT_ONCE, NOT_PENDING
from server.domain.rules.reading import plain
from server.domain.rules.schema import action_key, parse


def canonical(definition: object) -> dict[str, Any]:
    """The definition with defaults left out, numbers in their shortest form and sets in order.

    Currencies are left out too: they can only be the program's. Two definitions that
    mean the same rule in any program give equal results. Raises InvalidArgument
    (RULE_INVALID) for what is no rule in any program.
    """
    return render(parse(definition, None))


def render(rule: Rule) -> dict[str, Any]:
    """The canonical definition of a rule."""
    stacking = {
        **({"group": rule.stacking.group, "mode": rule.stacking.mode} if rule.stacking.group else {}),
        **({"exclusive": True} if rule.stacking.exclusive else {}),
    }
    parts: dict[str, Any] = {
        "rule": rule.name,
        "type": str(rule.type),
        "priority": rule.priority or None,
        "when": rule.when and _condition(rule.when),
        "then": [{action_key(action): _action(action)} for action in rule.then],
        "stacking": stacking or None,
        "caps": {"member": _caps(rule.caps)} if rule.caps else None,
        "active": rule.active and _active(rule.active),
        "pending": rule.pending and render_pending(rule.pending),
        "expire": rule.expire and render_expire(rule.expire),
    }
    return _present(parts)


def _present(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parts.items() if value is not None}


def _condition(condition: Condition) -> dict[str, Any]:
    match condition:
        case EventIs(event_type):
            return {"event": event_type}
        case Group(every, some, none):
            return {
                key: [_condition(part) for part in parts]
                for key, parts in (("all", every), ("any", some), ("none", none))
                if parts
            }
        case Items(quantifier, where):
            return {"any_item" if quantifier == "any" else "all_items": _condition(where)}
        case Total(of, where, op, value):
            total = _present({"where": where and _condition(where), "op": op, "value": _value(op, value)})
            return {"count_items": total} if of == "lines" else {"sum_items": {"of": of, **total}}
        case Comparison(name, op, value):
            short = name.removeprefix("item.") if field_of(name).level is Level.ITEM else name
            return {"field": short, "op": op, "value": _value(op, value)}


def _value(op: str, value: Value) -> Any:
    if not isinstance(value, tuple):
        return _scalar(value)
    if op == "between":
        return [_scalar(entry) for entry in value]
    return sorted({_scalar(entry) for entry in value}, key=lambda entry: (str(type(entry)), entry))


def _scalar(value: Scalar) -> Any:
    match value:
        case Decimal():
            return plain(value)
        case date():
            return value.isoformat()
        case _:
            return value


def _action(action: Action) -> dict[str, Any]:  # noqa: PLR0911 - one way out per kind of action
    match action:
        case Earn(points, per, rounding, to, items):
            return _paying({"points": points, "per": plain(per)}, to, items, rounding)
        case Multiply(by, of, rounding, to, items):
            return _paying({"by": plain(by), **({"of": of} if of != "base" else {})}, to, items, rounding)
        case Fixed(points, to):
            return _paying({"points": points}, to, None)
        case Bonus(points, to, items):
            return _paying({"points": points, "per": "item"}, to, items)
        case AddTag(tag):
            return {"tag": tag}
        case Worth(points, money):
            return {"points": points, "money": plain(money)}
        case Limit(low, high, multiple):
            return _present({"min": low or None, "max": high or None, "multiple_of": multiple or None})


def _paying(
    figures: dict[str, Any], to: str | None, items: Condition | None, rounding: str = "floor"
) -> dict[str, Any]:
    return figures | _present(
        {
            "rounding": rounding if rounding != "floor" else None,
            "to": to,
            "items": items and _condition(items),
        }
    )


def _caps(caps: tuple[Cap, ...]) -> Any:
    written = [{"points": cap.points, "per": cap.per} for cap in sorted(caps, key=lambda cap: cap.per)]
    return written[0] if len(written) == 1 else written


def _active(active: Active) -> dict[str, Any]:
    return _present(
        {
            "from": active.start and _moment(active.start),
            "until": active.until and _moment(active.until),
            "days": list(active.days) or None,
            "hours": active.hours and _hours(*active.hours),
        }
    )


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds" if moment.second else "minutes")


def _hours(first: time, last: time) -> str:
    end = "24:00" if last == time(0) else f"{last:%H:%M}"
    return f"{first:%H:%M}-{end}"


def render_pending(pending: Pending) -> Any:
    """How long points can't be spent, as a definition says it."""
    if pending == AT_ONCE:
        return NOT_PENDING
    return _present({"days": pending.days or None, "until": pending.until or None})


def render_expire(expire: Expiry) -> Any:
    """When points expire, as a definition says it."""
    return str(expire.until) if expire.until is Until.NEVER else {str(expire.until): expire.number}
