"""What a purchase's rules cost with 10 rules in force and with 10,000, of which the same 3 apply."""

import statistics
import time
from decimal import Decimal
from typing import Any

from bench import shop
from server.domain.activity import Activity, Line, MemberFacts
from server.domain.rules.compile import RuleSet
from server.domain.rules.evaluate import cap_keys, evaluate
from server.main import now

# What the rules of a large program are about, in turns.
ABOUT = ("item.sku", "item.category", "store", "member.segments", "member.tags")


def rule_set(number: int) -> RuleSet:
    """So many rules, of which the 3 that always apply are the first."""
    unmet = [_unmet(n) for n in range(number - len(shop.earning()))]
    return RuleSet.compile(shop.PROGRAM, [(1, definition) for definition in [*shop.earning(), *unmet]])


def _unmet(number: int) -> dict[str, Any]:
    field = ABOUT[number % len(ABOUT)]
    condition = shop.equal(field, f"other-{number}")
    if field.startswith("item."):
        condition = {"any_item": condition}
    elif field.startswith("member."):
        condition = {"field": field, "op": "in", "value": [f"other-{number}"]}
    return {
        "rule": f"unmet-{number}",
        "type": "earn",
        "when": shop.purchase(condition),
        "then": [{"fixed": {"points": 1}}],
    }


def compare(few: RuleSet, many: RuleSet, seconds: float) -> tuple[float, float]:
    """Microseconds of CPU that one evaluation takes with each, measured in turns."""
    lines = tuple(Line(str(n), f"sku-{n}", "sweets", 1, Decimal(100), {}) for n in range(5))
    bought = Activity(
        "PURCHASE",
        now(),
        currency="INR",
        amount=Decimal(500),
        lines=lines,
        store=shop.STORE,
        channel=shop.CHANNEL,
    )
    facts = MemberFacts("gold", joined_at=now(), segments=frozenset({"regulars"}), tags=frozenset({"vip"}))

    def timed(rules: RuleSet) -> float:
        started = time.process_time()
        for _ in range(200):
            used = dict.fromkeys(cap_keys(rules, bought), 0)
            assert evaluate(rules, bought, facts, used).awards
        return (time.process_time() - started) / 200 * 1e6

    taken: list[tuple[float, float]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        taken.append((timed(few), timed(many)))
    return statistics.median(a for a, _ in taken), statistics.median(b for _, b in taken)
