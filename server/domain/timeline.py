"""Timelines: everything that happened to a member, in one list.

An event is in the timeline of its member, and an event of a household's pool in those of all who sat there
then. The log alone says who that was, so the same comes out whenever it is asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from server.domain import live
from server.domain.household_events import HouseholdJoined, HouseholdLeft, HouseholdSeatChanged
from server.domain.households import Role
from server.domain.live import MOVED, SAID, Happened, PointsMoved, StatusChanged, TierReached
from server.domain.program import Program

Where = tuple[int, int, int]  # a place in the log: epoch, xid, position
MemberOf = tuple[UUID, UUID]  # the program, and the member or pool within it


class Logged(Protocol):
    """As much of an event as it takes to say in whose timelines it is."""

    @property
    def place(self) -> Where: ...  # noqa: D102
    @property
    def event_type(self) -> str: ...  # noqa: D102
    @property
    def program_id(self) -> UUID: ...  # noqa: D102
    @property
    def member_id(self) -> UUID: ...  # noqa: D102
    @property
    def occurred_at(self) -> datetime: ...  # noqa: D102
    @property
    def payload(self) -> Mapping[str, Any]: ...  # noqa: D102


class Key(NamedTuple):
    """Where an entry stands in a timeline: by business time, then as in the log."""

    occurred_at: datetime
    epoch: int
    xid: int
    position: int

    @property
    def place(self) -> Where:
        """Its event's place in the log."""
        return self[1:]


class Entry(NamedTuple):
    """An event in the timeline of a member, and how it concerns them."""

    program_id: UUID
    member_id: UUID
    key: Key
    kind: str


class Sitting(NamedTuple):
    """Somebody sat in a household from one place in the log to another, or still does."""

    household_id: UUID
    member_id: UUID
    since: Where
    until: Where | None = None

    def covers(self, place: Where) -> bool:
        """Whether they sat there when that happened."""
        return self.since < place and (self.until is None or place < self.until)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The member joined, in that tier."""

    tier: str
    imported: bool


@dataclass(frozen=True, slots=True)
class Merged:
    """Another membership became one with the member's."""

    merged_id: str


@dataclass(frozen=True, slots=True)
class ProfileChanged:
    """These fields of the profile changed; to what isn't said."""

    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """The member agreed to a purpose, or refused it."""

    purpose: str
    granted: bool


@dataclass(frozen=True, slots=True)
class SeatChanged:
    """The member's seat in a household as it is then; as it was, if it ended."""

    household_id: str
    head: bool
    may_spend: bool
    contributes: bool


Update = (
    PointsMoved | TierReached | StatusChanged | Enrolled | Merged | ProfileChanged | Decided | SeatChanged
)

# How an event that moves no points concerns its member. Left out is what only waits or warns, and birthdays,
# by which whoever reads a timeline would learn when somebody was born.
OTHERS: Mapping[str, str] = MappingProxyType(
    {
        "member.registered": "enrolled",
        "member.status_changed": "status",
        "member.merged": "merged",
        "member.tier_changed": "tier",
        "member.updated": "profile",
        "member.consent_recorded": "consent",
        HouseholdJoined.event_type: "household_joined",
        HouseholdSeatChanged.event_type: "household_seat_changed",
        HouseholdLeft.event_type: "household_left",
    }
)
EVENT_TYPES = frozenset({*MOVED, *OTHERS})
KINDS = frozenset({*SAID, *OTHERS.values()})

STANDS: Mapping[str, str] = MappingProxyType(
    {
        "active": "Your membership is active again",
        "suspended": "Your membership is suspended",
        "closed": "Your membership has ended",
        "merged": "Your membership became one with another of yours",
    }
)
WORDS: Mapping[str, str] = MappingProxyType(
    {
        "enrolled": "You've joined",
        "merged": "Another membership of yours became one with this one",
        "profile": "Your profile was changed",
        "household_joined": "You've joined a household",
        "household_seat_changed": "Your seat in the household has other terms",
        "household_left": "You've left the household",
    }
)


def sittings(seats: Iterable[Logged]) -> list[Sitting]:
    """Who sat where and when, by the events of one log in which seats began and ended, in order."""
    found: list[Sitting] = []
    open_at: dict[str, int] = {}
    for event in seats:
        seated = event.payload["seated_id"]
        if event.event_type == HouseholdJoined.event_type:
            open_at[seated] = len(found)
            household_id = UUID(event.payload["household_id"])
            found.append(Sitting(household_id, UUID(seated), event.place))
        elif (index := open_at.pop(seated, None)) is not None:
            found[index] = found[index]._replace(until=event.place)
    return found


def pools(seats: Mapping[MemberOf, Sequence[Logged]]) -> dict[MemberOf, list[Sitting]]:
    """The pools among those of whose seats these logs tell: a member's log tells of the member's own."""
    return {
        owner: sittings(events)
        for owner, events in seats.items()
        if events[0].payload["household_id"] == str(owner[1])
    }


def entries(events: Iterable[Logged], pools: Mapping[MemberOf, Sequence[Sitting]]) -> list[Entry]:
    """These events in all timelines in which they are, by the order of timelines.

    ``pools``: who ever sat in each pool to which one of them happened.
    """
    found = []
    for event in events:
        owner = event.program_id, event.member_id
        if owner in pools:
            seated = {s.member_id for s in pools[owner] if s.covers(event.place)}
            found += [_entry(event, member_id, event.member_id) for member_id in seated]
        else:
            found.append(_entry(event, event.member_id))
    return sorted(entry for entry in found if entry is not None)


def _entry(event: Logged, member_id: UUID, of_pool: UUID | None = None) -> Entry | None:
    kind = kind_of(event.event_type, event.payload, member_id, of_pool)
    if kind is None:
        return None
    return Entry(event.program_id, member_id, Key(event.occurred_at, *event.place), kind)


def kind_of(
    event_type: str, payload: Mapping[str, Any], member_id: UUID, of_pool: UUID | None = None
) -> str | None:
    """How an event of a member's own, or of that pool, concerns them; None if it is not in their timeline."""
    if event_type in MOVED:
        return live.how_points_moved(event_type, payload, member_id, of_pool)
    if of_pool is not None or payload.get("household_id") == str(member_id):
        return None
    if event_type == "member.merged" and payload["merged_id"] == str(member_id):
        return "status"
    return OTHERS.get(event_type)


def told(happened: Happened, member_id: UUID, program: Program, of_pool: UUID | None = None) -> Update:
    """What an entry says: of an event that is in the member's timeline."""
    update = live.told(happened, member_id, program, of_pool)
    if update is not None:
        assert not isinstance(update, live.MessageCame)
        return update
    payload = happened.payload
    match happened.event_type:
        case "member.registered":
            return Enrolled(payload["tier"], payload.get("imported", False))
        case "member.merged":
            return Merged(payload["merged_id"])
        case "member.updated":
            return ProfileChanged(tuple(payload["fields"]))
        case "member.consent_recorded":
            return Decided(payload["purpose"], payload["granted"])
        case _:
            head = payload["role"] == Role.HEAD
            return SeatChanged(payload["household_id"], head, payload["may_spend"], payload["contributes"])


def in_words(kind: str, update: Update) -> str:
    """One line of English for people."""
    match update:
        case PointsMoved() | TierReached():
            return update.message
        case StatusChanged():
            return STANDS[update.after]
        case Decided():
            return f"You've {'agreed to' if update.granted else 'refused'} {update.purpose}"
        case _:
            return WORDS[kind]
