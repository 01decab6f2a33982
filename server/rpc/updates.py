"""What watchers are told, as messages; and event ids, which say how far a watcher has come."""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Sequence
from uuid import UUID

from loyalty.v1 import member_pb2 as pb

from server.domain.errors import invalid
from server.domain.live import MessageCame, Place, PointsMoved, PoolPlace, StatusChanged, TierReached
from server.domain.members import Status
from server.operations.live import Standing, Told
from server.rpc.profiles import STATUSES, wallet_message

MAX_LENGTH = 512
MAC_BYTES = 16
PLACE = struct.Struct(">iQq16sq")
POOL = struct.Struct(">16sQq16s")
# As event ids were before streams told of messages; until they told of pools they ended with PLACE.
WITHOUT_MESSAGE = struct.Struct(">iQq16s")
LENGTHS = (PLACE.size + POOL.size, PLACE.size, WITHOUT_MESSAGE.size)


class Places:
    """Makes and reads event ids under a key derived from ``key``. Each belongs to one member."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, b"event id", hashlib.sha256)

    def encode(self, program_id: UUID, member_id: UUID, place: Place) -> str:
        """The event id of a place."""
        packed = PLACE.pack(*place[:3], place.event_id.bytes, place.message)
        if place.pool is not None:
            household_id, *where, event_id = place.pool
            packed += POOL.pack(household_id.bytes, *where, event_id.bytes)
        return (
            base64.urlsafe_b64encode(self._mac(program_id, member_id, packed) + packed).decode().rstrip("=")
        )

    def decode(self, program_id: UUID, member_id: UUID, text: str) -> Place | None:
        """The place of an event id, None for none. Raises InvalidArgument (EVENT_ID_INVALID)."""
        if not text:
            return None
        try:
            raw = base64.b64decode(text[:MAX_LENGTH] + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        mac, packed = raw[:MAC_BYTES], raw[MAC_BYTES:]
        if len(packed) not in LENGTHS or not hmac.compare_digest(
            mac, self._mac(program_id, member_id, packed)
        ):
            raise invalid(
                "last_event_id", "must be an event_id of an update about this member", "EVENT_ID_INVALID"
            )
        epoch, xid, position, event_id = WITHOUT_MESSAGE.unpack_from(packed)
        message = PLACE.unpack_from(packed)[-1] if len(packed) >= PLACE.size else None
        pool = None
        if len(packed) > PLACE.size:
            household_id, *where, last = POOL.unpack_from(packed, PLACE.size)
            pool = PoolPlace(UUID(bytes=household_id), where[0], where[1], UUID(bytes=last))
        return Place(epoch, xid, position, UUID(bytes=event_id), message, pool)

    def _mac(self, program_id: UUID, member_id: UUID, packed: bytes) -> bytes:
        return hmac.digest(self._key, program_id.bytes + member_id.bytes + packed, hashlib.sha256)[:MAC_BYTES]


def update_message(told: Told, event_id: str) -> pb.WatchMemberResponse:
    """What there is to tell, under its event id."""
    message = pb.WatchMemberResponse(event_id=event_id)
    message.record_time.FromDatetime(told.at)
    standing = told.standing
    if standing is None:
        message.heartbeat.SetInParent()
        return message
    match told.update:
        case None:
            message.standing.CopyFrom(_standing(standing))
        case PointsMoved() as moved:
            message.points.CopyFrom(points_update(moved, _wallets(moved, standing), standing.version))
        case TierReached() as reached:
            message.tier.CopyFrom(tier_update(reached))
        case StatusChanged() as changed:
            message.status.CopyFrom(status_update(changed, str(standing.merged_into or "")))
        case MessageCame(message_id, occasion, subject, body, language):
            message.message.CopyFrom(
                pb.MessageUpdate(
                    message_id=str(message_id),
                    occasion=occasion,
                    subject=subject,
                    text=body,
                    language_code=language,
                )
            )
    return message


def _standing(standing: Standing) -> pb.MemberStanding:
    household = None
    if standing.household_id is not None:
        household = pb.PoolStanding(
            household_id=str(standing.household_id), wallets=[wallet_message(w) for w in standing.pool]
        )
    return pb.MemberStanding(
        household=household,
        status=STATUSES[Status(standing.status)],
        tier=standing.tier,
        wallets=[wallet_message(wallet) for wallet in standing.wallets],
        version=standing.version,
        merged_into=str(standing.merged_into or ""),
    )


def _wallets(moved: PointsMoved, standing: Standing) -> list[pb.Wallet]:
    if moved.household_id:
        return [pb.Wallet(point_type=point_type, balance=moved.left) for point_type in moved.points]
    return [wallet_message(w) for w in standing.wallets if w.point_type in moved.points]


def points_update(moved: PointsMoved, wallets: Sequence[pb.Wallet], version: int) -> pb.PointsUpdate:
    """How points moved in these wallets."""
    return pb.PointsUpdate(
        kind=moved.kind,
        moved=[pb.MovedPoints(points=moved.points[w.point_type], wallet=w) for w in wallets],
        message=moved.message,
        activity_type=moved.activity_type,
        order_reference=moved.order_reference,
        store=moved.store,
        version=version,
        household_id=moved.household_id,
    )


def tier_update(reached: TierReached) -> pb.TierUpdate:
    """From which tier to which."""
    return pb.TierUpdate(
        before=reached.before, after=reached.after, promoted=reached.promoted, message=reached.message
    )


def status_update(changed: StatusChanged, merged_into: str) -> pb.StatusUpdate:
    """Where a membership stood and stands; ``merged_into``: who lives on, "" if the member does."""
    return pb.StatusUpdate(
        before=STATUSES[Status(changed.before)],
        after=STATUSES[Status(changed.after)],
        merged_into=merged_into,
    )
