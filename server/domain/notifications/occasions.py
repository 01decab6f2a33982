"""Occasions: which events members are told of, and which facts a message is made of.

Facts are plain values of the event without personal data; what is personal is added when a
message is shown or sent. The example of an occasion has every fact that its templates may name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol
from uuid import UUID

from server.domain.lots import midnight
from server.domain.notifications.terms import NotificationTerms
from server.domain.program import Program

Facts = Mapping[str, str | int]


class Purpose(StrEnum):
    """What a message is for, as members decide about it with RecordConsent."""

    SERVICE = "service"  # about the membership: unless refused
    SECURITY = "security"  # the same, and at any hour
    MARKETING = "marketing"  # only where granted


@dataclass(frozen=True, slots=True)
class Occasion:
    """A reason to write to a member.

    ``summed``: the facts that add up where several messages become one; none: each is sent.
    """

    name: str
    purpose: Purpose
    example: Facts
    summed: tuple[str, ...] = ()


WELCOME = Occasion("welcome", Purpose.SERVICE, {"tier": "bronze"})
POINTS_EARNED = Occasion("points_earned", Purpose.SERVICE, {"points": 1200, "times": 3}, ("points", "times"))
TIER_REACHED = Occasion("tier_reached", Purpose.SERVICE, {"tier": "platinum", "before": "gold"})
POINTS_EXPIRING = Occasion(
    "points_expiring",
    Purpose.SERVICE,
    {"points": 500, "point_type": "points", "expires_on": "2026-12-31", "days": 30},
)
BIRTHDAY = Occasion("birthday", Purpose.MARKETING, {})
LARGE_REDEMPTION = Occasion(
    "large_redemption", Purpose.SECURITY, {"points": 5000, "balance": 1200, "store": "pune-3"}
)

OCCASIONS: Mapping[str, Occasion] = MappingProxyType(
    {
        occasion.name: occasion
        for occasion in (
            WELCOME,
            POINTS_EARNED,
            TIER_REACHED,
            POINTS_EXPIRING,
            BIRTHDAY,
            LARGE_REDEMPTION,
        )
    }
)


@dataclass(frozen=True, slots=True)
class Happening:
    """Something to tell one member.

    ``once``: of two with the same one the second is dropped. ``useless_at``: nobody wants to hear of
    it from then on; None for never.
    """

    occasion: Occasion
    once: str
    facts: Facts = field(default_factory=dict)
    useless_at: datetime | None = None


class Logged(Protocol):
    """What is looked at of an event in the log."""

    @property
    def event_id(self) -> UUID: ...  # noqa: D102
    @property
    def event_type(self) -> str: ...  # noqa: D102
    @property
    def occurred_at(self) -> datetime: ...  # noqa: D102
    @property
    def payload(self) -> Mapping[str, Any]: ...  # noqa: D102


def happening(event: Logged, program: Program, terms: NotificationTerms) -> Happening | None:
    """What the event gives to tell; None for nothing."""
    read = EVENTS.get(event.event_type)
    return None if read is None else read(event, program, terms)


def _welcome(event: Logged, _program: Program, _terms: NotificationTerms) -> Happening | None:
    # Who was a member elsewhere has been one for long.
    if event.payload.get("imported"):
        return None
    return Happening(WELCOME, "welcome", {"tier": event.payload["tier"]})


def _points_earned(event: Logged, program: Program, _terms: NotificationTerms) -> Happening | None:
    # Of the main wallet alone: one purchase is one message, however many wallets it fills.
    points = event.payload["awards"].get(program.main_point_type, 0)
    if points <= 0:
        return None
    return Happening(POINTS_EARNED, f"points_earned:{event.event_id}", {"points": points, "times": 1})


def _tier_reached(event: Logged, program: Program, _terms: NotificationTerms) -> Happening | None:
    before, after = event.payload["before"], event.payload["after"]
    if program.tier_rank(after) <= program.tier_rank(before):
        return None
    # Goods that go back and forth cross a threshold several times; it is news once a day.
    day = program.business_date(event.occurred_at)
    return Happening(TIER_REACHED, f"tier_reached:{after}:{day}", {"tier": after, "before": before})


def _points_expiring(event: Logged, _program: Program, _terms: NotificationTerms) -> Happening:
    payload = event.payload
    facts = {
        "points": payload["points"],
        "point_type": payload["point_type"],
        "expires_on": payload["expires_on"],
        "days": payload["days_ahead"],
    }
    once = f"points_expiring:{facts['point_type']}:{facts['expires_on']}:{facts['days']}"
    return Happening(POINTS_EXPIRING, once, facts, datetime.fromisoformat(payload["expires_at"]))


def _birthday(event: Logged, program: Program, _terms: NotificationTerms) -> Happening:
    day = program.business_date(event.occurred_at)
    return Happening(BIRTHDAY, f"birthday:{day.year}", {}, midnight(day, 1, program.zone))


def _large_redemption(event: Logged, program: Program, terms: NotificationTerms) -> Happening | None:
    payload = event.payload
    if payload["point_type"] != program.main_point_type or payload["points"] < terms.large_redemption:
        return None
    facts = {"points": payload["points"], "balance": payload["balance"], "store": payload["store"]}
    return Happening(LARGE_REDEMPTION, f"large_redemption:{event.event_id}", facts)


# Every type of event that members are told of. Those of a household's pool reach nobody: who spent from it
# has an event of their own.
EVENTS: Mapping[str, Callable[[Logged, Program, NotificationTerms], Happening | None]] = MappingProxyType(
    {
        "member.registered": _welcome,
        "points.earned": _points_earned,
        "member.tier_changed": _tier_reached,
        "points.expiring": _points_expiring,
        "member.birthday": _birthday,
        "points.redeemed": _large_redemption,
        "points.captured": _large_redemption,
        "household.spent": _large_redemption,
    }
)
