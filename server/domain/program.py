"""A program: one operator's loyalty scheme and the terms everything in it obeys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from uuid import UUID
from zoneinfo import ZoneInfo

from server.domain.errors import invalid
from server.domain.lots import AT_ONCE_AND_FOR_EVER, LotTerms

MAX_HOLD_SECONDS = 366 * 24 * 3600  # the longest that a program may allow


@dataclass(frozen=True, slots=True)
class Tier:
    """A rank that members reach by lifetime points of the main wallet."""

    name: str
    from_points: int


class Clawback(StrEnum):
    """What a return does about points that have been spent already."""

    ALLOW_DEBT = "allow_debt"  # they are owed, and what comes in pays them first
    WITHIN_BALANCE = "within_balance"  # only what is there is taken
    REFUSE = "refuse"  # the return is refused


@dataclass(frozen=True, slots=True)
class LedgerTerms:
    """How a program's points live. ``lots`` is by point type; what isn't there is spent at once and for ever.

    ``refund_grace_days``: how long refunded points last that have expired meanwhile.
    ``hold_seconds``: how long a hold lasts that doesn't say, ``max_hold_seconds`` how long at most.
    ``transfer_points``: the most that a member may hand on at once, 0 for nothing at all.
    ``approval_points``: a larger adjustment needs a second person; 0 for every one.
    ``warn_days``: so many days ahead members are told of points that expire; none for never.
    """

    lots: Mapping[str, LotTerms] = field(default_factory=dict)
    clawback: Clawback = Clawback.ALLOW_DEBT
    refund_grace_days: int = 30
    hold_seconds: int = 900
    max_hold_seconds: int = 31 * 24 * 3600
    transfer_points: int = 10**12
    approval_points: int = 10_000
    warn_days: tuple[int, ...] = (30, 7)

    def lot_terms(self, point_type: str) -> LotTerms:
        """How lots of this wallet live where no rule says otherwise."""
        return self.lots.get(point_type, AT_ONCE_AND_FOR_EVER)


@dataclass(frozen=True)
class Program:
    """The terms of one program.

    ``point_types``: the wallets every member has; the first is the main one, whose
    lifetime decides the tier. ``tiers``: ascending, the first from 0. ``rates``: how
    much of the program's currency one unit of another currency is worth.
    ``event_types``: for each registered type its attributes, name -> ``string``,
    ``number`` or ``boolean``. ``step_up_redeem_points``: a member who redeems more at
    once needs a recent, stronger login; 0 for always.
    """

    program_id: UUID
    name: str
    currency: str
    time_zone: str
    point_types: tuple[str, ...] = ("points",)
    tiers: tuple[Tier, ...] = (Tier("member", 0),)
    rates: Mapping[str, Decimal] = field(default_factory=dict)
    event_types: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    past_limit_days: int = 30
    clock_skew_seconds: int = 300
    step_up_redeem_points: int = 0
    ledger: LedgerTerms = LedgerTerms()

    @property
    def main_point_type(self) -> str:
        """The wallet that tiers look at and replies lead with."""
        return self.point_types[0]

    def point_type(self, name: str) -> str:
        """The wallet of that name, the main one for ""; refused if the program has none."""
        if name and name not in self.point_types:
            raise invalid("point_type", f"the program has no point type {name!r}")
        return name or self.main_point_type

    @cached_property
    def zone(self) -> ZoneInfo:
        """The time zone in which rules and business days are read."""
        return ZoneInfo(self.time_zone)

    def local(self, moment: datetime) -> datetime:
        """The moment on the program's own clock."""
        return moment.astimezone(self.zone)

    def business_date(self, moment: datetime) -> date:
        """The program's calendar day at that moment."""
        return self.local(moment).date()

    def tier_at(self, lifetime: int) -> Tier:
        """The highest tier that this many lifetime points reach."""
        reached = self.tiers[0]
        for tier in self.tiers:
            if lifetime >= tier.from_points:
                reached = tier
        return reached

    def tier_rank(self, name: str) -> int:
        """How many tiers are below it; -1 for one that the program doesn't have any more."""
        return next((rank for rank, tier in enumerate(self.tiers) if tier.name == name), -1)

    def tier_after(self, lifetime: int) -> Tier | None:
        """The next tier still to reach, None at the top."""
        return next((tier for tier in self.tiers if tier.from_points > lifetime), None)

    def rate_for(self, currency: str, path: str = "amount") -> Decimal:
        """What one unit of ``currency`` is worth in the program's; refused if it states no rate."""
        if currency == self.currency:
            return Decimal(1)
        rate = self.rates.get(currency)
        if rate is None:
            raise invalid(
                path,
                f"the program has no rate for {currency}; it counts in {self.currency}",
                "CURRENCY_NOT_SUPPORTED",
                currency=currency,
                program_currency=self.currency,
            )
        return rate
