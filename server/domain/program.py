"""A program: one operator's loyalty scheme and the terms everything in it obeys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from uuid import UUID
from zoneinfo import ZoneInfo

from server.domain.errors import invalid


@dataclass(frozen=True, slots=True)
class Tier:
    """A rank that members reach by lifetime points of the main wallet."""

    name: str
    from_points: int


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

    @property
    def main_point_type(self) -> str:
        """The wallet that tiers look at and replies lead with."""
        return self.point_types[0]

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
