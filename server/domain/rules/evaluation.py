"""What an evaluation comes to: awards, and why.

Named tuples where every purchase makes several: they cost a third of a frozen dataclass.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

from server.domain.lots import LotTerms

APPLIED = "applied"
OUTBID = "outbid"  # another rule of its stacking group was chosen
EXCLUDED = "excluded"  # an exclusive rule came before it
CAPPED = "capped"  # its cap had nothing left

# One step of the arithmetic, or one limit that bit: `kind` and its figures. No floats:
# notes enter the ledger's hash.
Note = Mapping[str, int | str]


# How many points live by which terms, None for the program's.
Lots = tuple[tuple[LotTerms | None, int], ...]


class CapKey(NamedTuple):
    """The counter of what a rule has given one member in a period such as ``day:2026-11-23``."""

    rule: str
    period: str


class Award(NamedTuple):
    """Points for one wallet. ``lots``: how many of them live by which terms, None for the program's;
    nothing if all of them do.
    """

    points: int
    lots: Lots = ()


class RuleResult(NamedTuple):
    """What one matching rule did. ``computed`` is before caps, ``points`` what it gave.

    ``lines``: how the points spread over the basket, by line_id; they sum to ``points`` if the activity has
    lines. ``periods``: the counters of its caps that count them.
    """

    rule: str
    version: int
    outcome: str
    computed: int
    points: int
    point_type: str
    lines: Mapping[str, int]
    notes: tuple[Note, ...] = ()
    periods: tuple[str, ...] = ()


class Evaluation(NamedTuple):
    """All that rules say about one activity of one member.

    ``awards``: by point type, only wallets that get something. ``results``: every rule that
    matched, in order of consideration. ``cap_usage``: points to add to each counter.
    ``tags``: to put on the member.
    """

    awards: Mapping[str, Award] = MappingProxyType({})
    results: tuple[RuleResult, ...] = ()
    cap_usage: Mapping[CapKey, int] = MappingProxyType({})
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RedemptionTerms:
    """What redeemed points are worth, in the program's currency; None if no rule says so.

    ``rule`` and ``version`` name the rule that set the value, and ``unit_points`` are worth ``unit_money``.
    """

    value: Decimal | None = None
    currency: str = ""
    rule: str = ""
    version: int = 0
    unit_points: int = 0
    unit_money: Decimal = Decimal(0)
