"""Whether a member is told, on which channels and when."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from server.domain.members import ENDED, Preferences, Status
from server.domain.notifications.occasions import Facts, Happening, Occasion, Purpose
from server.domain.notifications.terms import NotificationTerms
from server.domain.program import Program

INBOX = "inbox"
# Who doesn't say which channels they want gets no SMS: each one costs, and wakes.
UNASKED = ("email", "push", INBOX)
# What happened longer ago is no news: sales of the past that are recorded now are told to nobody.
NEWS_FOR = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Decided:
    """The latest decision about one purpose. ``consent_id``: which of two was later."""

    granted: bool
    consent_id: UUID


@dataclass(frozen=True, slots=True)
class Addressee:
    """What decides about messages to a member; nothing personal.

    ``decisions``: the latest, by purpose. ``reachable``: the channels on which there is an address.
    """

    status: Status
    preferences: Preferences
    decisions: Mapping[str, Decided]
    reachable: frozenset[str]

    def zone(self, program: Program) -> ZoneInfo:
        """The time zone that the member lives in, as far as is known."""
        return ZoneInfo(self.preferences.time_zone) if self.preferences.time_zone else program.zone


@dataclass(frozen=True, slots=True)
class Plan:
    """How a message goes out: at once to the inbox, at ``send_at`` to the other ``channels``."""

    channels: tuple[str, ...]
    send_at: datetime

    @property
    def outside(self) -> tuple[str, ...]:
        """The channels that lead out of Laurel."""
        return tuple(c for c in self.channels if c != INBOX)


def allowed(purpose: Purpose, channel: str, decisions: Mapping[str, Decided]) -> bool:
    """Whether the member agreed, or needn't have.

    A decision stands under ``marketing`` for all channels or under ``marketing.email`` for one. Who
    refused the channel is left alone until they grant that; a general refusal ends what was granted
    before it.
    """
    overall, own = decisions.get(str(purpose)), decisions.get(f"{purpose}.{channel}")
    if own is not None and not own.granted:
        return False
    if overall is not None and not overall.granted:
        return own is not None and own.consent_id > overall.consent_id
    return purpose is not Purpose.MARKETING or overall is not None or own is not None


def channels(occasion: Occasion, addressee: Addressee, terms: NotificationTerms) -> tuple[str, ...]:
    """The channels on which the member may be told of the occasion now, none if there is no such."""
    if addressee.status in ENDED:
        return ()
    wanted = addressee.preferences.channels or UNASKED
    return tuple(
        channel
        for channel in terms.channels_for(occasion.name)
        if channel in wanted
        and channel in addressee.reachable
        and allowed(occasion.purpose, channel, addressee.decisions)
    )


def next_hour(occasion: Occasion, zone: ZoneInfo, terms: NotificationTerms, moment: datetime) -> datetime:
    """The moment, or when the quiet hours end that it lies in. Security knows none."""
    if occasion.purpose is Purpose.SECURITY:
        return moment
    return terms.quiet_hours.over(moment, zone)


def plan(
    told: Happening,
    addressee: Addressee,
    program: Program,
    terms: NotificationTerms,
    *,
    occurred_at: datetime,
    now: datetime,
) -> Plan | None:
    """How the member is told; None if not at all."""
    useless_at = told.useless_at
    if now - occurred_at > NEWS_FOR or (useless_at is not None and now >= useless_at):
        return None
    ready = now + timedelta(seconds=terms.join_seconds) if told.occasion.summed else now
    send_at = next_hour(told.occasion, addressee.zone(program), terms, ready)
    found = channels(told.occasion, addressee, terms)
    if useless_at is not None and send_at >= useless_at:
        found = tuple(c for c in found if c == INBOX)
    return Plan(found, send_at) if found else None


def joined(occasion: Occasion, first: Facts, more: Facts) -> Facts:
    """One message's facts with those of another added to it."""
    return {
        name: _sum(value, more[name]) if name in occasion.summed else value for name, value in first.items()
    }


def _sum(one: str | int, other: str | int) -> int:
    return int(one) + int(other)
