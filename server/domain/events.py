"""What is written to the event log: one dataclass per type of event.

A payload is JSON without floats and without personal data: the log is immutable and
widely read. The type's name and the payload's shape are a contract with consumers;
both only ever grow.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, ClassVar
from uuid import UUID

from server.domain.records import record


@record
class Event:
    """Something that happened to one member."""

    event_type: ClassVar[str]

    event_id: UUID
    program_id: UUID
    member_id: UUID
    occurred_at: datetime
    recorded_at: datetime

    def payload(self) -> Mapping[str, Any]:
        """The facts of this type of event, JSON-able."""
        return {}


@record
class MemberRegistered(Event):
    """A member joined, in the lowest tier; ``imported``, if from another system."""

    event_type = "member.registered"

    tier: str
    imported: bool = False

    def payload(self) -> Mapping[str, Any]:
        """The tier, and whether they were imported if so."""
        return {"tier": self.tier, **({"imported": True} if self.imported else {})}


@record
class MemberUpdated(Event):
    """A profile changed: which fields, not to what."""

    event_type = "member.updated"

    fields: tuple[str, ...]

    def payload(self) -> Mapping[str, Any]:
        """The names of the fields."""
        return {"fields": list(self.fields)}


@record
class MemberStatusChanged(Event):
    """A membership was suspended, reactivated or closed."""

    event_type = "member.status_changed"

    before: str
    after: str
    reason: str
    actor: str

    def payload(self) -> Mapping[str, Any]:
        """From where to where, why and by whom."""
        return {"before": self.before, "after": self.after, "reason": self.reason, "actor": self.actor}


@record
class MemberMerged(Event):
    """Two memberships became one. Each of the two gets one of these."""

    event_type = "member.merged"

    survivor_id: UUID
    merged_id: UUID
    reason: str
    actor: str

    def payload(self) -> Mapping[str, Any]:
        """Who lives on, who doesn't, why and by whom."""
        return {
            "survivor_id": str(self.survivor_id),
            "merged_id": str(self.merged_id),
            "reason": self.reason,
            "actor": self.actor,
        }


@record
class ConsentRecorded(Event):
    """A member decided about a purpose."""

    event_type = "member.consent_recorded"

    purpose: str
    granted: bool

    def payload(self) -> Mapping[str, Any]:
        """The purpose and the decision."""
        return {"purpose": self.purpose, "granted": self.granted}


class MemberBirthday(Event):
    """It is the member's birthday on the program's calendar: occurred at its midnight.

    Only of members who agreed to be written to, since the day tells when they were born.
    """

    event_type = "member.birthday"


@record
class TierChanged(Event):
    """A member reached another tier by lifetime points."""

    event_type = "member.tier_changed"

    before: str
    after: str
    lifetime: int

    def payload(self) -> Mapping[str, Any]:
        """Both tiers and the lifetime points that decided."""
        return {"before": self.before, "after": self.after, "lifetime": self.lifetime}


@record
class PointsEarned(Event):
    """A purchase or an event was recorded, also when it earned nothing.

    ``activity`` is enough to evaluate it again: basket, amounts as decimal text,
    attributes. ``revision`` names the rule set that paid.
    """

    event_type = "points.earned"

    activity: Mapping[str, Any]
    awards: Mapping[str, int]
    transaction_ids: tuple[UUID, ...]
    revision: int
    version: int

    def payload(self) -> Mapping[str, Any]:
        """The activity, the points by wallet and what was recorded of them."""
        return {
            "activity": self.activity,
            "awards": self.awards,
            "transaction_ids": [str(i) for i in self.transaction_ids],
            "revision": self.revision,
            "version": self.version,
        }


@record
class PointsRedeemed(Event):
    """A member spent points; ``spender_id``, if it was a household's pool that paid."""

    event_type = "points.redeemed"

    point_type: str
    points: int
    balance: int
    transaction_id: UUID
    store: str
    channel: str
    order_reference: str
    version: int
    spender_id: UUID | None = None

    def payload(self) -> Mapping[str, Any]:
        """The wallet, the points and what is left."""
        spender = {} if self.spender_id is None else {"spender_id": str(self.spender_id)}
        return {
            **spender,
            "point_type": self.point_type,
            "points": self.points,
            "balance": self.balance,
            "transaction_id": str(self.transaction_id),
            "store": self.store,
            "channel": self.channel,
            "order_reference": self.order_reference,
            "version": self.version,
        }


@record
class PointsMoved(Event):
    """Points moved in, out of or inside one wallet. The figures are the wallet's afterwards.

    ``details`` says what it had to do with: a hold, the rows that were reversed, another member.
    """

    point_type: str
    points: int
    balance: int
    pending: int
    held: int
    debt: int
    transaction_ids: tuple[UUID, ...]
    reference: str
    store: str
    channel: str
    details: Mapping[str, Any]
    version: int

    def payload(self) -> Mapping[str, Any]:
        """The wallet, what moved, the figures, the rows."""
        return {
            "point_type": self.point_type,
            "points": self.points,
            "balance": self.balance,
            "pending": self.pending,
            "held": self.held,
            "debt": self.debt,
            "transaction_ids": [str(i) for i in self.transaction_ids],
            "reference": self.reference,
            "store": self.store,
            "channel": self.channel,
            **self.details,
            "version": self.version,
        }


class PointsActivated(PointsMoved):
    """Pending points can be spent from now on."""

    event_type = "points.activated"


class PointsExpired(PointsMoved):
    """Points were not spent in time."""

    event_type = "points.expired"


@record
class PointsExpiring(Event):
    """Points can be spent for some days more: so a member is warned, ``days_ahead`` days before.

    ``points`` are those of one day, spendable as of now; the first of them expire at ``expires_at``.
    """

    event_type = "points.expiring"

    point_type: str
    points: int
    expires_at: datetime
    expires_on: date
    days_ahead: int

    def payload(self) -> Mapping[str, Any]:
        """The wallet, the points and when they expire."""
        return {
            "point_type": self.point_type,
            "points": self.points,
            "expires_at": self.expires_at.isoformat(),
            "expires_on": self.expires_on.isoformat(),
            "days_ahead": self.days_ahead,
        }


class PointsHeld(PointsMoved):
    """Points were reserved for a payment. Details: hold, until; where a household's pool pays, spender_id."""

    event_type = "points.held"


class PointsReleased(PointsMoved):
    """A hold ended, and what it still reserved can be spent again. Details: hold."""

    event_type = "points.released"


class PointsCaptured(PointsMoved):
    """Reserved points were spent. Details: hold; where a household's pool pays, spender_id."""

    event_type = "points.captured"


class PointsReturned(PointsMoved):
    """Goods came back, and with them points. Details: purchase, lines, shortfall."""

    event_type = "points.returned"


class PointsRefunded(PointsMoved):
    """Spent points came back. Details: reverses."""

    event_type = "points.refunded"


class PointsTransferred(PointsMoved):
    """Points went from one member to another. Details: from, to; where they merged, the debt that went over;
    where one of the two is the pool of a household, its id and why.

    Each of the two gets one.
    """

    event_type = "points.transferred"


class PointsAdjusted(PointsMoved):
    """Somebody put points in or took them out by hand.

    Details: direction, reason, actor, and adjustment where a second person agreed.
    """

    event_type = "points.adjusted"


@record
class AdjustmentRequested(Event):
    """Somebody wants to put points in, or take them out if negative, and it takes a second person.

    ``expires_at``: of points that are put in, where the program's terms are not to say. Events of old don't
    tell it.
    """

    event_type = "adjustment.requested"

    adjustment_id: UUID
    point_type: str
    points: int
    reason: str
    actor: str
    expires_at: datetime | None

    def payload(self) -> Mapping[str, Any]:
        """What is to be done, why, and who wants it."""
        return {
            "adjustment_id": str(self.adjustment_id),
            "point_type": self.point_type,
            "points": self.points,
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "reason": self.reason,
            "actor": self.actor,
        }


class AdjustmentRejected(AdjustmentRequested):
    """It was not agreed to. Reason and actor are of who decided."""

    event_type = "adjustment.rejected"


@record
class ReviewRequested(Event):
    """An entry of an upload came too late and waits for a person. ``why``: the reason, as of a refusal."""

    event_type = "review.requested"

    review_id: UUID
    kind: str
    request_id: str
    source_system: str
    why: str
    actor: str

    def payload(self) -> Mapping[str, Any]:
        """Which entry it is, and who sent it or decided."""
        names = ("kind", "request_id", "source_system", "why", "actor")
        return {"review_id": str(self.review_id), **{name: getattr(self, name) for name in names}}


class ReviewApproved(ReviewRequested):
    """It was recorded, by an event of its own."""

    event_type = "review.approved"


class ReviewRejected(ReviewRequested):
    """It will not be recorded."""

    event_type = "review.rejected"


@record
class RulesPublished(Event):
    """Another set of rules is in force. No member's event: ``member_id`` is the nil UUID.

    ``published``: the versions that came in force, by name. ``retired``: rules out of force.
    """

    event_type = "rules.published"

    revision: int
    published: Mapping[str, int]
    retired: tuple[str, ...]
    actor: str

    def payload(self) -> Mapping[str, Any]:
        """The revision, what changed and by whom."""
        return {
            "revision": self.revision,
            "published": dict(self.published),
            "retired": list(self.retired),
            "actor": self.actor,
        }


@record
class WebhookChanged(Event):
    """Something was done with a webhook endpoint. No member's event: ``member_id`` is the nil UUID.

    ``change``: registered, rotated, enabled, disabled or removed.
    """

    event_type = "webhook.changed"

    endpoint_id: UUID
    change: str
    reason: str
    actor: str

    def payload(self) -> Mapping[str, Any]:
        """Which endpoint, what was done, why and by whom."""
        return {
            "endpoint_id": str(self.endpoint_id),
            "change": self.change,
            "reason": self.reason,
            "actor": self.actor,
        }


@record
class EventTypeRegistered(Event):
    """A program knows another type of event. No member's event: ``member_id`` is the nil UUID."""

    event_type = "rules.event_type_registered"

    name: str
    attributes: Mapping[str, str]
    actor: str

    def payload(self) -> Mapping[str, Any]:
        """The type as declared, and by whom."""
        return {"name": self.name, "attributes": dict(self.attributes), "actor": self.actor}
