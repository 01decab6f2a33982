"""What a member is told of each kind of event."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from server.domain.live import Happened, Place, PointsMoved, StatusChanged, TierReached, told
from tests.support.shop import DIWALI, PROGRAM

ANN, BEN = UUID(int=11), UUID(int=12)
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


@pytest.mark.parametrize("event_type", ["member.updated", "member.consent_recorded", "something.new"])
def test_other_events_are_not_told(event_type: str) -> None:
    assert said(event_type, fields=["email"]) is None
