"""What callers ask of a wallet, and what they are told it brought."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from server.domain.activity import REDEMPTION, AttributeValue, Line
from server.domain.actor import Actor

_json = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


@dataclass(frozen=True, slots=True, kw_only=True)
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
        return hashlib.sha256(_json(said).encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Earn(Command):
    """A purchase, or an event of a registered type. Amounts are in ``currency``, as the caller sent them."""

    event_type: str
    currency: str = ""
    amount: Decimal = Decimal(0)
    lines: tuple[Line, ...] = ()
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeem(Command):
    """Points to spend. ``point_type`` "" is the program's main wallet."""

    points: int
    point_type: str = ""
    reason: str = ""

    @property
    def action(self) -> str:
        """Spending."""
        return REDEMPTION

    def _particulars(self) -> Sequence[object]:
        return self.points, self.point_type, self.reason


def plain(attributes: Mapping[str, AttributeValue]) -> dict[str, str | bool]:
    """Attributes as JSON holds them: decimals as text."""
    return {name: str(v) if isinstance(v, Decimal) else v for name, v in attributes.items()}


class Award(NamedTuple):
    """What a wallet was given, by which row."""

    transaction_id: UUID
    point_type: str
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command brought: what the caller is told, the first time and every time.

    ``points`` and ``balance`` are of the main wallet for an earn, of the wallet spent
    from for a redemption. ``value`` is in the program's currency, None if no rule says
    what points are worth.
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
