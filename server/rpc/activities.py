"""Purchases and other events out of their messages, as the domain knows them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Context, Decimal
from typing import Any
from uuid import UUID

from google.protobuf.struct_pb2 import Struct
from loyalty.v1 import points_pb2 as pb

from server.domain.activity import PURCHASE, AttributeValue, Line
from server.domain.actor import Actor
from server.domain.commands import Earn
from server.domain.event_types import MAX_ATTRIBUTE_TEXT, MAX_ATTRIBUTES
from server.domain.members import Identifier
from server.domain.rules.money import coin
from server.rpc import profiles
from server.rpc.fields import Fields

MAX_LINES = 1000
MAX_LINE_ATTRIBUTES = 20
MAX_QUANTITY = 10**9
MAX_LABEL = 64
MAX_PART = 32
# Wide enough for any sum of amounts: nothing is ever rounded here.
EXACT = Context(prec=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """What a caller says has happened, before it is known to whom."""

    event_type: str
    store: str
    channel: str
    occurred_at: datetime | None
    reference: str = ""
    business_date: date | None = None
    part: str = ""
    currency: str = ""
    amount: Decimal = Decimal(0)
    lines: tuple[Line, ...] = ()
    attributes: dict[str, AttributeValue] = field(default_factory=dict)

    def at(self, store: str) -> "Happened":
        """The same, at the credential's own store if the caller named none."""
        return replace(self, store=store) if store and not self.store else self

    def to(
        self,
        actor: Actor,
        member_id: UUID,
        received_at: datetime,
        request_id: str = "",
        member_given: str = "",
    ) -> Earn:
        """The command that records it for a member."""
        return Earn(
            actor=actor,
            request_id=request_id,
            received_at=received_at,
            member_id=member_id,
            member_given=member_given,
            reference=self.reference,
            store=self.store,
            channel=self.channel,
            occurred_at=self.occurred_at,
            business_date=self.business_date,
            part=self.part,
            event_type=self.event_type,
            currency=self.currency,
            amount=self.amount,
            lines=self.lines,
            attributes=self.attributes,
        )


def member(fields: Fields, path: str, request: Any) -> UUID | Identifier:
    """Whom a request is about. ``path`` is what stands before its fields, such as ``purchase.``."""
    if request.WhichOneof("member") == "identifier":
        return profiles.identifier(fields, f"{path}identifier", request.identifier)
    return fields.uuid(f"{path}member_id", request.member_id)


def purchase(fields: Fields, path: str, request: pb.AccrueRequest, *, is_order: bool = True) -> Happened:
    """A purchase; only as an order it needs an order_reference."""
    currency, amount, lines = _basket(fields, path, request)
    return Happened(
        event_type=PURCHASE,
        reference=fields.text(
            f"{path}order_reference", request.order_reference, max_length=MAX_LABEL, required=is_order
        ),
        store=fields.text(f"{path}store", request.store, max_length=MAX_LABEL, required=False),
        channel=fields.text(f"{path}channel", request.channel, max_length=MAX_LABEL, required=False),
        occurred_at=fields.timestamp(f"{path}occur_time", request),
        business_date=fields.date(f"{path}business_date", request),
        part=fields.text(f"{path}part", request.part, max_length=MAX_PART, required=False),
        currency=currency,
        amount=amount,
        lines=lines,
        attributes=dict(fields.mapping(f"{path}attributes", request.attributes, max_entries=MAX_ATTRIBUTES)),
    )


def submission(fields: Fields, path: str, request: pb.SubmitEventRequest) -> Happened:
    """An event that is no purchase."""
    event_type = fields.text(f"{path}event_type", request.event_type, max_length=MAX_LABEL)
    if event_type == PURCHASE:
        fields.add(f"{path}event_type", "must not be PURCHASE; Accrue records those")
    return Happened(
        event_type=event_type,
        reference=fields.text(f"{path}reference", request.reference, max_length=MAX_LABEL, required=False),
        store=fields.text(f"{path}store", request.store, max_length=MAX_LABEL, required=False),
        channel=fields.text(f"{path}channel", request.channel, max_length=MAX_LABEL, required=False),
        occurred_at=fields.timestamp(f"{path}occur_time", request),
        attributes=_attributes(fields, f"{path}attributes", request.attributes),
    )


def _basket(fields: Fields, path: str, request: pb.AccrueRequest) -> tuple[str, Decimal, tuple[Line, ...]]:
    """Currency, total and lines: one currency, and a total that is the sum of the lines."""
    if not request.lines:
        return (*_paid(fields, f"{path}amount", request), ())
    given = fields.money(f"{path}amount", request)
    if len(request.lines) > MAX_LINES:
        fields.add(f"{path}lines", f"must be at most {MAX_LINES:,}")
        return "", Decimal(0), ()
    currency = "" if given is None else given[0]
    total = Decimal(0)
    lines: list[Line] = []
    for place, message in enumerate(request.lines):
        below = f"{path}lines[{place}]"
        line_currency, amount = fields.money(f"{below}.amount", message, required=True)
        if currency and line_currency and line_currency != currency:
            fields.add(f"{below}.amount.currency_code", f"must be {currency}, like the rest of the purchase")
        currency = currency or line_currency
        total = EXACT.add(total, amount)
        lines.append(_line(fields, below, place, message, amount))
    _unique(fields, path, lines)
    if given is not None and given[1] != total:
        fields.add(f"{path}amount", "must be the sum of the lines, or left out")
    return currency, total, tuple(lines)


def _paid(fields: Fields, field: str, request: pb.AccrueRequest) -> tuple[str, Decimal]:
    """A total by itself: what somebody paid, in coins. Lines may be finer, as shares of a discount are."""
    currency, amount = fields.money(field, request, required=True)
    if amount % (smallest := coin(currency)):
        whole = f"must make whole coins: amounts of {currency} are multiples of {smallest}"
        fields.add(f"{field}.nanos", whole)
    return currency, amount


def _line(fields: Fields, path: str, place: int, message: pb.LineItem, amount: Decimal) -> Line:
    line_id = fields.text(f"{path}.line_id", message.line_id, max_length=MAX_LABEL, required=False)
    return Line(
        line_id=line_id or str(place + 1),
        sku=fields.text(f"{path}.sku", message.sku, max_length=MAX_LABEL, required=False),
        category=fields.text(f"{path}.category", message.category, max_length=MAX_LABEL, required=False),
        quantity=fields.count(f"{path}.quantity", message.quantity, 0, MAX_QUANTITY) or 1,
        amount=amount,
        attributes=fields.mapping(f"{path}.attributes", message.attributes, max_entries=MAX_LINE_ATTRIBUTES),
    )


def _unique(fields: Fields, path: str, lines: Sequence[Line]) -> None:
    seen: set[str] = set()
    for place, line in enumerate(lines):
        if line.line_id in seen:
            fields.add(f"{path}lines[{place}].line_id", "must not be that of another line")
        seen.add(line.line_id)


def _attributes(fields: Fields, path: str, message: Struct) -> dict[str, AttributeValue]:
    if len(message.fields) > MAX_ATTRIBUTES:
        fields.add(path, f"must have at most {MAX_ATTRIBUTES} entries")
        return {}
    attributes: dict[str, AttributeValue] = {}
    for name, value in message.fields.items():
        key = fields.text(f"{path} (a key)", name, max_length=MAX_LABEL)
        below = f"{path}[{key}]"
        match value.WhichOneof("kind"):
            case "string_value":
                text = value.string_value
                attributes[key] = fields.text(below, text, max_length=MAX_ATTRIBUTE_TEXT, required=False)
            case "bool_value":
                attributes[key] = value.bool_value
            case "number_value" if abs(value.number_value) < 10**15:
                # What the sender wrote, not the binary fraction next to it.
                attributes[key] = Decimal(repr(value.number_value))
            case "number_value":
                fields.add(below, "must be a number between -10^15 and 10^15")
            case _:
                fields.add(below, "must be a string, a number or a boolean")
    return attributes
