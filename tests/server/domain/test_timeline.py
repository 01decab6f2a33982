"""Timelines: in whose an event is, how it concerns them, and what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain import events
from server.domain.live import MOVED, SEATS
from server.domain.timeline import EVENT_TYPES, OTHERS, Entry, Key, Where, entries, kind_of, pools, sittings

PROGRAM, POOL = UUID(int=1), UUID(int=2)
PEOPLE = [UUID(int=n) for n in (10, 11, 12)]
BEGAN = datetime(2026, 11, 24, tzinfo=UTC)
# What only waits or warns, and the day on which somebody was born.
UNTOLD = {"member.birthday", "points.expiring"}
OF_NOBODY = {"rules.published", "rules.event_type_registered", "webhook.changed"}
OF_POOLS = {"household.formed", "household.invited", "household.dissolved"}
WAITING = {f"{noun}.{what}" for noun in ("adjustment", "review") for what in ("requested", "rejected")}


@dataclass(frozen=True)
class Event:
    """As the log has it."""

    place: Where
    event_type: str
    member_id: UUID
    payload: Mapping[str, Any]
    occurred_at: datetime
    program_id: UUID = PROGRAM


def seat(verb: str, member_id: UUID) -> dict[str, Any]:
    return {"household_id": str(POOL), "seated_id": str(member_id), "verb": verb}


def logged(actions: Sequence[tuple[str, UUID, int]]) -> tuple[list[Event], set[Entry]]:
    """What the log has of these actions, and in whose timelines a reader who looks on would note it."""
    log: list[Event] = []
    noted: set[Entry] = set()
    seated: set[UUID] = set()

    def write(event_type: str, whose: UUID, payload: Mapping[str, Any], ago: int) -> Key:
        # Two a transaction; business time is nobody's order.
        place = (1, 100 + len(log) // 2, len(log))
        log.append(Event(place, event_type, whose, payload, BEGAN - timedelta(hours=ago)))
        return Key(log[-1].occurred_at, *place)

    for verb, who, ago in actions:
        if verb in ("joined", "left"):
            if (verb == "joined") == (who in seated):
                continue
            write(f"household.{verb}", POOL, seat(verb, who), ago)
            own = write(f"household.{verb}", who, seat(verb, who), ago)
            (seated.add if verb == "joined" else seated.discard)(who)
            noted.add(Entry(PROGRAM, who, own, f"household_{verb}"))
        elif verb == "bought":
            key = write("points.earned", who, {"activity": {}}, ago)
            noted.add(Entry(PROGRAM, who, key, "earned"))
        elif seated:
            key = write("points.redeemed", POOL, {"spender_id": str(who)}, ago)
            noted |= {Entry(PROGRAM, m, key, "household_redeemed") for m in seated if m != who}
    return log, noted


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["joined", "left", "spent", "bought"]), st.sampled_from(PEOPLE), st.integers(0, 9)
    ),
    max_size=40,
)


@given(ACTIONS, st.integers(1, 7))
def test_whoever_sat_in_a_pool_has_what_happened_to_it_then_however_late_it_is_noted(
    actions: list[tuple[str, UUID, int]], size: int
) -> None:
    log, expected = logged(actions)
    seats: dict[tuple[UUID, UUID], list[Event]] = {}
    for event in log:
        if event.event_type in SEATS:
            seats.setdefault((PROGRAM, event.member_id), []).append(event)
    assert set(pools(seats)) <= {(PROGRAM, POOL)}
    # In parts of any size, each with the seats as they are at the end of all.
    parts = [log[first : first + size] for first in range(0, len(log), size)]
    found = [entry for part in parts for entry in entries(part, pools(seats))]
    assert len(found) == len(set(found))
    assert set(found) == expected
    # A member's own log tells the same of where they sat.
    for member_id in PEOPLE:
        own = sittings(seats.get((PROGRAM, member_id), []))
        told = {
            event.place
            for event in log
            if event.member_id == POOL and any(s.covers(event.place) for s in own)
            if kind_of(event.event_type, event.payload, member_id, POOL)
        }
        pooled = {
            e.key.place for e in expected if e.member_id == member_id and e.kind == "household_redeemed"
        }
        assert told == pooled


@pytest.mark.parametrize(
    ("event_type", "payload", "kind"),
    [
        ("points.transferred", {"to": str(PEOPLE[0])}, "received"),
        ("points.transferred", {"to": str(PEOPLE[1])}, "handed_on"),
        ("points.adjusted", {"direction": "out"}, "taken_out"),
        ("points.captured", {}, "captured"),
        ("household.spent", {"household_id": str(POOL)}, "spent_from_household"),
        ("member.merged", {"merged_id": str(PEOPLE[0])}, "status"),
        ("member.merged", {"merged_id": str(PEOPLE[1])}, "merged"),
        ("member.birthday", {}, None),
        ("household.joined", seat("joined", PEOPLE[0]), "household_joined"),
    ],
)
def test_an_event_concerns_each_in_their_way(
    event_type: str, payload: Mapping[str, Any], kind: str | None
) -> None:
    assert kind_of(event_type, payload, PEOPLE[0]) == kind


def test_what_is_earned_is_nothing_that_happens_to_a_pool() -> None:
    assert kind_of("points.earned", {}, PEOPLE[0], POOL) is None
    assert kind_of("household.joined", seat("joined", PEOPLE[0]), POOL) is None


def test_every_event_that_there_is_is_told_or_left_out_on_purpose() -> None:
    def below(kind: type[events.Event]) -> set[str]:
        own = {kind.event_type} if "event_type" in vars(kind) else set()
        return own.union(*map(below, kind.__subclasses__()))

    left_out = UNTOLD | OF_NOBODY | OF_POOLS | WAITING | {"review.approved"}
    assert below(events.Event) == EVENT_TYPES | left_out
    assert not EVENT_TYPES & left_out
    assert {*MOVED} & {*OTHERS} == set()
