"""Exact arithmetic on points: rounding, and spreading points over lines."""

from collections.abc import Callable, Mapping, Sequence
from math import lcm

from server.domain.activity import Line

# (numerator, denominator) -> whole points, for numerator >= 0 and denominator > 0.
Rounding = Callable[[int, int], int]


def _half_even(numerator: int, denominator: int) -> int:
    whole, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and whole % 2):
        return whole + 1
    return whole


ROUND: Mapping[str, Rounding] = {
    "floor": lambda numerator, denominator: numerator // denominator,
    "half_even": _half_even,
    "ceil": lambda numerator, denominator: -(-numerator // denominator),
}


def spread(points: int, weights: Sequence[int]) -> list[int]:
    """``points`` in proportion to the weights, by largest remainder; ties go to the earlier line.

    The parts sum to ``points``. Where the weights sum to more than ``points``, no part exceeds
    its weight. With no weight at all every line weighs the same.
    """
    if not weights:
        return []
    total = sum(weights)
    if total == 0:
        weights, total = [1] * len(weights), len(weights)
    shares = [divmod(points * weight, total) for weight in weights]
    parts = [whole for whole, _ in shares]
    left = points - sum(parts)
    if left:
        for place in sorted(range(len(parts)), key=lambda place: -shares[place][1])[:left]:
            parts[place] += 1
    return parts


def weights_by_amount(lines: Sequence[Line], counted: Sequence[bool]) -> list[int]:
    """What fixed points are spread by: the amounts of the lines that count, their units if all are free."""
    ratios = [line.amount.as_integer_ratio() for line in lines]
    common = lcm(*(denominator for _, denominator in ratios)) if ratios else 1
    weights = [
        numerator * (common // denominator) if counts else 0
        for (numerator, denominator), counts in zip(ratios, counted, strict=True)
    ]
    if any(weights):
        return weights
    return [line.quantity if counts else 0 for line, counts in zip(lines, counted, strict=True)]
