"""What members are told of what happens to them, as it happens."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.program import Program


class Place(NamedTuple):
    """An event's place in the log. ``event_id`` is near those of its neighbours, by which they are found.

    ``message``: the position of the last message that came into the inbox by then; the log has none of these.
    None: nobody knows, and of messages only those are news that come from now on.
    """

    epoch: int
    xid: int
    position: int
    event_id: UUID
    message: int | None = 0


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the log, as far as its member is told of it."""

    place: Place
    recorded_at: datetime
    event_type: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PointsMoved:
    """Points moved, so many by point type; ``kind`` is a key of SAID.

    ``household_id``: whose pool they were of, if they weren't the member's own; ``left``: what it has then.
    """

    kind: str
    points: Mapping[str, int]
    message: str
    activity_type: str
    order_reference: str
    store: str
    household_id: str = ""
    left: int = 0


@dataclass(frozen=True, slots=True)
class TierReached:
    """The member is in another tier; ``promoted`` if in a higher one."""

    before: str
    after: str
    promoted: bool
    message: str


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """The membership stands elsewhere."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class MessageCame:
    """A message is in the inbox, or took in more."""

    message_id: UUID
    occasion: str
    subject: str
    text: str
    language: str


Update = PointsMoved | TierReached | StatusChanged | MessageCame

# What a member reads; {} is the points, such as `100 points and 5 credits`.
SAID: Mapping[str, str] = MappingProxyType(
    {
        "earned": "You've earned {}",
        "redeemed": "You've spent {}",
        "held": "{} reserved",
        "released": "{} no longer reserved",
        "captured": "You've spent {} that were reserved",
        "activated": "{} can be spent now",
        "expired": "{} expired",
        "returned": "{} taken back for what you returned",
        "refunded": "{} given back",
        "received": "You've received {}",
        "handed_on": "You've handed on {}",
        "added": "{} added",
        "taken_out": "{} taken out",
        "spent_from_household": "You've spent {} of your household",
    }
)
NOTHING = "Recorded, without any points"

MOVED: Mapping[str, str] = MappingProxyType(
    {
        "points.earned": "earned",
        "points.redeemed": "redeemed",
        "points.held": "held",
        "points.released": "released",
        "points.captured": "captured",
        "points.activated": "activated",
        "points.expired": "expired",
        "points.returned": "returned",
        "points.refunded": "refunded",
        "points.transferred": "handed_on",
        "points.adjusted": "added",
        "household.spent": "spent_from_household",
    }
)


def told(happened: Happened, member_id: UUID, program: Program) -> Update | None:
    """What the member is told of an event, None if nothing."""
    event_type, payload = happened.event_type, happened.payload
    if event_type in MOVED:
        return _moved(_kind(event_type, payload, member_id), payload)
    if event_type == "member.tier_changed":
        return _tier(payload["before"], payload["after"], program)
    if event_type == "member.status_changed":
        return StatusChanged(payload["before"], payload["after"])
    if event_type == "member.merged" and payload["merged_id"] == str(member_id):
        return StatusChanged("active", "merged")
    return None


def _kind(event_type: str, payload: Mapping[str, Any], member_id: UUID) -> str:
    if event_type == "points.transferred" and payload["to"] == str(member_id):
        return "received"
    if event_type == "points.adjusted" and payload["direction"] == "out":
        return "taken_out"
    return MOVED[event_type]


def _moved(kind: str, payload: Mapping[str, Any]) -> PointsMoved:
    points = payload["awards"] if kind == "earned" else {payload["point_type"]: payload["points"]}
    points = {point_type: number for point_type, number in points.items() if number}
    activity = payload.get("activity", {})
    reference = payload.get("reference") or payload.get("order_reference") or activity.get("reference", "")
    return PointsMoved(
        kind,
        points,
        SAID[kind].format(_counted(points)) if points else NOTHING,
        activity.get("type", ""),
        reference,
        payload.get("store") or activity.get("store", ""),
        payload.get("household_id", ""),
        payload["balance"] if "household_id" in payload else 0,
    )


def _counted(points: Mapping[str, int]) -> str:
    return " and ".join(
        f"{number:,} {name.removesuffix('s') if number == 1 else name}" for name, number in points.items()
    )


def _tier(before: str, after: str, program: Program) -> TierReached:
    order = [tier.name for tier in program.tiers]
    # Of tiers that the program has no longer nobody knows which is higher.
    promoted = before in order and after in order and order.index(after) > order.index(before)
    name = after[:1].upper() + after[1:]
    return TierReached(
        before, after, promoted, f"You've unlocked {name}" if promoted else f"You're in {name} now"
    )
