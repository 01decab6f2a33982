"""How points live, in words: `after 14 days`, `at the end of the month 12 months later`."""

from collections.abc import Mapping
from types import MappingProxyType

from server.domain.lots import Until

_SAME: Mapping[Until, str] = MappingProxyType(
    {
        Until.DAYS: "at the end of the day",
        Until.MONTHS: "at the end of the month",
        Until.YEARS: "at the end of the year",
    }
)


def spendable(days: int, event_type: str) -> str:
    """When pending points can be spent."""
    ways = [
        *([f"after {_count(days, 'day')}"] if days else []),
        *([f"with the next {event_type}"] if event_type else []),
    ]
    return " or ".join(ways) + (", whichever comes first" if len(ways) == 2 else "") if ways else "at once"


def expiring(until: Until, number: int) -> str:
    """When points expire."""
    match until:
        case Until.NEVER:
            return "never"
        case Until.ROLLING_DAYS:
            return f"{_count(number, 'day')} after the member was last active"
        case _:
            later = f", {_count(number, until.value.removesuffix('s'))} later" if number else ""
            return f"{_SAME[until]}{later}"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"
