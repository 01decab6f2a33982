"""Timelines as messages, in those that WatchMember tells of the same."""

from collections.abc import Sequence
from datetime import datetime

from loyalty.v1 import member_pb2 as pb

from server.domain.live import PointsMoved, StatusChanged, TierReached
from server.domain.timeline import (
    KINDS,
    Decided,
    Enrolled,
    Key,
    Merged,
    ProfileChanged,
    SeatChanged,
    in_words,
)
from server.operations.timelines import Shown
from server.rpc.fields import Fields
from server.rpc.updates import points_update, status_update, tier_update
from server.store.timeline import Wanted

MAX_KINDS = 50


def kinds(fields: Fields, names: list[str]) -> frozenset[str]:
    """Those that are wanted, empty for all."""
    if len(names) > MAX_KINDS:
        fields.add("kinds", f"must be at most {MAX_KINDS}")
        return frozenset()
    for index, name in enumerate(names):
        if name not in KINDS:
            fields.add(f"kinds[{index}]", "must be a kind of TimelineEntry")
    return frozenset(names)


def filters(wanted: Wanted) -> dict[str, str]:
    """What a page token belongs to, beside the member."""
    bounds = {"from": wanted.since, "to": wanted.until}
    return {
        "kinds": ",".join(sorted(wanted.kinds)),
        **{name: "" if moment is None else moment.isoformat() for name, moment in bounds.items()},
    }


def place(last: Key, *, whole: bool) -> list[str]:
    """Where a page ended, and how it was read."""
    return [last.occurred_at.isoformat(), *map(str, last.place), "whole" if whole else ""]


def position(text: Sequence[str] | None, *, whole: bool) -> tuple[bool, Key | None]:
    """How a page is to be read, as the one before if there was one, and where that ended."""
    if text is None:
        return whole, None
    occurred_at, epoch, xid, number, read = text
    return bool(read), Key(datetime.fromisoformat(occurred_at), int(epoch), int(xid), int(number))


def entry_message(shown: Shown) -> pb.TimelineEntry:
    """One thing that happened."""
    event, update = shown.event, shown.update
    message = pb.TimelineEntry(
        event_id=str(event.event_id),
        kind=shown.kind,
        member_id=str(shown.member_id),
        message=in_words(shown.kind, update),
    )
    message.occur_time.FromDatetime(event.occurred_at)
    message.record_time.FromDatetime(event.recorded_at)
    match update:
        case PointsMoved():
            message.points.CopyFrom(_points(shown, update))
        case TierReached():
            message.tier.CopyFrom(tier_update(update))
        case StatusChanged():
            message.status.CopyFrom(status_update(update, event.payload.get("survivor_id", "")))
        case Enrolled(tier, imported):
            message.enrolment.CopyFrom(pb.EnrolmentUpdate(tier=tier, imported=imported))
        case Merged(merged_id):
            message.merge.CopyFrom(pb.MergeUpdate(merged_member_id=merged_id))
        case ProfileChanged(names):
            message.profile.CopyFrom(pb.ProfileUpdate(fields=names))
        case Decided(purpose, granted):
            message.consent.CopyFrom(pb.ConsentUpdate(purpose=purpose, granted=granted))
        case SeatChanged(household_id, head, may_spend, contributes):
            message.seat.CopyFrom(
                pb.SeatUpdate(
                    household_id=household_id, head=head, may_spend=may_spend, contributes=contributes
                )
            )
    return message


def _points(shown: Shown, moved: PointsMoved) -> pb.PointsUpdate:
    wallets = [pb.Wallet(point_type=name, balance=shown.balances.get(name, 0)) for name in moved.points]
    version = 0 if moved.household_id else shown.event.payload.get("version", 0)
    return points_update(moved, wallets, version)
