"""Bounded memory of what was found out."""

from typing import TypeVar

Value = TypeVar("Value")


def keep(cache: dict[bytes, Value], digest: bytes, value: Value, limit: int) -> None:
    """Put it in; the oldest entry makes room."""
    cache.pop(digest, None)
    while len(cache) >= limit:
        del cache[next(iter(cache))]
    cache[digest] = value
