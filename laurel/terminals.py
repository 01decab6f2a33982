"""Terminals of a shop: they send recorded invoices through the public API, several at a time.

Whatever is sent has a request_id made from the invoice's number, so that a retry, or the
whole replay again, is the same request and changes nothing.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import grpc
from google.type.money_pb2 import Money
from loyalty.v1 import member_pb2, member_pb2_grpc, movements_pb2, points_pb2, points_pb2_grpc

from laurel.calls import OF_ONE, Calls, at_a_time, details_of, reason_of
from laurel.failures import Failure
from laurel.retail import CURRENCY, Invoice, Line

SYSTEM = "online-retail"
MAX_LINES = 1000


@dataclass
class Customer:
    """A member as found before the first invoice is sent."""

    member_id: str
    version: int
    new: bool


@dataclass
class Tally:
    """What a replay came to. ``refused`` counts by reason; ``seconds`` is one latency per purchase.

    ``recorded`` counts purchases, ``points`` what they earned; ``already`` those the
    server knew before. ``returns``, ``returns_already`` and ``taken_back`` are the same of cancellations,
    ``units`` what they brought back, ``unmatched`` the units that no purchase was found for.
    ``changed``: customers whose version is not what it was.
    """

    customers: dict[str, Customer] = field(default_factory=dict)
    recorded: int = 0
    already: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    points: int = 0
    returns: int = 0
    returns_already: int = 0
    returns_refused: Counter[str] = field(default_factory=Counter)
    taken_back: int = 0
    units: int = 0
    unmatched: int = 0
    balance: int = 0
    changed: int = 0
    retries: int = 0
    seconds: list[float] = field(default_factory=list)
    sending_seconds: float = 0.0


def requests(invoice: Invoice, member_id: str) -> list[points_pb2.AccrueRequest]:
    """The purchase as the API takes it; in parts, if it has too many lines for one."""
    chunks = [invoice.lines[i : i + MAX_LINES] for i in range(0, len(invoice.lines), MAX_LINES)]
    made = []
    for place, chunk in enumerate(chunks, 1):
        part = str(place) if len(chunks) > 1 else ""
        request = points_pb2.AccrueRequest(
            request_id=f"{SYSTEM}-{invoice.number}" + (f"-{part}" if part else ""),
            member_id=member_id,
            order_reference=invoice.number,
            part=part,
            channel="web",
            lines=[_line(line) for line in chunk],
            attributes={"country": invoice.country} if invoice.country else {},
        )
        request.occur_time.FromDatetime(invoice.at)
        made.append(request)
    return made


def cancellation(invoice: Invoice, member_id: str) -> movements_pb2.ReturnPurchaseRequest:
    """The cancellation as the API takes it. It names no purchase, so the server looks for the goods."""
    units = Counter[str]()
    for line in invoice.lines:
        units[line.sku] += line.quantity
    request = movements_pb2.ReturnPurchaseRequest(
        request_id=f"{SYSTEM}-{invoice.number}",
        member_id=member_id,
        order_reference=invoice.number,
        channel="web",
        items=[movements_pb2.ReturnItem(sku=sku, quantity=quantity) for sku, quantity in units.items()],
    )
    request.occur_time.FromDatetime(invoice.at)
    return request


class Terminals:
    """``number`` terminals on one connection, all with the same key."""

    def __init__(self, channel: grpc.aio.Channel, key: str, number: int) -> None:
        self._members: Any = member_pb2_grpc.MemberServiceStub(channel)
        self._points: Any = points_pb2_grpc.PointsServiceStub(channel)
        self._calls = Calls(key)
        self._number = number
        self.tally = Tally()

    async def begin(self, invoice: Invoice, done: Callable[[], None]) -> None:
        """Enrol one customer and send its first purchase: whether the program takes the currency at all.

        It is not counted, for it is sent again with the others. Raises Failure, grpc.RpcError.
        """
        await self.enrol([invoice.customer], done)
        [customer] = self.tally.customers.values()
        try:
            await self._calls.make(self._points.Accrue, requests(invoice, customer.member_id)[0])
        except grpc.aio.AioRpcError as error:
            info, _ = details_of(error)
            if info.reason == "CURRENCY_NOT_SUPPORTED":
                raise Failure(
                    f"the data is in {CURRENCY}, for which the program has no rate: it counts in "
                    f"{info.metadata['program_currency']}. Nothing was recorded, and of the customers only "
                    f"{invoice.customer} is a member"
                ) from None
            if error.code() not in OF_ONE:
                raise

    async def enrol(self, customers: Iterable[str], done: Callable[[], None]) -> None:
        """Find or register each customer, by the number the data set gives. Raises grpc.RpcError."""

        async def one(number: str) -> None:
            self.tally.customers[number] = await self._customer(number)
            done()

        await at_a_time(self._number, customers, one)

    async def send(self, invoices: Iterable[Invoice], done: Callable[[], None]) -> None:
        """Send invoices of enrolled customers, each customer's in order of date. Raises grpc.RpcError."""
        ordered = sorted(invoices, key=lambda invoice: (invoice.customer, invoice.at, invoice.number))
        of_customers = [list(own) for _, own in groupby(ordered, key=lambda invoice: invoice.customer)]
        # Whoever bought most goes first, or one terminal would still work when the others are done.
        of_customers.sort(key=len, reverse=True)

        async def one(own: list[Invoice]) -> None:
            for invoice in own:
                customer = self.tally.customers[invoice.customer]
                if invoice.cancels:
                    await self._return(cancellation(invoice, customer.member_id), customer)
                    done()
                    continue
                for request in requests(invoice, customer.member_id):
                    await self._purchase(request, customer)
                done()

        started = time.monotonic()
        await at_a_time(self._number, of_customers, one)
        self.tally.sending_seconds = time.monotonic() - started

    async def take_stock(self) -> None:
        """Read what the customers hold now, and whether that changed. Raises grpc.RpcError."""

        async def one(customer: Customer) -> None:
            request = points_pb2.GetBalanceRequest(member_id=customer.member_id)
            reply = await self._calls.make(self._points.GetBalance, request)
            self.tally.balance += reply.wallets[0].balance
            self.tally.changed += customer.new or reply.version != customer.version

        await at_a_time(self._number, self.tally.customers.values(), one)
        self.tally.retries = self._calls.retries

    async def _customer(self, number: str) -> Customer:
        external_id = member_pb2.ExternalId(system=SYSTEM, id=number)
        find = member_pb2.FindMemberRequest(identifier=member_pb2.Identifier(external_id=external_id))
        register = member_pb2.RegisterMemberRequest(
            request_id=f"{SYSTEM}-customer-{number}", member=member_pb2.Member(external_ids=[external_id])
        )
        try:
            known = (await self._calls.make(self._members.FindMember, find)).member
            return Customer(known.member_id, known.version, new=False)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        try:
            added = (await self._calls.make(self._members.RegisterMember, register)).member
            return Customer(added.member_id, added.version, new=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
        # Another replay was faster.
        known = (await self._calls.make(self._members.FindMember, find)).member
        return Customer(known.member_id, known.version, new=False)

    async def _purchase(self, request: points_pb2.AccrueRequest, customer: Customer) -> None:
        tally = self.tally
        started = time.monotonic()
        try:
            reply = await self._calls.make(self._points.Accrue, request)
        except grpc.aio.AioRpcError as error:
            if error.code() not in OF_ONE:
                raise
            reason = reason_of(error)
            if reason == "ORDER_ALREADY_RECORDED":
                tally.already += 1
            else:
                tally.refused[reason] += 1
            return
        tally.seconds.append(time.monotonic() - started)
        # The reply is that of the first time. If the member had got as far before this
        # replay began, that was before.
        if reply.version <= customer.version:
            tally.already += 1
        else:
            tally.recorded += 1
            tally.points += reply.points

    async def _return(self, request: movements_pb2.ReturnPurchaseRequest, customer: Customer) -> None:
        tally = self.tally
        try:
            reply = await self._calls.make(self._points.ReturnPurchase, request)
        except grpc.aio.AioRpcError as error:
            if error.code() not in OF_ONE:
                raise
            reason = reason_of(error)
            if reason == "ORDER_ALREADY_RECORDED":
                tally.returns_already += 1
            else:
                tally.returns_refused[reason] += 1
            return
        tally.unmatched += sum(item.quantity for item in reply.unmatched)
        if reply.version <= customer.version:
            tally.returns_already += 1
        else:
            tally.returns += 1
            tally.taken_back += reply.points
            tally.units += sum(line.quantity for line in reply.lines)


def _line(line: Line) -> points_pb2.LineItem:
    units = int(line.amount)
    return points_pb2.LineItem(
        line_id=str(line.number),
        sku=line.sku,
        quantity=line.quantity,
        amount=Money(currency_code=CURRENCY, units=units, nanos=int((line.amount - units) * 10**9)),
    )
