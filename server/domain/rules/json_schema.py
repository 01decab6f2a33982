"""The JSON Schema of a rule definition, made from the same literals that the parser reads by.

What the parser accepts validates. The schema knows no program, so it can't tell whether
a tier or an event type exists; the parser can.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from server.domain.lots import Until
from server.domain.rules.definition import RuleType
from server.domain.rules.fields import ALL_OPERATORS, ATTRIBUTE_PREFIXES, FIELDS, WEEKDAYS, Level
from server.domain.rules.read_actions import (
    MAX_ACTIONS,
    MAX_MULTIPLIER,
    MAX_POINTS,
    MAX_REDEEMED,
    MULTIPLIED,
    ROUNDINGS,
)
from server.domain.rules.read_conditions import MAX_CONDITIONS, SUMS
from server.domain.rules.read_terms import BOUNDS, MAX_DAYS, NOT_PENDING
from server.domain.rules.reading import ATTRIBUTE_NAME, DECIMAL, HOURS, MAX_SET, MOMENT, NAME
from server.domain.rules.schema import MAX_CAP, MAX_PRIORITY, MODES, PERIODS

Schema = dict[str, Any]


def _record(properties: Mapping[str, Any], required: Iterable[str] = (), **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _text(pattern: str) -> Schema:
    return {"type": "string", "pattern": f"^(?:{pattern})$"}


def _whole(low: int, high: int, default: int | None = None) -> Schema:
    limits: Schema = {"type": "integer", "minimum": low, "maximum": high}
    return {
        # Large figures may come as text, because JSON readers round them.
        "anyOf": [limits, _text(r"-?[0-9]{1,15}(\.0+)?")],
        **({} if default is None else {"default": default}),
    }


def _choice(options: Iterable[str], default: str | None = None) -> Schema:
    return {"enum": list(options), **({} if default is None else {"default": default})}


def _list(entries: Schema, most: int, least: int = 1) -> Schema:
    return {"type": "array", "items": entries, "minItems": least, "maxItems": most}


def _field(items: bool) -> Schema:
    attributes = "|".join(prefix.replace(".", r"\.") for prefix in ATTRIBUTE_PREFIXES)
    if not items:
        names = [name for name, field in FIELDS.items() if field.level is not Level.ITEM]
        return {"anyOf": [{"enum": names}, _text(f"({attributes}){ATTRIBUTE_NAME.pattern}")]}
    names = [name for name, field in FIELDS.items() if field.level is Level.ITEM]
    written = [name.removeprefix("item.") for name in names] + names
    return {"anyOf": [{"enum": written}, _text(rf"(item\.)?attributes\.{ATTRIBUTE_NAME.pattern}")]}


def _comparison(items: bool) -> Schema:
    return _record(
        {
            "field": _field(items),
            "op": _choice(ALL_OPERATORS),
            "value": _ref("value"),
            "currency": _ref("currency"),
        },
        ("field", "op"),
        # Only exists has a default.
        **{"if": {"properties": {"op": {"const": "exists"}}}, "else": {"required": ["value"]}},
    )


def _group(condition: str) -> Schema:
    parts = _list(_ref(condition), MAX_CONDITIONS)
    return _record({"all": parts, "any": parts, "none": parts}, minProperties=1)


def _total(summed: bool) -> Schema:
    compared = {
        "where": _ref("item_condition"),
        "op": _choice(op for op in ALL_OPERATORS if op not in ("starts_with", "exists")),
        "value": _ref("value"),
    }
    if not summed:
        return _record(compared, ("op", "value"))
    return _record({"of": _choice(SUMS), **compared, "currency": _ref("currency")}, ("of", "op", "value"))


_POINTS = _whole(1, MAX_POINTS)
_TO = {
    "type": "string",
    "minLength": 1,
    "description": "The wallet's point type; the program's main one if left out.",
}
_ITEMS = {**_ref("item_condition"), "description": "Only lines that satisfy this."}
_ROUNDING = _choice(ROUNDINGS, "floor")

_ACTIONS: Mapping[RuleType, Mapping[str, Schema]] = {
    RuleType.EARN: {
        "earn": _record(
            {
                "points": _POINTS,
                "per": _ref("decimal"),
                "currency": _ref("currency"),
                "rounding": _ROUNDING,
                "to": _TO,
                "items": _ITEMS,
            },
            ("points", "per"),
            description="Points in proportion to money, rounded line by line. These are the base.",
        ),
        "multiply": _record(
            {
                "by": {
                    **_ref("decimal"),
                    "description": f"More than 1, at most {MAX_MULTIPLIER}, 4 decimal places.",
                },
                "of": _choice(MULTIPLIED, "base"),
                "rounding": _ROUNDING,
                "to": _TO,
                "items": _ITEMS,
            },
            ("by",),
            description="The base times `by`: (by - 1) times the base comes on top.",
        ),
        "fixed": _record({"points": _POINTS, "to": _TO}, ("points",), description="So many points."),
        "bonus": _record(
            {"points": _POINTS, "per": _choice(("item",)), "to": _TO, "items": _ITEMS},
            ("points", "per"),
            description="So many points for each unit sold.",
        ),
        "add_tag": _record({"tag": _ref("name")}, ("tag",), description="Puts a tag on the member."),
    },
    RuleType.REDEEM: {
        "value": _record(
            {"points": _POINTS, "money": _ref("decimal"), "currency": _ref("currency")},
            ("points", "money"),
            description="What redeemed points are worth.",
        ),
        "limit": _record(
            {key: _whole(1, MAX_REDEEMED) for key in ("min", "max", "multiple_of")},
            minProperties=1,
            description="What one redemption may ask for; anything else is refused.",
        ),
    },
}


def _then(rule_type: RuleType) -> Schema:
    actions = [_record({key: body}, (key,)) for key, body in _ACTIONS[rule_type].items()]
    return _list({"oneOf": actions}, MAX_ACTIONS)


_ONE: Schema = {"minProperties": 1, "maxProperties": 1}
_CAP = _record({"points": _whole(1, MAX_CAP), "per": _choice(PERIODS)}, ("points", "per"))

JSON_SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Laurel rule",
    "description": "What earns points and how many, or what points are worth.",
    **_record(
        {
            "rule": _ref("name"),
            "type": _choice(RuleType, "earn"),
            "priority": _whole(-MAX_PRIORITY, MAX_PRIORITY, 0),
            "when": _ref("condition"),
            "then": {"type": "array"},
            "stacking": _record(
                {"group": _ref("name"), "mode": _choice(MODES), "exclusive": {"type": "boolean"}},
                minProperties=1,
                dependentRequired={"group": ["mode"], "mode": ["group"]},
            ),
            "caps": _record(
                {"member": {"anyOf": [_CAP, _list(_CAP, len(PERIODS))]}},
                ("member",),
                description="The most the rule gives one member in a period.",
            ),
            "active": _record(
                {
                    "from": {**_text(MOMENT.pattern), "description": "Inclusive, on the program's clock."},
                    "until": {**_text(MOMENT.pattern), "description": "Exclusive, on the program's clock."},
                    "days": {**_list(_choice(WEEKDAYS), len(WEEKDAYS)), "uniqueItems": True},
                    "hours": {**_text(HOURS.pattern), "description": "May pass midnight."},
                },
                minProperties=1,
            ),
            "pending": _ref("pending"),
            "expire": _ref("expire"),
        },
        ("rule", "then"),
    ),
    "if": {"properties": {"type": {"const": "redeem"}}, "required": ["type"]},
    "then": {
        "properties": {
            "then": _then(RuleType.REDEEM),
            **dict.fromkeys(("stacking", "caps", "pending", "expire"), False),
        }
    },
    "else": {"properties": {"then": _then(RuleType.EARN)}},
    "$defs": {
        "name": _text(NAME.pattern),
        "currency": _text("[A-Z]{3}"),
        "decimal": {"anyOf": [{"type": "number"}, _text(DECIMAL.pattern)], "examples": ["500.00", 500]},
        "scalar": {"type": ["string", "number", "boolean"]},
        "value": {
            "anyOf": [_ref("scalar"), _list(_ref("scalar"), MAX_SET)],
            "description": "A list for in, not_in and between; days such as 2026-11-08.",
        },
        "condition": {
            "oneOf": [
                _group("condition"),
                _comparison(items=False),
                _record({"event": {"type": "string", "minLength": 1}}, ("event",)),
                _record({"any_item": _ref("item_condition")}, ("any_item",)),
                _record({"all_items": _ref("item_condition")}, ("all_items",)),
                _record({"sum_items": _total(summed=True)}, ("sum_items",)),
                _record({"count_items": _total(summed=False)}, ("count_items",)),
            ]
        },
        "pending": {
            "anyOf": [
                {"const": NOT_PENDING},
                _record(
                    {"days": _whole(1, MAX_DAYS), "until": {"type": "string", "minLength": 1}},
                    minProperties=1,
                ),
            ],
            "description": "How long its points can't be spent: days, until an event, whichever comes first.",
        },
        "expire": {
            "anyOf": [
                {"const": str(Until.NEVER)},
                _record({str(way): _whole(*bounds) for way, bounds in BOUNDS.items()}, **_ONE),
            ],
            "description": "When its points expire: the end of a day, month or year so many ahead, or days "
            "after the member was last active.",
        },
        "item_condition": {"oneOf": [_group("item_condition"), _comparison(items=True)]},
    },
}
