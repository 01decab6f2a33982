"""Outcomes as they are remembered: JSON without personal data."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from types import MappingProxyType
from typing import Any
from uuid import UUID

from server.domain.canonical_json import canonical
from server.domain.commands import Award, Item, Outcome, ReturnedLine
from server.domain.ledger import Hold, HoldStatus

Write = Callable[[Any], Any]
Read = Callable[[Any], Any]


def _optional(read: Read) -> Read:
    return lambda said: None if said is None else read(said)


def hold_values(hold: Hold) -> list[Any]:
    """A hold as JSON, without the lots in which it reserves points."""
    hold_id, *values, status, expires_at, _, spender_id = hold
    said = [hold_id.hex, *values, status, expires_at.isoformat()]
    return said if spender_id is None else [*said, spender_id.hex]


def hold_from(said: Sequence[Any]) -> Hold:
    """The hold that was remembered."""
    hold_id, point_type, points, open_points, captured, status, expires_at, *spender = said
    return Hold(
        UUID(hold_id),
        point_type,
        points,
        open_points,
        captured,
        HoldStatus(status),
        datetime.fromisoformat(expires_at),
        (),
        UUID(spender[0]) if spender else None,
    )


# What isn't here is JSON already.
WRITERS: Mapping[str, Write] = MappingProxyType(
    {
        "event_id": lambda value: value.hex,
        "member_id": lambda value: value.hex,
        "awards": lambda awards: [[a.transaction_id.hex, a.point_type, a.points] for a in awards],
        "value": str,
        "hold": hold_values,
        "lines": lambda lines: [[line.event_id.hex, line.line_id, line.quantity] for line in lines],
        "unmatched": lambda items: [list(item) for item in items],
        "adjustment_id": lambda value: value.hex,
        "household_id": lambda value: value.hex,
        "spender_id": lambda value: value.hex,
    }
)
READERS: Mapping[str, Read] = MappingProxyType(
    {
        "event_id": UUID,
        "member_id": UUID,
        "awards": lambda said: tuple(Award(UUID(i), point_type, points) for i, point_type, points in said),
        "value": _optional(Decimal),
        "hold": hold_from,
        "lines": lambda said: tuple(ReturnedLine(UUID(i), line_id, n) for i, line_id, n in said),
        "unmatched": lambda said: tuple(Item(*item) for item in said),
        "adjustment_id": UUID,
        "household_id": UUID,
        "spender_id": UUID,
    }
)
# Fields with a default are left out where they say nothing more than that.
_FIELDS = tuple((field.name, field.default, WRITERS.get(field.name)) for field in fields(Outcome))
_values = attrgetter(*(name for name, _, _ in _FIELDS))


def outcome_text(outcome: Outcome) -> str:
    """The outcome as JSON."""
    said = {}
    for (name, default, write), value in zip(_FIELDS, _values(outcome), strict=True):
        if value is not default and value != default:
            said[name] = value if write is None else write(value)
    return canonical(said).decode()


def outcome_from(text: str) -> Outcome | None:
    """The outcome that was remembered; None if the request was none that moves points."""
    said = json.loads(text)
    if "event_id" not in said:
        return None
    return Outcome(
        **{name: READERS[name](value) if name in READERS else value for name, value in said.items()}
    )
