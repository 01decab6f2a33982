"""What members are told of what happens to them, as it happens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.program import Program


class PoolPlace(NamedTuple):
    """The place of an event of the household's pool in which the member sits, in the member's epoch.

    The pool's events and the member's come in no common order, so each of the two has a place of its own.
    """

    household_id: UUID
    xid: int
    position: int
    event_id: UUID


NOWHERE = PoolPlace(UUID(int=0), 0, 0, UUID(int=0))


class Place(NamedTuple):
    """An event's place in the log. ``event_id`` is near those of its neighbours, by which they are found.

    ``message``: the position of the last message that came into the inbox by then; the log has none of these.
    ``pool``: how much of their household's pool the member knows by then; NOWHERE if they sit in none.
    None for either: nobody knows, and only that is news which comes from now on.
    """

    epoch: int
    xid: int
    position: int
    event_id: UUID
    message: int | None = 0
    pool: PoolPlace | None = NOWHERE

    def filled(self, newest: "Place", *, more: bool) -> "Place":
        """The same, with what is now where nobody knew; of a pool not while there is more of the member."""
        message = newest.message if self.message is None else self.message
        pool = newest.pool if self.pool is None and not more else self.pool
        return self._replace(message=message, pool=pool)

    def within(self, epoch: int) -> "Place":
        """The same, as a place of that epoch: its beginning, if all that led here was in one before."""
        return self if self.epoch == epoch else Place(epoch, 0, 0, self.event_id)

    def in_pool(self, household_id: UUID) -> PoolPlace:
        """The same place, of an event of a pool."""
        return PoolPlace(household_id, self.xid, self.position, self.event_id)

    def of_pool(self) -> "Place":
        """The pool's place by itself."""
        assert self.pool is not None
        return Place(self.epoch, *self.pool[1:])


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
        "household_redeemed": "{} of your household spent",
        "household_held": "{} of your household reserved",
        "household_released": "{} of your household no longer reserved",
        "household_captured": "{} of your household spent that were reserved",
        "household_activated": "{} of your household can be spent now",
        "household_expired": "{} of your household expired",
        "household_refunded": "{} given back to your household",
        "household_received": "Your household has received {}",
        "household_handed_on": "{} of your household went back to who gave them",
        "household_added": "{} added to your household",
        "household_taken_out": "{} taken out of your household",
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


# Where a pool pays, who spends has an event of theirs beside these of the pool.
SPENT = frozenset({"points.redeemed", "points.captured"})
SEATS = frozenset({"household.joined", "household.left"})


def together(own: Sequence[Happened], pool: Sequence[Happened], page: int) -> list[tuple[Happened, bool]]:
    """What happened to a member and to the pool, in one order; true for the pool's.

    ``page``: so many of each at most. What may come after something that didn't fit is left for later.
    """
    ends = [some[-1].place[:3] for some in (own, pool) if len(some) >= page]
    both = [(event, of_pool) for some, of_pool in ((own, False), (pool, True)) for event in some]
    fit = [one for one in both if all(one[0].place[:3] <= end for end in ends)]
    return sorted(fit, key=lambda one: one[0].place[:3])


def after(place: Place, happened: Happened, of_pool: UUID | None) -> Place:
    """How far who watches has come with an event, of a pool or of the member's own.

    With a seat they begin to know of its pool, from where that stood then; without one they know of none, and
    what was read of the pool of before leads nowhere.
    """
    at = happened.place
    if of_pool is not None:
        sits = place.pool is not None and place.pool.household_id == of_pool
        return place._replace(pool=at.in_pool(of_pool)) if sits else place
    pool = place.pool
    if happened.event_type in SEATS:
        joined = happened.event_type == "household.joined"
        pool = at.in_pool(UUID(happened.payload["household_id"])) if joined else NOWHERE
    return at._replace(message=place.message, pool=pool)


def told(happened: Happened, member_id: UUID, program: Program, of_pool: UUID | None = None) -> Update | None:
    """What the member is told of an event of theirs, or of that pool; None if nothing."""
    if of_pool is not None:
        return _told_of_pool(happened, of_pool, member_id)
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


def how_points_moved(
    event_type: str, payload: Mapping[str, Any], member_id: UUID, of_pool: UUID | None = None
) -> str | None:
    """A key of SAID; None if the member is told of no points of theirs, or of that pool, by such an event."""
    if event_type not in MOVED:
        return None
    if of_pool is None:
        return _kind(event_type, payload, member_id)
    if event_type in SPENT and payload.get("spender_id") == str(member_id):
        return None
    kind = f"household_{_kind(event_type, payload, of_pool)}"
    return kind if kind in SAID else None


def _told_of_pool(happened: Happened, household_id: UUID, member_id: UUID) -> Update | None:
    """What who sits in a household is told of an event of its pool, None if nothing.

    Who else spent, where and for what is not theirs to know. What they spent themselves is in their own log.
    """
    payload = happened.payload
    kind = how_points_moved(happened.event_type, payload, member_id, household_id)
    if kind is None:
        return None
    theirs = payload.get("spender_id") == str(member_id)
    points = {payload["point_type"]: payload["points"]}
    return PointsMoved(
        kind,
        points,
        SAID[kind].format(_counted(points)),
        "",
        payload["reference"] if theirs else "",
        payload["store"] if theirs else "",
        str(household_id),
        payload["balance"],
    )


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
