"""What callers ask of a wallet, and what they are told it brought."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from server.domain.activity import REDEMPTION, AttributeValue, Line
from server.domain.actor import Actor
from server.domain.canonical_json import canonical_ascii
from server.domain.ledger import Hold
from server.domain.records import record


@record
class Command:
    """What a caller asks for, before any default of ours.

    ``member_given`` is how the caller named the member: part of what makes two requests
    the same, while ``member_id`` is whom that meant. ``reference`` "" means that nothing
    but the request_id tells this command from another. ``received_at`` is the server's
    clock when the call came in: what an absent ``occurred_at`` means.
    """

    actor: Actor
    request_id: str
    received_at: datetime
    member_id: UUID
    member_given: str
    reference: str
    store: str
    channel: str
    occurred_at: datetime | None
    business_date: date | None
    part: str
    reason: str = ""

    @property
    def members(self) -> tuple[UUID, ...]:
        """Everybody whose wallets it may touch."""
        return (self.member_id,)

    @property
    def seated(self) -> tuple[UUID, ...]:
        """Those of whom it matters what household they sit in; its pool may be touched too."""
        return ()

    @property
    def households(self) -> tuple[UUID, ...]:
        """Those that it names."""
        return ()

    @property
    def doing(self) -> "Command":
        """What it does to wallets: itself, or what it lets through."""
        return self

    @property
    def remembered(self) -> bool:
        """Whether a retry gets the first reply from the request key."""
        return True

    def following(self, merged: Mapping[UUID, UUID]) -> "Command":
        """The same request, about who lives on instead of members who were merged. By merged member."""
        return replace(self, member_id=merged.get(self.member_id, self.member_id))

    @property
    def action(self) -> str:
        """What it does to an order: the same order may be paid and earn."""
        raise NotImplementedError

    def _particulars(self) -> Sequence[object]:
        raise NotImplementedError

    def digest(self) -> bytes:
        """SHA-256 over everything the caller said: equal for a retry, different for another request."""
        said = [
            type(self).__name__,
            self.member_given,
            self.reference,
            self.store,
            self.channel,
            None if self.occurred_at is None else self.occurred_at.isoformat(),
            None if self.business_date is None else self.business_date.isoformat(),
            self.part,
            *self._particulars(),
        ]
        return hashlib.sha256(canonical_ascii(said)).digest()


@record
class Earn(Command):
    """A purchase, or an event of a registered type. Amounts are in ``currency``, as the caller sent them."""

    event_type: str
    currency: str = ""
    amount: Decimal = Decimal(0)
    lines: tuple[Line, ...] = ()
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)

    @property
    def seated(self) -> tuple[UUID, ...]:
        """Whose household may get what is earned."""
        return (self.member_id,)

    @property
    def action(self) -> str:
        """The type of event."""
        return self.event_type

    def _particulars(self) -> Sequence[object]:
        return (
            self.event_type,
            self.currency,
            str(self.amount),
            [
                [n.line_id, n.sku, n.category, n.quantity, str(n.amount), dict(n.attributes)]
                for n in self.lines
            ],
            plain(self.attributes),
        )


@record
class Redeem(Command):
    """Points to spend, ``from_household`` out of its pool. ``point_type`` "" is the program's main wallet."""

    points: int
    point_type: str = ""
    from_household: bool = False

    @property
    def seated(self) -> tuple[UUID, ...]:
        """Whose household pays, if it is to."""
        return (self.member_id,) if self.from_household else ()

    @property
    def action(self) -> str:
        """Spending."""
        return REDEMPTION

    def _particulars(self) -> Sequence[object]:
        return self.points, self.point_type, self.reason, *(["household"] if self.from_household else [])


@record
class PlaceHold(Command):
    """Points to reserve for ``seconds``, 0 for the program's usual time; ``from_household`` of its pool."""

    points: int
    point_type: str = ""
    seconds: int = 0
    from_household: bool = False

    @property
    def seated(self) -> tuple[UUID, ...]:
        """Whose household pays, if it is to."""
        return (self.member_id,) if self.from_household else ()

    @property
    def action(self) -> str:
        """Reserving."""
        return "HOLD"

    def _particulars(self) -> Sequence[object]:
        said = self.points, self.point_type, self.seconds, self.reason
        return *said, *(["household"] if self.from_household else [])


@record
class CaptureHold(Command):
    """Reserved points to spend; 0 for all. What is left is released, unless ``keep_rest``.

    ``spender_id``: for whom a household's pool pays; rules look at that member.
    """

    hold_id: UUID
    points: int = 0
    keep_rest: bool = False
    spender_id: UUID | None = None

    @property
    def members(self) -> tuple[UUID, ...]:
        """Whose points were reserved, and who spends them."""
        return (self.member_id,) if self.spender_id is None else (self.member_id, self.spender_id)

    def following(self, merged: Mapping[UUID, UUID]) -> Command:
        """Either of the two may have been merged."""
        spender_id = self.spender_id and merged.get(self.spender_id, self.spender_id)
        return replace(self, member_id=merged.get(self.member_id, self.member_id), spender_id=spender_id)

    @property
    def action(self) -> str:
        """Spending what was reserved."""
        return "CAPTURE"

    def _particulars(self) -> Sequence[object]:
        return str(self.hold_id), self.points, self.keep_rest, self.reason


@record
class VoidHold(Command):
    """A reservation to give up."""

    hold_id: UUID

    @property
    def action(self) -> str:
        """Releasing what was reserved."""
        return "VOID"

    def _particulars(self) -> Sequence[object]:
        return str(self.hold_id), self.reason


class Item(NamedTuple):
    """Goods that come back: so many units of a line, or of whatever line sold that SKU."""

    line_id: str
    sku: str
    quantity: int


@record
class Return(Command):
    """Goods that come back. ``purchase_given``: how the caller named the purchase, ``event_id``: which it is.

    Without a purchase the items are looked for in the member's latest ones. Without items all that is
    left of the purchase comes back.
    """

    event_id: UUID | None
    purchase_given: str
    items: tuple[Item, ...] = ()

    @property
    def seated(self) -> tuple[UUID, ...]:
        """Whose household may have got what the goods earned."""
        return (self.member_id,)

    @property
    def action(self) -> str:
        """Bringing back."""
        return "RETURN"

    def _particulars(self) -> Sequence[object]:
        return self.purchase_given, [list(item) for item in self.items], self.reason


@record
class Refund(Command):
    """Spent points to give back; 0 for all that are not refunded yet."""

    transaction_id: UUID
    points: int = 0

    @property
    def action(self) -> str:
        """Undoing a redemption."""
        return "REFUND"

    def _particulars(self) -> Sequence[object]:
        return str(self.transaction_id), self.points, self.reason


@record
class Transfer(Command):
    """Points for another member."""

    to_member_id: UUID
    to_given: str
    points: int
    point_type: str = ""

    @property
    def members(self) -> tuple[UUID, ...]:
        """Who gives and who gets."""
        return (self.member_id, self.to_member_id)

    def following(self, merged: Mapping[UUID, UUID]) -> Command:
        """Either of the two may have been merged."""
        return replace(
            self,
            member_id=merged.get(self.member_id, self.member_id),
            to_member_id=merged.get(self.to_member_id, self.to_member_id),
        )

    @property
    def action(self) -> str:
        """Handing on."""
        return "TRANSFER"

    def _particulars(self) -> Sequence[object]:
        return self.to_given, self.points, self.point_type, self.reason


@record
class Adjust(Command):
    """Points to put in (positive) or take out (negative) by hand; above the program's limit, to ask for.

    ``expires_at``: of what is put in; None for the program's terms.
    """

    points: int
    point_type: str = ""
    expires_at: datetime | None = None

    @property
    def action(self) -> str:
        """Correcting."""
        return "ADJUSTMENT"

    def _particulars(self) -> Sequence[object]:
        expires_at = None if self.expires_at is None else self.expires_at.isoformat()
        return self.points, self.point_type, expires_at, self.reason


@record
class Merge(Command):
    """Another membership of the same person, to become one with this one, which lives on."""

    merged_member_id: UUID

    @property
    def members(self) -> tuple[UUID, ...]:
        """Who lives on, and who doesn't."""
        return (self.member_id, self.merged_member_id)

    @property
    def seated(self) -> tuple[UUID, ...]:
        """Who has to leave a household before."""
        return (self.merged_member_id,)

    @property
    def action(self) -> str:
        """Making one of two."""
        return "MERGE"

    def _particulars(self) -> Sequence[object]:
        return str(self.merged_member_id), self.reason


@record
class ApproveAdjustment(Command):
    """An adjustment that waits, to be made. ``reason`` is a remark of who decides."""

    adjustment_id: UUID

    @property
    def action(self) -> str:
        """Correcting."""
        return "ADJUSTMENT"

    def _particulars(self) -> Sequence[object]:
        return str(self.adjustment_id), self.reason


@record
class RejectAdjustment(Command):
    """An adjustment that waits, not to be made."""

    adjustment_id: UUID

    @property
    def action(self) -> str:
        """Refusing."""
        return "REJECTION"

    def _particulars(self) -> Sequence[object]:
        return str(self.adjustment_id), self.reason


def plain(attributes: Mapping[str, AttributeValue]) -> dict[str, str | bool]:
    """Attributes as JSON holds them: decimals as text."""
    return {name: str(v) if isinstance(v, Decimal) else v for name, v in attributes.items()}


class Award(NamedTuple):
    """What a wallet was given, by which row."""

    transaction_id: UUID
    point_type: str
    points: int


class ReturnedLine(NamedTuple):
    """Units of a line of a purchase that came back."""

    event_id: UUID
    line_id: str
    quantity: int


@record
class Outcome:
    """What a command brought: what the caller is told, the first time and every time.

    ``points`` and ``balance`` are of the main wallet for an earn and a return, of the wallet that moved
    otherwise; ``awards`` are all rows. ``value`` is in the program's currency, None if no rule says
    what points are worth. ``shortfall``: points that should have been taken back and were not.
    ``unmatched``: items that no purchase was found for. ``adjustment_id``: the adjustment that was asked for
    or decided; without awards it was not made. ``household_id``: whose pool paid, or was formed, joined
    or left; ``spender_id``: for whom it paid. ``shared``: points that went on to the pool,
    ``pool_balance``: what that wallet of the pool has afterwards. ``review``: what became of an entry that
    was put aside, whose id is ``event_id`` then.
    """

    event_id: UUID
    member_id: UUID
    awards: tuple[Award, ...]
    point_type: str
    points: int
    balance: int
    tier: str
    version: int
    tier_raised: bool = False
    value: Decimal | None = None
    currency: str = ""
    pending: int = 0
    debt: int = 0
    shortfall: int = 0
    hold: Hold | None = None
    lines: tuple[ReturnedLine, ...] = ()
    unmatched: tuple[Item, ...] = ()
    adjustment_id: UUID | None = None
    household_id: UUID | None = None
    spender_id: UUID | None = None
    shared: int = 0
    pool_balance: int = 0
    review: str = ""
