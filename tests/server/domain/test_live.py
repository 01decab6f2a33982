"""What a member is told of each kind of event."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from server.domain.live import (
    MOVED,
    NOWHERE,
    SAID,
    Happened,
    Place,
    PointsMoved,
    StatusChanged,
    TierReached,
    after,
    together,
    told,
)
from tests.support.shop import DIWALI, PROGRAM

ANN, BEN, HOME = UUID(int=11), UUID(int=12), UUID(int=13)
FROM_ANN_TO_BEN = {"from": str(ANN), "to": str(BEN)}


def said(event_type: str, **payload: Any) -> Any:
    happened = Happened(Place(1, 2, 3, UUID(int=4)), DIWALI, event_type, payload)
    return told(happened, ANN, PROGRAM)


@pytest.mark.parametrize(
    ("event_type", "details", "kind", "message"),
    [
        ("points.redeemed", {}, "redeemed", "You've spent 40 points"),
        ("points.held", {}, "held", "40 points reserved"),
        ("points.released", {}, "released", "40 points no longer reserved"),
        ("points.captured", {}, "captured", "You've spent 40 points that were reserved"),
        ("points.activated", {}, "activated", "40 points can be spent now"),
        ("points.expired", {}, "expired", "40 points expired"),
        ("points.returned", {}, "returned", "40 points taken back for what you returned"),
        ("points.refunded", {}, "refunded", "40 points given back"),
        ("points.transferred", FROM_ANN_TO_BEN, "handed_on", "You've handed on 40 points"),
        ("points.transferred", {"from": str(BEN), "to": str(ANN)}, "received", "You've received 40 points"),
        ("points.adjusted", {"direction": "in"}, "added", "40 points added"),
        ("points.adjusted", {"direction": "out"}, "taken_out", "40 points taken out"),
    ],
)
def test_points_that_move_are_told_with_what_became_of_them(
    event_type: str, details: Mapping[str, Any], kind: str, message: str
) -> None:
    update = said(event_type, point_type="points", points=40, store="mumbai-1", reference="R-1", **details)
    assert update == PointsMoved(kind, {"points": 40}, message, "", "R-1", "mumbai-1")


def test_what_was_earned_is_told_by_wallet_with_the_purchase() -> None:
    activity = {"type": "PURCHASE", "reference": "R-1", "store": "mumbai-1"}
    update = said("points.earned", awards={"points": 1200, "credits": 1, "stars": 0}, activity=activity)
    assert update == PointsMoved(
        "earned",
        {"points": 1200, "credits": 1},
        "You've earned 1,200 points and 1 credit",
        "PURCHASE",
        "R-1",
        "mumbai-1",
    )
    assert said("points.earned", awards={}, activity=activity).message == "Recorded, without any points"


def test_a_tier_is_unlocked_upwards_only() -> None:
    assert said("member.tier_changed", before="gold", after="platinum", lifetime=10_000) == TierReached(
        "gold", "platinum", promoted=True, message="You've unlocked Platinum"
    )
    assert said("member.tier_changed", before="gold", after="silver", lifetime=1) == TierReached(
        "gold", "silver", promoted=False, message="You're in Silver now"
    )
    # A tier that was renamed since.
    assert not said("member.tier_changed", before="copper", after="gold", lifetime=1).promoted


def test_of_a_status_the_reason_and_who_decided_are_not_told() -> None:
    changed = said("member.status_changed", before="active", after="suspended", reason="fraud?", actor="boss")
    assert changed == StatusChanged("active", "suspended")


def test_a_merge_is_told_to_the_one_that_ends() -> None:
    assert said("member.merged", merged_id=str(ANN), survivor_id=str(BEN)) == StatusChanged(
        "active", "merged"
    )
    assert said("member.merged", merged_id=str(BEN), survivor_id=str(ANN)) is None


def of_pool(event_type: str, **details: Any) -> Any:
    """What Ann is told of an event of her household's pool."""
    payload = {
        "point_type": "points",
        "points": 40,
        "balance": 60,
        "store": "pune-3",
        "reference": "R-1",
        **details,
    }
    happened = Happened(Place(1, 2, 3, UUID(int=4)), DIWALI, event_type, payload)
    return told(happened, ANN, PROGRAM, HOME)


def test_of_a_pool_is_told_what_is_left_and_of_who_else_spends_nothing() -> None:
    spent = of_pool("points.redeemed", spender_id=str(BEN))
    assert spent == PointsMoved(
        "household_redeemed", {"points": 40}, "40 points of your household spent", "", "", "", str(HOME), 60
    )
    held = of_pool("points.held", spender_id=str(ANN))
    assert (held.kind, held.order_reference, held.store) == ("household_held", "R-1", "pune-3")
    # Her own log tells her of these.
    assert of_pool("points.redeemed", spender_id=str(ANN)) is None
    assert of_pool("points.captured", spender_id=str(ANN)) is None
    came = of_pool("points.transferred", **{"from": str(BEN), "to": str(HOME)})
    went = of_pool("points.transferred", **{"from": str(HOME), "to": str(BEN)})
    assert (came.kind, went.kind) == ("household_received", "household_handed_on")
    assert of_pool("household.joined", seated_id=str(BEN)) is None


def test_there_are_words_for_all_that_can_happen_to_a_pool() -> None:
    # Nothing is earned or returned there: that is a member's, and handed on.
    own = {"points.earned", "points.returned", "household.spent"}
    kinds = {f"household_{kind}" for event_type, kind in MOVED.items() if event_type not in own}
    assert kinds | {"household_received", "household_taken_out"} == {
        kind for kind in SAID if kind.startswith("household_")
    }


def at(xid: int, event_type: str = "points.redeemed") -> Happened:
    return Happened(Place(1, xid, xid, UUID(int=xid)), DIWALI, event_type, {"household_id": str(HOME)})


def test_what_happened_to_a_member_and_a_pool_is_told_in_one_order_as_far_as_both_were_read() -> None:
    own, pool = [at(2), at(5)], [at(1), at(3), at(6)]

    def order(page: int) -> list[tuple[int, bool]]:
        return [(event.place.xid, pooled) for event, pooled in together(own, pool, page)]

    assert order(4) == [(1, True), (2, False), (3, True), (5, False), (6, True)]
    # Of a page that is full something may be missing before what comes later in the other.
    assert order(3) == order(4)
    assert order(2) == [(1, True), (2, False), (3, True), (5, False)]
    assert together([], [], 1) == []


def test_who_watches_knows_of_a_pool_from_joining_to_leaving() -> None:
    place = Place(1, 1, 1, UUID(int=1), 7)
    assert after(place, at(2), HOME) == place, "read, but not theirs"
    joined = after(place, at(3, "household.joined"), None)
    assert joined == at(3).place._replace(message=7, pool=at(3).place.in_pool(HOME))
    moved = after(joined, at(4), HOME)
    assert (moved.xid, moved.pool) == (3, at(4).place.in_pool(HOME))
    assert after(moved, at(5), BEN) == moved, "of another pool"
    assert after(moved, at(6, "household.left"), None) == at(6).place._replace(message=7, pool=NOWHERE)


@pytest.mark.parametrize("event_type", ["member.updated", "member.consent_recorded", "something.new"])
def test_other_events_are_not_told(event_type: str) -> None:
    assert said(event_type, fields=["email"]) is None
