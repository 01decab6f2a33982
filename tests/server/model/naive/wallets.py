"""What the naive model keeps of a member or a pool: lots, holds, what was bought and spent. No sums."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

HOUR = timedelta(hours=1)
Owner = UUID | int  # a member; or the pool of a household, by the place of the step that formed it


@dataclass(eq=False)
class Lot:
    """Points that came in together. ``purchase``: what earned them; ``giver``: who gave them to a pool."""

    number: int
    points: int
    remaining: int
    purchase: int | None = None
    active: bool = True
    activates_at: datetime | None = None
    activates_on: str = ""
    expires_at: datetime | None = None
    rolling_days: int | None = None
    held: int = 0
    giver: UUID | None = None

    @property
    def free(self) -> int:
        return self.remaining - self.held

    @property
    def spendable(self) -> int:
        return self.free if self.active else 0


@dataclass(eq=False)
class Hold:
    """Points reserved, from which lots; until when. ``spender``: for whom a pool is to pay."""

    owner: Owner
    wallet: str
    until: datetime
    shares: list[tuple[Lot, int]]
    spender: UUID | None = None
    over: str = ""

    @property
    def open(self) -> int:
        return sum(points for _, points in self.shares)


@dataclass(eq=False)
class Spent:
    """A redemption or a capture: what came from where. ``over``: those lots went on to somebody else.

    ``pauses``: of the wallets where its points would have been, before the one where they'd be now; of
    that one those from the number ``since`` on.
    """

    owner: Owner
    wallet: str
    shares: list[tuple[Lot, int]]
    since: int
    refunded: int = 0
    over: bool = False
    pauses: list[timedelta] = field(default_factory=list)


@dataclass(eq=False)
class Sold:
    """A line of a purchase."""

    name: str
    sku: str
    quantity: int
    returned: int = 0
    points: dict[str, int] = field(default_factory=dict)  # by wallet
    counted: dict[tuple[str, str], int] = field(default_factory=dict)  # by rule and period


@dataclass(eq=False)
class Purchase:
    """What was bought, or an event, which is one line without a name."""

    place: int
    who: UUID
    moment: datetime
    lines: list[Sold]


@dataclass(eq=False)
class Asked:
    """An adjustment that takes a second person."""

    owner: Owner
    wallet: str
    points: int
    until: datetime | None  # when what is put in expires
    by: str
    decided: bool = False


@dataclass(eq=False)
class Seat:
    """Where a member sits."""

    home: int
    head: bool
    may_spend: bool
    contributes: bool


@dataclass(eq=False)
class Invitation:
    """A seat that waits."""

    home: int
    may_spend: bool
    until: datetime
    taken: bool = False


@dataclass(eq=False)
class Wallet:
    """Lots, a debt, and what tiers count.

    ``pauses``: how long nobody had been active each time that somebody was. ``heard_of``: when those were
    active last who have become one with its owner.
    """

    lots: list[Lot] = field(default_factory=list)
    debt: int = 0
    lifetime: int = 0
    active_at: datetime | None = None
    heard_of: datetime | None = None
    pauses: list[timedelta] = field(default_factory=list)

    @property
    def balance(self) -> int:
        return sum(lot.spendable for lot in self.lots)

    @property
    def pending(self) -> int:
        return sum(lot.remaining for lot in self.lots if not lot.active)

    @property
    def held(self) -> int:
        return sum(lot.held for lot in self.lots)

    def expiry(self, lot: Lot) -> datetime | None:
        if lot.rolling_days is not None and self.active_at is not None:
            return self.active_at + lot.rolling_days * 24 * HOUR
        return lot.expires_at

    def in_order(self, lots: list[Lot]) -> list[Lot]:
        """The soonest to expire first, those without expiry last, ties by age."""
        far = datetime.max.replace(tzinfo=self.active_at.tzinfo if self.active_at else None)
        return sorted(lots, key=lambda lot: ((self.expiry(lot) or far).replace(tzinfo=None), lot.number))

    def shares(self, points: int, lots: list[Lot] | None = None) -> list[tuple[Lot, int]]:
        """Which lots give how much."""
        taken = []
        for lot in self.in_order(self.lots if lots is None else lots):
            part = min(lot.spendable, points)
            if part > 0:
                taken.append((lot, part))
                points -= part
        assert points == 0
        return taken

    def spend(self, points: int, lots: list[Lot] | None = None) -> list[tuple[Lot, int]]:
        """Take them out."""
        taken = self.shares(points, lots)
        for lot, part in taken:
            lot.remaining -= part
        return taken

    def settle(self) -> None:
        """What comes in pays a debt first."""
        paid = min(self.balance, self.debt)
        self.spend(paid)
        self.debt -= paid

    def pause(self, now: datetime) -> list[timedelta]:
        """How long nobody has been active."""
        known = [moment for moment in (self.active_at, self.heard_of) if moment]
        return [now - max(known)] if known else []

    def touch(self, moment: datetime | None, now: datetime) -> None:
        self.pauses += self.pause(now)
        if moment is not None:
            self.active_at = moment if self.active_at is None else max(self.active_at, moment)
