"""Lots: when their points can be spent, when they expire, and which are spent first."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from server.domain.ledger import Allocation, Hold, Lot, Wallet


class Until(StrEnum):
    """What the expiry of a lot counts in."""

    NEVER = "never"
    DAYS = "days"  # the end of the day so many days ahead
    MONTHS = "months"  # the end of the month so many months ahead
    YEARS = "years"  # the end of the year so many years ahead
    ROLLING_DAYS = "rolling_days"  # so many days after the wallet's last activity


class Expiry(NamedTuple):
    """When the points of an earning expire, counted from when it happened, on the program's calendar."""

    until: Until = Until.NEVER
    number: int = 0


NEVER = Expiry()


@dataclass(frozen=True, slots=True)
class LotTerms:
    """When the points of an earning can be spent, and until when.

    At once; ``pending_days`` later, at the start of that day; or when the member submits an event of
    the type ``activates_on``, whichever of the two comes first if both are given.
    """

    pending_days: int = 0
    activates_on: str = ""
    expiry: Expiry = NEVER

    @property
    def pending(self) -> bool:
        """Whether the points can't be spent at once."""
        return bool(self.pending_days or self.activates_on)


AT_ONCE_AND_FOR_EVER = LotTerms()


def new_lot(
    lot_id: UUID,
    point_type: str,
    transaction_id: UUID,
    points: int,
    terms: LotTerms,
    occurred_at: datetime,
    zone: ZoneInfo,
) -> Lot:
    """The lot of an earning that happened at ``occurred_at``."""
    if terms is AT_ONCE_AND_FOR_EVER:
        return Lot(lot_id, point_type, transaction_id, points, points)
    today = occurred_at.astimezone(zone).date()
    until, number = terms.expiry
    return Lot(
        lot_id,
        point_type,
        transaction_id,
        points,
        points,
        active=not terms.pending,
        activates_at=midnight(today, terms.pending_days, zone) if terms.pending_days else None,
        expires_at=_end(today, until, number, zone),
        activates_on=terms.activates_on,
        rolling_days=number if until is Until.ROLLING_DAYS else None,
    )


def _end(today: date, until: Until, number: int, zone: ZoneInfo) -> datetime | None:
    """The moment at which they expire: the first at which they can't be spent any more."""
    match until:
        case Until.DAYS:
            return midnight(today, number + 1, zone)
        case Until.MONTHS:
            months = today.year * 12 + today.month + number  # counts from 1, so this is the month after
            return midnight(date(months // 12, months % 12 + 1, 1), 0, zone)
        case Until.YEARS:
            return midnight(date(today.year + number + 1, 1, 1), 0, zone)
        case _:
            return None


def midnight(day: date, days_later: int, zone: ZoneInfo) -> datetime:
    """When the day so many days after ``day`` begins there."""
    return datetime.combine(day + timedelta(days=days_later), time(0), zone).astimezone(UTC)


def expiry_of(lot: Lot, active_at: datetime | None) -> datetime | None:
    """When the lot expires if the wallet was last active then; None for never."""
    if lot.rolling_days is None or active_at is None:
        return lot.expires_at
    return active_at + timedelta(days=lot.rolling_days)


def spending_order(lot: Lot, active_at: datetime | None) -> tuple[bool, float, int]:
    """Sort key: the soonest to expire first, those without expiry last, ties by age."""
    expires_at = expiry_of(lot, active_at)
    return expires_at is None, 0.0 if expires_at is None else expires_at.timestamp(), lot.lot_id.int


def allocate(lots: Iterable[Lot], points: int, active_at: datetime | None) -> tuple[Allocation, ...]:
    """From which active lots ``points`` are taken, in spending order.

    The lots must hold enough: a wallet whose balance suffices and whose lots don't is
    corrupt, and nothing is paid from it.
    """
    allocations, missing = [], points
    spendable = [lot for lot in lots if lot.active and lot.remaining > lot.held]
    if len(spendable) > 1:
        spendable.sort(key=lambda lot: spending_order(lot, active_at))
    for lot in spendable:
        share = min(lot.remaining - lot.held, missing)
        allocations.append(Allocation(lot.lot_id, share))
        missing -= share
        if missing == 0:
            return tuple(allocations)
    raise AssertionError(f"the balance covers {points} points, the lots lack {missing} of them")


def due_moments(lot: Lot, active_at: datetime | None) -> list[datetime]:
    """When the clock will change the lot."""
    moments = []
    if not lot.active and lot.activates_at is not None:
        moments.append(lot.activates_at)
    expires_at = expiry_of(lot, active_at)
    if expires_at is not None and lot.remaining > (lot.held if lot.active else 0):
        moments.append(expires_at)
    return moments


def next_due(wallet: Wallet, lots: Iterable[Lot], holds: Iterable[Hold], after: datetime) -> datetime | None:
    """The first moment after ``after`` at which the clock changes one of these."""
    moments = [hold.expires_at for hold in holds if hold.open_points]
    for lot in lots:
        if lot.remaining:
            moments.extend(due_moments(lot, wallet.active_at))
    return min((moment for moment in moments if moment > after), default=None)
