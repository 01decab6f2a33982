"""Scopes: what a credential may do, each declared by the contracts."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase


def expand(patterns: Iterable[str], declared: Collection[str]) -> tuple[frozenset[str], list[str]]:
    """The declared scopes that match patterns such as ``members.*``, and the patterns that match none."""
    matches = {pattern: {s for s in declared if fnmatchcase(s, pattern)} for pattern in patterns}
    unknown = [pattern for pattern, found in matches.items() if not found]
    return frozenset().union(*matches.values()), unknown
