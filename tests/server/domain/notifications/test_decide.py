"""Who is told of what, on which channels, when, and how bursts become one message."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from functools import reduce
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.members import CHANNELS, Preferences, Status
from server.domain.notifications import occasions
from server.domain.notifications.decide import (
    NEWS_FOR,
    Addressee,
    Decided,
    Plan,
    allowed,
    channels,
    joined,
    plan,
)
from server.domain.notifications.occasions import EVENTS, OCCASIONS, Happening, Purpose, happening
from server.domain.notifications.quiet_hours import NONE, QuietHours
from server.domain.notifications.terms import NotificationTerms, dump, load
from server.domain.program import Program, Tier

PROGRAM = Program(
    UUID(int=1),
    "demo",
    "INR",
    "Asia/Kolkata",
    tiers=(Tier("silver", 0), Tier("gold", 10), Tier("platinum", 20)),
)
TERMS = NotificationTerms(quiet_hours=NONE)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
ALL = frozenset(CHANNELS)


@dataclass(frozen=True)
class Event:
    event_type: str
    payload: Mapping[str, Any]
    occurred_at: datetime = NOW
    event_id: UUID = field(default=UUID(int=7))


def addressee(*wanted: str, reachable: frozenset[str] = ALL, zone: str = "", **decisions: bool) -> Addressee:
    """Who decided in that order; ``marketing__email`` stands for ``marketing.email``."""
    said = {
        name.replace("__", "."): Decided(granted, UUID(int=place))
        for place, (name, granted) in enumerate(decisions.items())
    }
    return Addressee(Status.ACTIVE, Preferences(channels=wanted, time_zone=zone), said, reachable)


def told_of(event_type: str, terms: NotificationTerms = TERMS, **payload: Any) -> Happening | None:
    return happening(Event(event_type, payload), PROGRAM, terms)


def planned(
    told: Happening, who: Addressee, terms: NotificationTerms = TERMS, now: datetime = NOW
) -> Plan | None:
    return plan(told, who, PROGRAM, terms, occurred_at=NOW, now=now)


EARNED = Happening(occasions.POINTS_EARNED, "points_earned:1", {"points": 10, "times": 1})
TIER = Happening(occasions.TIER_REACHED, "tier_reached:gold:2026-11-24", {"tier": "gold", "before": "silver"})
BIRTHDAY = Happening(occasions.BIRTHDAY, "birthday:2026", {}, NOW + timedelta(hours=6))
REDEMPTION = Happening(occasions.LARGE_REDEMPTION, "large_redemption:1", {"points": 5000})


def test_every_occasion_has_an_event_that_leads_to_it() -> None:
    payload = {
        "tier": "gold",
        "before": "silver",
        "after": "gold",
        "awards": {"points": 5},
        "points": 9000,
        "point_type": "points",
        "expires_at": "2026-12-31T18:30:00+00:00",
        "expires_on": "2026-12-31",
        "days_ahead": 30,
        "balance": 1,
        "store": "",
    }
    found = [told_of(event_type, **payload) for event_type in EVENTS]
    assert {told.occasion.name for told in found if told} == set(OCCASIONS)
    for told in found:
        assert told
        assert told.facts.keys() == told.occasion.example.keys()


def test_what_is_no_news_is_not_told() -> None:
    assert told_of("points.earned", awards={"points": 0, "stars": 3}) is None
    assert told_of("member.tier_changed", before="platinum", after="gold") is None
    assert told_of("points.redeemed", point_type="points", points=4999) is None
    assert told_of("rules.published") is None


def test_a_tier_is_news_once_a_day_by_the_clock_of_the_program() -> None:
    def once(hour: int) -> str:
        event = Event(
            "member.tier_changed", {"before": "gold", "after": "platinum"}, NOW.replace(hour=hour, minute=29)
        )
        told = happening(event, PROGRAM, TERMS)
        assert told
        return told.once

    assert once(0) == once(18)
    assert once(18) != once(19)  # midnight in Kolkata is at 18:30 UTC


def test_who_names_no_channels_gets_everything_but_sms() -> None:
    assert channels(TIER.occasion, addressee(), TERMS) == ("email", "push", "inbox")
    assert channels(TIER.occasion, addressee("sms", "inbox"), TERMS) == ("sms", "inbox")
    assert channels(TIER.occasion, addressee("sms", reachable=frozenset({"inbox"})), TERMS) == ()


def test_a_program_says_which_channels_an_occasion_may_use() -> None:
    terms = replace(TERMS, channels={"tier_reached": ("inbox",), "birthday": ()})
    assert channels(TIER.occasion, addressee(), terms) == ("inbox",)
    assert planned(BIRTHDAY, addressee(marketing=True), terms) is None
    assert channels(REDEMPTION.occasion, addressee(), terms) == ("email", "push", "inbox")


@pytest.mark.parametrize("status", list(Status))
def test_who_left_is_told_nothing(status: Status) -> None:
    found = channels(TIER.occasion, replace(addressee(), status=status), TERMS)
    assert bool(found) == (status in (Status.ACTIVE, Status.SUSPENDED))


@pytest.mark.parametrize(
    ("purpose", "decisions", "granted"),
    [
        (Purpose.SERVICE, {}, True),
        (Purpose.SERVICE, {"marketing": False}, True),
        (Purpose.SERVICE, {"service": False}, False),
        (Purpose.SERVICE, {"service__email": False}, False),
        (Purpose.SERVICE, {"service__sms": False}, True),
        (Purpose.MARKETING, {}, False),
        (Purpose.MARKETING, {"service": True}, False),
        (Purpose.MARKETING, {"marketing": True}, True),
        (Purpose.MARKETING, {"marketing__email": True}, True),
        (Purpose.MARKETING, {"marketing__sms": True}, False),
        (Purpose.MARKETING, {"marketing__email": True, "marketing": False}, False),
        (Purpose.MARKETING, {"marketing": False, "marketing__email": True}, True),
        (Purpose.MARKETING, {"marketing__email": False, "marketing": True}, False),
    ],
)
def test_the_later_decision_counts_and_a_refused_channel_stays_refused(
    purpose: Purpose, decisions: dict[str, bool], granted: bool
) -> None:
    assert allowed(purpose, "email", addressee(**decisions).decisions) == granted


DECISIONS = st.lists(
    st.tuples(st.sampled_from([f"{p}{c}" for p in Purpose for c in ("", ".email", ".sms")]), st.booleans())
)


@given(st.sampled_from(Purpose), DECISIONS, st.sampled_from(["", ".email"]))
def test_after_a_withdrawal_nothing_goes_out_whatever_was_said_before(
    purpose: Purpose, before: list[tuple[str, bool]], where: str
) -> None:
    said = [*before, (f"{purpose}{where}", False)]
    latest = {name: Decided(granted, UUID(int=place)) for place, (name, granted) in enumerate(said)}
    assert not allowed(purpose, "email", latest)


def test_a_message_waits_for_the_morning_of_the_member() -> None:
    terms = replace(TERMS, quiet_hours=QuietHours(time(21), time(8)), join_seconds=0)
    # At noon in UTC it is half past five in the afternoon in Kolkata, and seven in the morning in New York.
    assert planned(TIER, addressee(), terms) == Plan(("email", "push", "inbox"), NOW)
    found = planned(TIER, addressee(zone="America/New_York"), terms)
    assert found == Plan(("email", "push", "inbox"), NOW + timedelta(hours=1))
    assert found.outside == ("email", "push")


def test_a_large_redemption_is_told_at_night_too() -> None:
    terms = replace(TERMS, quiet_hours=QuietHours(time(0), time(23, 59)))
    found = planned(REDEMPTION, addressee(), terms)
    assert found
    assert found.send_at == NOW


def test_what_the_night_makes_stale_is_only_put_into_the_inbox() -> None:
    terms = replace(
        TERMS, quiet_hours=QuietHours(time(17), time(23, 45))
    )  # in Kolkata, where it ends at 18:15 UTC
    assert planned(BIRTHDAY, addressee(marketing=True), terms) == Plan(
        ("inbox",), NOW.replace(hour=18, minute=15)
    )
    assert planned(BIRTHDAY, addressee("email", marketing=True), terms) is None
    assert planned(BIRTHDAY, addressee(marketing=True)) == Plan(("email", "push", "inbox"), NOW)
    assert planned(BIRTHDAY, addressee(marketing=True), now=NOW + timedelta(hours=6)) is None


def test_what_happened_long_ago_is_no_news() -> None:
    assert planned(TIER, addressee(), now=NOW + NEWS_FOR)
    assert planned(TIER, addressee(), now=NOW + NEWS_FOR + timedelta(seconds=1)) is None


def test_a_burst_waits_for_what_else_comes() -> None:
    found = planned(EARNED, addressee(), replace(TERMS, join_seconds=90))
    assert found
    assert found.send_at == NOW + timedelta(seconds=90)


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=20))
def test_however_a_burst_is_joined_its_message_holds_the_sum(points: list[int]) -> None:
    facts = [{"points": p, "times": 1} for p in points]
    occasion = occasions.POINTS_EARNED
    whole = reduce(lambda a, b: joined(occasion, a, b), facts)
    assert whole == {"points": sum(points), "times": len(points)}


@given(
    st.builds(
        NotificationTerms,
        language=st.sampled_from(["en", "hi-IN"]),
        quiet_hours=st.builds(
            QuietHours, *[st.times().map(lambda t: t.replace(second=0, microsecond=0))] * 2
        ),
        join_seconds=st.integers(0, 86400),
        large_redemption=st.integers(0, 10**12),
        channels=st.dictionaries(
            st.sampled_from(sorted(OCCASIONS)), st.lists(st.sampled_from(CHANNELS), unique=True).map(tuple)
        ),
    )
)
def test_terms_are_read_as_they_were_written_down(terms: NotificationTerms) -> None:
    assert load(dump(terms)) == terms
