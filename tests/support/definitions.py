"""Hypothesis strategies: valid rule definitions of the sweet shop, and what happens in it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as some

from server.domain.activity import PURCHASE, Activity, Line, MemberFacts
from server.domain.rules.schema import PERIODS

SKUS = ("LADOO", "TEA", "BARFI")
CATEGORIES = ("sweets", "drinks")
STORES = ("mumbai-1", "pune-1", "pune-2")
TIERS = ("bronze", "silver", "gold", "platinum")
TAGS = ("vip", "early")
COLOURS = ("red", "green")
EVENTS = (PURCHASE, "REVIEW_SUBMITTED", "REFERRAL")
MIDNIGHT = datetime(2026, 11, 1, tzinfo=UTC)

_TEXTS = {
    "store": STORES,
    "channel": ("pos", "web"),
    "member.tier": TIERS,
    "member.tags": TAGS,
    "member.segments": ("lapsed",),
    "member.attributes.city": ("Mumbai", "Pune"),
    "attributes.friend": ("anna", "ben"),
    "time.weekday": ("mon", "sat", "sun"),
}
_ITEM_TEXTS = {"sku": SKUS, "item.category": CATEGORIES, "attributes.colour": COLOURS}
_AMOUNTS = some.sampled_from(["0", "49.99", 100, 100.0, "250.50"])


def _text(fields: dict[str, tuple[str, ...]]) -> some.SearchStrategy[dict[str, Any]]:
    def comparisons(name: str) -> some.SearchStrategy[dict[str, Any]]:
        value = some.sampled_from(fields[name])
        one = some.fixed_dictionaries(
            {"field": some.just(name), "op": some.sampled_from(["eq", "eq", "ne"]), "value": value}
        )
        several = some.fixed_dictionaries(
            {
                "field": some.just(name),
                "op": some.sampled_from(["in", "in", "not_in"]),
                "value": some.lists(value, min_size=1, max_size=3),
            }
        )
        present = some.just({"field": name, "op": "exists"})
        return one | several if name in ("member.tier", "time.weekday") else one | several | present

    return some.sampled_from(sorted(fields)).flatmap(comparisons)


def _ordered(name: str, value: some.SearchStrategy[Any]) -> some.SearchStrategy[dict[str, Any]]:
    return some.fixed_dictionaries(
        {"field": some.just(name), "op": some.sampled_from(["gt", "gte", "lt", "lte", "eq"]), "value": value}
    )


def _groups(leaf: some.SearchStrategy[dict[str, Any]]) -> some.SearchStrategy[dict[str, Any]]:
    return some.recursive(
        leaf,
        lambda inner: some.dictionaries(
            some.sampled_from(["all", "all", "any", "none"]),
            some.lists(inner, min_size=1, max_size=3),
            min_size=1,
            max_size=2,
        ),
        max_leaves=5,
    )


_ITEM = _groups(
    _text(_ITEM_TEXTS) | _ordered("quantity", some.integers(1, 4)) | _ordered("item.amount", _AMOUNTS)
)
_TOTAL = {"op": some.sampled_from(["gte", "gt", "lt", "eq"]), "value": some.integers(0, 5)}
_LEAF = (
    _text(_TEXTS)
    | some.sampled_from(EVENTS).map(lambda event_type: {"event": event_type})
    | _ordered("amount", _AMOUNTS)
    | _ordered("member.lifetime", some.integers(0, 2))
    | _ordered("time.hour", some.integers(0, 23))
    | _ITEM.map(lambda item: {"any_item": item})
    | _ITEM.map(lambda item: {"all_items": item})
    | some.fixed_dictionaries(_TOTAL, optional={"where": _ITEM}).map(lambda total: {"count_items": total})
    | some.fixed_dictionaries(
        {**_TOTAL, "of": some.sampled_from(["amount", "quantity"])}, optional={"where": _ITEM}
    ).map(lambda total: {"sum_items": total})
)
_ROUNDING = some.sampled_from(["floor", "half_even", "ceil"])
_EARN = some.fixed_dictionaries(
    {"points": some.integers(1, 50), "per": some.sampled_from(["1.00", 7, "33.33"])},
    optional={"rounding": _ROUNDING, "items": _ITEM},
).map(lambda body: {"earn": body})
_MULTIPLY = some.fixed_dictionaries(
    {"by": some.sampled_from([2, "1.5", "3.3333"])}, optional={"rounding": _ROUNDING}
).map(lambda body: {"multiply": body})
_OF_LINES = some.fixed_dictionaries(
    {"by": some.sampled_from([2, "1.25"]), "of": some.just("lines"), "items": _ITEM}
).map(lambda body: {"multiply": body})
_FIXED = some.integers(1, 500).map(lambda points: {"fixed": {"points": points}})
_BONUS = some.fixed_dictionaries(
    {"points": some.integers(1, 9), "per": some.just("item")}, optional={"items": _ITEM}
).map(lambda body: {"bonus": body})
_TAG = some.sampled_from(TAGS).map(lambda tag: {"add_tag": {"tag": tag}})
_CAP = some.fixed_dictionaries(
    {
        "points": some.integers(1, 300),
        "per": some.sampled_from(PERIODS),
    }
)
_CAPS = _CAP | some.lists(_CAP, min_size=1, max_size=3, unique_by=lambda cap: cap["per"])
_ACTIVE = some.fixed_dictionaries(
    {},
    optional={
        "from": some.sampled_from(["2026-11-02T00:00", "2026-11-05"]),
        "until": some.sampled_from(["2026-11-20T12:30", "2026-11-29"]),
        "days": some.lists(some.sampled_from(["mon", "fri", "sun"]), min_size=1, unique=True),
        "hours": some.sampled_from(["09:00-17:00", "20:00-03:00", "00:00-24:00"]),
    },
).filter(bool)
_PENDING = some.just("none") | some.fixed_dictionaries(
    {}, optional={"days": some.integers(1, 30), "until": some.sampled_from((PURCHASE, "REFERRAL"))}
).filter(bool)
# Later than anything is pending.
_EXPIRE = some.just("never") | some.sampled_from(("days", "months", "years", "rolling_days")).flatmap(
    lambda way: some.fixed_dictionaries({way: some.integers(30, 70)})
)


def _of_purchases(condition: dict[str, Any]) -> dict[str, Any]:
    return {"all": [{"event": PURCHASE}, condition]}


@some.composite
def definitions(draw: some.DrawFn, name: str = "r", grouped: bool = False) -> dict[str, Any]:
    """A valid definition of type earn. ``grouped`` rules may share stacking groups."""
    base = draw(some.booleans())
    basket = base or draw(some.booleans())
    actions = _EARN if base else (_MULTIPLY | _OF_LINES | _BONUS | _FIXED if basket else _FIXED | _TAG)
    then = draw(some.lists(actions, min_size=1, max_size=2)) + draw(some.lists(_TAG, max_size=1))
    definition: dict[str, Any] = {"rule": name, "then": then}
    condition = draw(some.none() | _groups(_LEAF).filter(_possible))
    if basket:
        condition = _without_events(condition)
        if condition is not None and draw(some.booleans()):
            condition = _of_purchases(condition)
    if condition is not None:
        definition["when"] = condition
    if draw(some.booleans()):
        definition["priority"] = draw(some.integers(-3, 3))
    if grouped and draw(some.booleans()):
        group = draw(some.sampled_from(["best", "first", "all"]))
        definition["stacking"] = {"group": f"{group}-{'base' if base else 'extra'}", "mode": group}
    if draw(some.integers(0, 5)) == 0:
        definition["stacking"] = {**definition.get("stacking", {}), "exclusive": True}
    if draw(some.booleans()) and any("add_tag" not in action for action in then):
        definition["caps"] = {"member": draw(_CAPS)}
    if draw(some.integers(0, 3)) == 0:
        definition["active"] = draw(_ACTIVE)
    if any("add_tag" not in action for action in then):
        definition |= draw(some.fixed_dictionaries({}, optional={"pending": _PENDING, "expire": _EXPIRE}))
    return definition


def demanding() -> some.SearchStrategy[dict[str, Any]]:
    """A condition on one sku, category or tier, in one of the shapes that demand it or only seem to."""
    sku = some.sampled_from(SKUS).map(lambda value: {"field": "sku", "op": "eq", "value": value})
    goods = sku | some.sampled_from(CATEGORIES).map(
        lambda value: {"field": "category", "op": "in", "value": [value]}
    )
    tier = some.sampled_from(TIERS).map(lambda value: {"field": "member.tier", "op": "eq", "value": value})
    total = some.fixed_dictionaries({**_TOTAL, "where": goods})
    leaf = (
        tier
        | goods.map(lambda item: {"any_item": item})
        | goods.map(lambda item: {"all_items": {"none": [item]}})
        | total.map(lambda body: {"count_items": body})
        | total.map(lambda body: {"sum_items": {**body, "of": "quantity"}})
    )
    several = some.lists(leaf, min_size=1, max_size=2)
    return leaf | several.map(lambda parts: {"any": parts}) | several.map(lambda parts: {"none": parts})


def _possible(condition: dict[str, Any]) -> bool:
    """Not two types of event at once, and no attribute that the named event doesn't declare."""
    named = str(condition).count("'event'")
    return named == 0 or (named == 1 and "attributes.friend" not in str(condition))


def _without_events(condition: Any) -> Any:
    return None if condition is not None and "'event'" in str(condition) else condition


_LINES = some.lists(
    some.tuples(
        some.sampled_from(SKUS),
        some.sampled_from(CATEGORIES),
        some.integers(1, 5),
        some.decimals("0", "400", places=2),
        some.sampled_from(({}, {"colour": "red"}, {"colour": "green"})),
    ),
    min_size=1,
    max_size=5,
)
_MOMENTS = some.integers(0, 30 * 24).map(lambda hours: MIDNIGHT + timedelta(hours=hours))


@some.composite
def activities(draw: some.DrawFn) -> Activity:
    """A purchase with a basket, or an event without."""
    event_type = draw(some.sampled_from((PURCHASE, PURCHASE, *EVENTS)))
    store, channel = draw(some.sampled_from(("", *STORES))), draw(some.sampled_from(("", "pos", "web")))
    attributes = {"friend": "anna"} if draw(some.booleans()) else {}
    if event_type != PURCHASE:
        return Activity(event_type, draw(_MOMENTS), store, channel, attributes=attributes)
    lines = tuple(Line(str(n), *entry) for n, entry in enumerate(draw(_LINES), 1))
    amount = sum((line.amount for line in lines), Decimal(0))
    return Activity(PURCHASE, draw(_MOMENTS), store, channel, "INR", amount, lines, attributes)


def members() -> some.SearchStrategy[MemberFacts]:
    """Somebody with some tier, tags, segments and a city."""
    return some.builds(
        MemberFacts,
        tier=some.sampled_from(TIERS),
        joined_at=some.just(MIDNIGHT - timedelta(days=100)),
        lifetime=some.integers(0, 3),
        purchases=some.integers(0, 2),
        birth_month=some.sampled_from((0, 5, 11)),
        tags=some.frozensets(some.sampled_from(TAGS)),
        segments=some.sampled_from((frozenset(), frozenset(("lapsed",)))),
        attributes=some.sampled_from(({}, {"city": "Mumbai"})),
    )


def rule_sets(most: int = 8) -> some.SearchStrategy[list[dict[str, Any]]]:
    """Several definitions that go together."""
    return some.integers(0, most).flatmap(
        lambda size: some.tuples(*(definitions(f"r{n}", grouped=True) for n in range(size))).map(list)
    )
