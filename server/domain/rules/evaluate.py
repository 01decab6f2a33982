"""Rules applied to one activity of one member. Pure and deterministic.

candidates -> matching, in order -> exclusive -> base rules -> extras on that base
each of both: what would every rule give, after its caps -> stacking groups choose
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from server.domain.activity import Activity, Line, MemberFacts
from server.domain.errors import FailedPrecondition
from server.domain.lots import LotTerms
from server.domain.rules.arithmetic import spread
from server.domain.rules.compile import CompiledRule, RuleSet
from server.domain.rules.definition import Limit
from server.domain.rules.evaluation import (
    APPLIED,
    CAPPED,
    EXCLUDED,
    OUTBID,
    Award,
    CapKey,
    Evaluation,
    Lots,
    Note,
    RedemptionTerms,
    RuleResult,
)
from server.domain.rules.fields import Case
from server.domain.rules.money import minor_digits
from server.domain.rules.periods import PERIOD_KEYS

# More than any wallet may hold: a rule set that gives this to one purchase is mistaken.
MAX_AWARD = 10**15

_NOTHING = Evaluation()
_ANYBODY = MemberFacts(tier="", joined_at=datetime(1970, 1, 1, tzinfo=UTC))


class _Offer(NamedTuple):
    """What one rule would give, after its caps; ``counters``: those of its caps that have periods."""

    rule: CompiledRule
    computed: int
    points: int
    lines: Sequence[int]
    notes: tuple[Note, ...]
    outcome: str = APPLIED
    counters: tuple[CapKey, ...] = ()


def cap_keys(rules: RuleSet, activity: Activity) -> tuple[CapKey, ...]:
    """Every counter that ``evaluate`` may need for this activity, whatever the member's facts.

    Facts change from one command to the next; a counter left out would count as 0.
    """
    case = rules.case(activity, _ANYBODY)
    capped = rules.capped_for_anybody(case)
    return tuple([CapKey(rule.name, PERIOD_KEYS[per](case.local)) for rule in capped for per in rule.counted])


def evaluate(
    rules: RuleSet, activity: Activity, facts: MemberFacts, used: Mapping[CapKey, int]
) -> Evaluation:
    """What the rules give for an activity.

    ``used``: what each rule has given the member so far, by the keys of ``cap_keys``; what
    isn't there counts as 0. Raises FailedPrecondition (WALLET_LIMIT) above MAX_AWARD.
    """
    case = rules.case(activity, facts)
    matching = rules.matching(case)
    if not matching:
        return _NOTHING
    considered = _considered(matching)
    # A multiplier multiplies what the base rules really gave.
    settled = _settle([_offer(rule, case, (), used) for rule in considered if rule.base])
    base = _base_lines(settled)
    nothing = [0] * len(activity.lines)
    settled += _settle(
        [_offer(rule, case, base.get(rule.point_type, nothing), used) for rule in considered if not rule.base]
    )
    return _evaluation(matching, {offer.rule.name: offer for offer in settled}, activity.lines)


def _considered(matching: Sequence[CompiledRule]) -> Sequence[CompiledRule]:
    for place, rule in enumerate(matching):
        if rule.exclusive:
            return matching[: place + 1]
    return matching


def _offer(rule: CompiledRule, case: Case, base: Sequence[int], used: Mapping[CapKey, int]) -> _Offer:
    lines = case.activity.lines
    if len(rule.gives) == 1:
        points, parts, note = rule.gives[0](lines, base)
        notes: tuple[Note, ...] = (note,)
    else:
        given = [give(lines, base) for give in rule.gives]
        points = sum(part.points for part in given)
        parts = [sum(column) for column in zip(*(part.lines for part in given), strict=True)]
        notes = tuple(part.note for part in given)
    if points > MAX_AWARD:
        raise FailedPrecondition(
            "WALLET_LIMIT",
            f"rule {rule.name} gives more points than a wallet can hold",
            {"point_type": rule.point_type, "rule": rule.name},
        )
    if rule.caps:
        return _capped(rule, case, used, points, parts, notes)
    return _Offer(rule, points, points, parts, notes)


def _capped(
    rule: CompiledRule,
    case: Case,
    used: Mapping[CapKey, int],
    computed: int,
    lines: Sequence[int],
    notes: tuple[Note, ...],
) -> _Offer:
    """The offer truncated to what the tightest cap has left."""
    left, biting, outcome = computed, None, APPLIED
    counters = {per: CapKey(rule.name, PERIOD_KEYS[per](case.local)) for per in rule.counted}
    for cap in rule.caps:
        open_points = cap.points
        if cap.per in counters:
            open_points -= used.get(counters[cap.per], 0)
        if open_points < left:
            # Below zero if the cap was lowered after it had been used.
            left, biting = max(open_points, 0), cap
    if biting is not None:
        notes += ({"kind": "cap", "points": biting.points, "per": biting.per, "left": left},)
        lines = spread(left, lines)
        outcome = CAPPED if computed and not left else APPLIED
    return _Offer(rule, computed, left, lines, notes, outcome, tuple(counters.values()))


def _settle(offers: list[_Offer]) -> list[_Offer]:
    """The offers as they stand; of a group one or all."""
    winners: dict[str, _Offer] = {}
    for offer in offers:
        rule = offer.rule
        if rule.group and rule.mode != "all":
            best = winners.get(rule.group)
            # Offers come in order, so a tie stays with the earlier.
            if best is None or (rule.mode == "best" and offer.points > best.points):
                winners[rule.group] = offer
    return [_outbid(offer, winners) for offer in offers] if winners else offers


def _outbid(offer: _Offer, winners: Mapping[str, _Offer]) -> _Offer:
    """The offer, with nothing to give if another one of its group is chosen."""
    rule = offer.rule
    winner = winners.get(rule.group, offer)
    if winner is offer:
        return offer
    note: Note = {
        "kind": "outbid",
        "group": rule.group,
        "mode": rule.mode,
        "by": winner.rule.name,
        "theirs": winner.points,
        "own": offer.points,
    }
    return _Offer(rule, offer.computed, 0, offer.lines, (*offer.notes, note), OUTBID)


def _base_lines(settled: Iterable[_Offer]) -> dict[str, Sequence[int]]:
    """The base of each wallet, line by line."""
    base: dict[str, Sequence[int]] = {}
    for offer in settled:
        if offer.points:
            so_far = base.get(offer.rule.point_type)
            base[offer.rule.point_type] = (
                offer.lines
                if so_far is None
                else [one + other for one, other in zip(so_far, offer.lines, strict=True)]
            )
    return base


def _evaluation(
    matching: Sequence[CompiledRule], settled: Mapping[str, _Offer], basket: Sequence[Line]
) -> Evaluation:
    points: dict[str, int] = {}
    usage: dict[CapKey, int] = {}
    tags: frozenset[str] = frozenset()
    results: list[RuleResult] = []
    lots: Mapping[str, Lots] = {}
    exclusive = ""
    for rule in matching:
        offer = settled.get(rule.name)
        if offer is None:
            results.append(_excluded(rule, exclusive))
            continue
        if rule.exclusive:
            exclusive = rule.name
        _, computed, given, parts, notes, outcome, counters = offer
        if rule.tags and outcome != OUTBID:
            tags |= rule.tags
            notes += rule.tag_notes
        if not given:
            results.append(
                RuleResult(rule.name, rule.version, outcome, computed, 0, rule.point_type, {}, notes)
            )
            continue
        points[rule.point_type] = points.get(rule.point_type, 0) + given
        for key in counters:
            usage[key] = given
        if rule.terms is not None and not lots:
            lots = _lots(matching, settled)
        results.append(
            RuleResult(
                rule.name,
                rule.version,
                outcome,
                computed,
                given,
                rule.point_type,
                _by_line(basket, parts),
                notes + rule.terms_notes,
                tuple([key.period for key in counters]) if counters else (),
            )
        )
    awards = {point_type: Award(total, lots.get(point_type, ())) for point_type, total in points.items()}
    return Evaluation(awards, tuple(results), usage, tags)


def _excluded(rule: CompiledRule, exclusive: str) -> RuleResult:
    note: Note = {"kind": "excluded", "by": exclusive}
    return RuleResult(rule.name, rule.version, EXCLUDED, 0, 0, rule.point_type, {}, (note,))


def _lots(matching: Sequence[CompiledRule], settled: Mapping[str, _Offer]) -> Mapping[str, Lots]:
    """How many points of each wallet live by which terms; only wallets with others than the program's."""
    wallets: dict[str, dict[LotTerms | None, int]] = {}
    for rule in matching:
        offer = settled.get(rule.name)
        if offer is not None and offer.points:
            parts = wallets.setdefault(rule.point_type, {})
            parts[rule.terms] = parts.get(rule.terms, 0) + offer.points
    return {point_type: tuple(parts.items()) for point_type, parts in wallets.items() if set(parts) != {None}}


def _by_line(basket: Sequence[Line], parts: Sequence[int]) -> dict[str, int]:
    """What each line gets of points that are given, if it gets anything."""
    if len(basket) == 1:
        return {basket[0].line_id: parts[0]}
    sums: dict[str, int] = {}
    for line, part in zip(basket, parts, strict=True):
        if part:
            sums[line.line_id] = sums.get(line.line_id, 0) + part
    return sums


def check_redemption(rules: RuleSet, activity: Activity, facts: MemberFacts) -> RedemptionTerms:
    """What the points of a redemption are worth, if a rule says so.

    Every limit of every matching rule must hold: raises FailedPrecondition
    (REDEMPTION_REFUSED; metadata rule and limit, such as ``min 100``) for the first that
    doesn't. The first matching rule with a value sets it; fractions of the smallest coin are dropped.
    """
    case = rules.case(activity, facts)
    terms = RedemptionTerms()
    for rule in rules.redeeming:
        if not rule.matches(case):
            continue
        if rule.limit is not None:
            _check_limit(rule.name, rule.limit, activity.points)
        if rule.worth is not None and not terms.rule:
            currency = rules.program.currency
            numerator, denominator = rule.worth.money.as_integer_ratio()
            digits = minor_digits(currency)
            coins = activity.points * numerator * 10**digits // (denominator * rule.worth.points)
            # From text: arithmetic would round to the caller's decimal context.
            value = Decimal(f"{coins}e-{digits}")
            terms = RedemptionTerms(
                value, currency, rule.name, rule.version, rule.worth.points, rule.worth.money
            )
    return terms


def _check_limit(rule: str, limit: Limit, points: int) -> None:
    if limit.min and points < limit.min:
        broken, words = f"min {limit.min}", f"at least {limit.min} points"
    elif limit.max and points > limit.max:
        broken, words = f"max {limit.max}", f"at most {limit.max} points"
    elif limit.multiple_of and points % limit.multiple_of:
        broken, words = f"multiple_of {limit.multiple_of}", f"a multiple of {limit.multiple_of} points"
    else:
        return
    raise FailedPrecondition(
        "REDEMPTION_REFUSED",
        f"rule {rule} asks for {words} at a time, not {points}",
        {"rule": rule, "limit": broken},
    )
