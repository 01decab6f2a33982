"""A row of a file as an opening balance: whose, how many points of which type, until when."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from hashlib import sha256
from typing import Any

import grpc
from loyalty.v1 import (
    adjustments_pb2,
    adjustments_pb2_grpc,
    member_pb2,
    member_pb2_grpc,
    movements_pb2,
    points_pb2_grpc,
)

from laurel.calls import OF_ONE, Calls, details_of, reason_of
from laurel.imports.columns import Columns, Target
from laurel.imports.newcomers import EXTERNAL
from laurel.imports.refusals import Refusal
from laurel.imports.registrations import message_of
from laurel.imports.table import Row
from laurel.spreadsheets import parted
from server.domain.errors import InvalidArgument
from server.rpc import profiles
from server.rpc.fields import Fields

WHOLE = re.compile(r"[+-]?[0-9]{1,16}")
WAITING = "balances waiting for a second person"
# Each finds the member; the first that a row fills counts.
FINDING = ("member_id", "external_ids", "card_numbers", "email", "phone")
TARGET = Target(
    single=("member_id", "email", "phone", "points", "point_type", "expires_on", "reference"),
    several=("external_ids", "card_numbers"),
    prefixes=(EXTERNAL,),
    headings={
        **dict.fromkeys(("e_mail", "mail", "email_address", "e_mail_address"), "email"),
        **dict.fromkeys(("phone_number", "mobile", "telephone"), "phone"),
        **dict.fromkeys(("card", "card_number", "loyalty_card"), "card_numbers"),
        **dict.fromkeys(("balance", "punkte"), "points"),
        **dict.fromkeys(("expires", "expires_at", "expiry", "valid_until"), "expires_on"),
    },
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every row. A day of expiry ends in ``zone``."""

    reason: str = "opening balance"
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class Opening:
    """``whom``: a member's id, or what finds the member. ``point_type`` "" is the main wallet."""

    whom: str | member_pb2.Identifier
    points: int
    point_type: str
    reference: str
    expires_at: datetime | None


@dataclass(slots=True)
class Totals:
    """Points of one type: put into wallets now, put there before, and waiting for a second person."""

    imported: int = 0
    already: int = 0
    waiting: int = 0


class Reader:
    """Reads the rows of one file. ``in_file`` sums the points of every row that says how many."""

    def __init__(self, columns: Columns, terms: Terms) -> None:
        self._columns = columns
        self._terms = terms
        self._systems = [name for name in columns.places if name.startswith(EXTERNAL)]
        self.in_file = Counter[str]()

    def read(self, row: Row) -> Opening:
        """The balance that the row opens. Raises Refusal."""
        text = self._columns.text(row, "points")
        point_type = self._columns.text(row, "point_type")
        if not WHOLE.fullmatch(text):
            raise self._wrong("points", "must be a whole number of points")
        self.in_file[point_type] += int(text)
        return Opening(
            self._whom(row), int(text), point_type, self._columns.text(row, "reference"), self._expiry(row)
        )

    def names(self, opening: Opening) -> Iterator[tuple[str, str]]:
        """What no other row of the file may open too."""
        headings = ", ".join(
            filter(None, map(self._columns.named, (*FINDING, "external_id", "point_type", "reference")))
        )
        yield f"{opening.whom}|{opening.point_type}|{opening.reference}", headings

    def _whom(self, row: Row) -> str | member_pb2.Identifier:
        text = self._columns.text
        if member_id := text(row, "member_id"):
            return member_id.lower()
        for identifier in self._identifiers(row):
            fields = Fields()
            try:
                # In the one spelling that is compared, so that two spellings are one member.
                found = profiles.identifier(fields, "identifier", identifier)
                fields.check()
            except InvalidArgument as refused:
                kind = identifier.WhichOneof("kind")
                name = {"card_number": "card_numbers", "external_id": "external_ids"}.get(
                    str(kind), str(kind)
                )
                raise self._wrong(name, refused.violations[0].description) from None
            return message_of(found)
        raise Refusal("MEMBER_NOT_NAMED", "names no member by id, external id, card number, email or phone")

    def _identifiers(self, row: Row) -> Iterator[member_pb2.Identifier]:
        for name in self._systems:
            if own := self._columns.text(row, name):
                external_id = member_pb2.ExternalId(system=name.removeprefix(EXTERNAL), id=own)
                yield member_pb2.Identifier(external_id=external_id)
        for text in parted(self._columns.text(row, "external_ids")):
            system, _, own = text.partition(":")
            yield member_pb2.Identifier(external_id=member_pb2.ExternalId(system=system, id=own))
        for number in parted(self._columns.text(row, "card_numbers")):
            yield member_pb2.Identifier(card_number=number)
        if email := self._columns.text(row, "email"):
            yield member_pb2.Identifier(email=email)
        if phone := self._columns.text(row, "phone"):
            yield member_pb2.Identifier(phone=phone)

    def _expiry(self, row: Row) -> datetime | None:
        text = self._columns.text(row, "expires_on")
        if not text:
            return None
        try:
            at = datetime.fromisoformat(text)
            if at.time() == time() and len(text) == len("2027-12-31"):
                at += timedelta(days=1)  # they are good on that day still
            return (at if at.tzinfo else at.replace(tzinfo=self._terms.zone)).astimezone(UTC)
        except (ValueError, OverflowError):
            raise self._wrong("expires_on", "must be a day such as 2027-12-31, or a time") from None

    def _wrong(self, name: str, description: str) -> Refusal:
        heading = self._columns.named(name) or self._columns.named("external_id")
        return Refusal("INVALID_FIELD", f"{heading or name}: {description}", heading)


class Openings:
    """Adjusts wallets by opening balances, or with ``dry`` only looks. ``totals`` are by point type."""

    def __init__(self, channel: grpc.aio.Channel, calls: Calls, terms: Terms, dry: bool) -> None:
        self._members: Any = member_pb2_grpc.MemberServiceStub(channel)
        self._points: Any = points_pb2_grpc.PointsServiceStub(channel)
        self._adjustments: Any = adjustments_pb2_grpc.AdjustmentServiceStub(channel)
        self._calls = calls
        self._terms = terms
        self._dry = dry
        self.main = ""
        self.changed = False
        self.rows = Counter[str]()
        self.totals: dict[str, Totals] = {}

    async def take(self, _row: Row, opening: Opening) -> None:
        """Put in the points of one row, once. Raises Refusal, grpc.RpcError."""
        try:
            await self._take(opening)
        except grpc.aio.AioRpcError as error:
            if error.code() not in OF_ONE:
                raise
            bad = details_of(error)[1].field_violations
            told = "; ".join(f"{violation.field}: {violation.description}" for violation in bad)
            raise Refusal(reason_of(error), told or error.details() or "") from None

    async def _take(self, opening: Opening) -> None:
        member = await self._member(opening.whom)
        self.main = member.wallets[0].point_type
        point_type = opening.point_type or self.main
        if point_type not in {wallet.point_type for wallet in member.wallets}:
            raise Refusal("POINT_TYPE_NOT_FOUND", "the program has no such point type")
        totals = self.totals.setdefault(point_type, Totals())
        if not opening.points:
            self.rows["of no points"] += 1
            return
        if self._dry:
            self.rows["balances imported"] += 1
            totals.imported += opening.points
            return
        reply = await self._calls.make(self._points.AdjustPoints, self._request(member, point_type, opening))
        # The reply is that of the first time. If the member had got as far before, that was before.
        first = reply.version > member.version
        self.changed = self.changed or first
        if reply.adjustment_id and await self._waits(reply.adjustment_id):
            self.rows[WAITING] += 1
            totals.waiting += opening.points
        elif first:
            self.rows["balances imported"] += 1
            totals.imported += opening.points
        else:
            self.rows["balances already there"] += 1
            totals.already += opening.points

    async def _waits(self, adjustment_id: str) -> bool:
        """Whether nobody has decided on what takes a second person. Raises Refusal if somebody said no."""
        request = adjustments_pb2.GetAdjustmentRequest(adjustment_id=adjustment_id)
        asked = (await self._calls.make(self._adjustments.GetAdjustment, request)).adjustment
        if asked.status == adjustments_pb2.ADJUSTMENT_STATUS_REJECTED:
            raise Refusal(
                "ADJUSTMENT_REJECTED", f"a second person said no: {asked.decision_reason}".rstrip(": ")
            )
        return bool(asked.status == adjustments_pb2.ADJUSTMENT_STATUS_PENDING)

    def _request(
        self, member: member_pb2.Member, point_type: str, opening: Opening
    ) -> movements_pb2.AdjustPointsRequest:
        # Without the points: a row whose figure was changed must be refused, not put in beside the first.
        named = "\0".join(("balance", member.member_id, point_type, opening.reference))
        request = movements_pb2.AdjustPointsRequest(
            request_id=f"import-{sha256(named.encode()).hexdigest()[:48]}",
            member_id=member.member_id,
            points=opening.points,
            point_type=point_type,
            reason=self._terms.reason,
            reference=opening.reference,
        )
        if opening.expires_at is not None:
            request.expire_time.FromDatetime(opening.expires_at)
        return request

    async def _member(self, whom: str | member_pb2.Identifier) -> member_pb2.Member:
        if isinstance(whom, str):
            request = member_pb2.GetMemberRequest(member_id=whom)
            found: member_pb2.Member = (await self._calls.make(self._members.GetMember, request)).member
        else:
            find = member_pb2.FindMemberRequest(identifier=whom)
            found = (await self._calls.make(self._members.FindMember, find)).member
        return found


def summed(reader: Reader, openings: Openings) -> list[tuple[str, int, int, int, int, int]]:
    """Of each point type: points in the file, imported, there before, waiting, and refused."""
    in_file = Counter[str]()
    for name, points in reader.in_file.items():
        in_file[name or openings.main or "main wallet"] += points
    rows = []
    for name in sorted(in_file.keys() | openings.totals.keys()):
        own = openings.totals.get(name, Totals())
        rest = in_file[name] - own.imported - own.already - own.waiting
        rows.append((name, in_file[name], own.imported, own.already, own.waiting, rest))
    return rows
