"""A till that speaks to Laurel. Needs grpcio, googleapis-common-protos and the stubs in sdk/python.

    export LAUREL_ADDRESS=127.0.0.1:50051 LAUREL_API_KEY=...
    python terminal.py join    CARD NAME             a member joins
    python terminal.py sell    CARD AMOUNT RECEIPT   a purchase earns points
    python terminal.py redeem  CARD POINTS RECEIPT   points pay for something
    python terminal.py back    RECEIPT               what was sold comes back
    python terminal.py allow   CARD POINTS           points that may be spent without a connection
    python terminal.py spend   CARD POINTS RECEIPT   some of them pay for something
    python terminal.py release CARD                  what is left of them is the member's again
    python terminal.py balance CARD                  what the member holds
    python terminal.py deliver                       send what could not be sent

A sale is written to the outbox before it is sent and leaves it once the server has
answered. So it survives a dead connection and a dead till, and since it keeps its
request_id it counts once however often it is sent. The outbox goes out as one journal, in
order: each entry is crossed off as its answer comes. Nothing is redeemed without an answer,
for only the server knows what a member may spend; but for an allowance: points that the
server reserved before, which this till alone may spend until the allowance ends.

Exit codes: 0 done, or kept for later; 1 refused; 2 called wrongly; 3 the server can't be reached.
"""

import argparse
import os
import random
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from google.type.money_pb2 import Money
from loyalty.v1 import (
    holds_pb2,
    holds_pb2_grpc,
    journal_pb2,
    journal_pb2_grpc,
    member_pb2,
    member_pb2_grpc,
    movements_pb2,
    points_pb2,
    points_pb2_grpc,
)

CALL_SECONDS = 5.0
# What is not answered by then goes out with the next journal.
JOURNAL_SECONDS = 60.0
# For as long as the till may be without a connection: what is captured later is refused.
ALLOWANCE_SECONDS = 24 * 3600
ATTEMPTS = 4
FIRST_WAIT_SECONDS = 0.1
# The call may have happened or not: sending it again, with the same request_id, is safe.
PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
)


# What a file of the outbox holds, by its ending: the kind of entry and its request.
KINDS: Mapping[str, tuple[str, type[Any]]] = {
    ".sale": ("accrue", points_pb2.AccrueRequest),
    ".return": ("return_purchase", movements_pb2.ReturnPurchaseRequest),
    ".capture": ("capture_hold", holds_pb2.CaptureHoldRequest),
    ".void": ("void_hold", holds_pb2.VoidHoldRequest),
}
# What the server has against this one sale. Anything else, such as a revoked key, is no fault of the sale.
OF_THE_SALE = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
)


class RefusedError(Exception):
    """The server said no; asking again won't help."""

    def __init__(self, code: grpc.StatusCode, reason: str, message: str) -> None:
        super().__init__(f"{message} ({reason})")
        self.code = code


class UnreachableError(Exception):
    """No answer, or none that says whether the call happened."""


class Till:
    """One till. ``outbox`` is a folder that survives a restart."""

    def __init__(self, channel: grpc.Channel, key: str, outbox: Path) -> None:
        self._members: Any = member_pb2_grpc.MemberServiceStub(channel)
        self._points: Any = points_pb2_grpc.PointsServiceStub(channel)
        self._holds: Any = holds_pb2_grpc.HoldServiceStub(channel)
        self._journals: Any = journal_pb2_grpc.JournalServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._outbox = outbox
        self.set_aside = 0

    def join(self, card: str, name: str) -> str:
        """Register a member with a card; the new id."""
        member = member_pb2.Member(given_name=name, card_numbers=[card])
        request = member_pb2.RegisterMemberRequest(request_id=str(uuid.uuid4()), member=member)
        reply = self._call(self._members.RegisterMember, request)
        return f"{name} joined as {reply.member.member_id}"

    def sell(self, card: str, amount: str, receipt: str) -> Iterator[str]:
        """Record a purchase in rupees, now or as soon as there is a connection."""
        units = Decimal(amount)
        request = points_pb2.AccrueRequest(
            request_id=str(uuid.uuid4()),
            identifier=member_pb2.Identifier(card_number=card),
            order_reference=receipt,
            channel="pos",
            amount=Money(currency_code="INR", units=int(units), nanos=int(units % 1 * 10**9)),
        )
        # Rules see when it was sold, not when it arrived.
        request.occur_time.FromDatetime(datetime.now(UTC))
        self._keep(".sale", request)
        return self.deliver()

    def back(self, receipt: str) -> Iterator[str]:
        """Take back all that is left of a purchase, also of one that is still in the outbox."""
        request = movements_pb2.ReturnPurchaseRequest(
            request_id=str(uuid.uuid4()),
            order=movements_pb2.PurchaseOrder(order_reference=receipt),
            channel="pos",
        )
        request.occur_time.FromDatetime(datetime.now(UTC))
        self._keep(".return", request)
        return self.deliver()

    def allow(self, card: str, points: int) -> str:
        """Reserve points that this till may spend without a connection."""
        if self._allowance(card).exists():
            raise _refused("ALLOWANCE_OPEN", "there is an allowance; release it first")
        request = holds_pb2.PlaceHoldRequest(
            request_id=str(uuid.uuid4()),
            identifier=member_pb2.Identifier(card_number=card),
            points=points,
            time_limit_seconds=ALLOWANCE_SECONDS,
            channel="pos",
        )
        hold = self._call(self._holds.PlaceHold, request).hold
        self._write(self._allowance(card), hold)
        return f"{hold.points} points may be spent until {hold.expire_time.ToJsonString()}"

    def spend(self, card: str, points: int, receipt: str) -> Iterator[str]:
        """Pay with points of the allowance, now or as soon as there is a connection."""
        hold = self._allowed(card)
        if hold.expire_time.ToDatetime(UTC) <= datetime.now(UTC) or points > hold.open_points:
            raise _refused(
                "ALLOWANCE_TOO_SMALL", f"{hold.open_points} points are allowed, for a limited time"
            )
        # Before the entry: a till that dies in between has allowed too little, never too much.
        hold.open_points -= points
        self._write(self._allowance(card), hold)
        request = holds_pb2.CaptureHoldRequest(
            request_id=str(uuid.uuid4()),
            hold_id=hold.hold_id,
            points=points,
            keep_rest=True,
            order_reference=receipt,
            channel="pos",
        )
        request.occur_time.FromDatetime(datetime.now(UTC))
        self._keep(".capture", request)
        return self.deliver()

    def release(self, card: str) -> Iterator[str]:
        """Give up what is left of the allowance, behind all that was spent of it."""
        hold = self._allowed(card)
        # Before the entry: a till that dies in between leaves the points reserved until the allowance ends.
        self._allowance(card).unlink()
        self._keep(".void", holds_pb2.VoidHoldRequest(request_id=str(uuid.uuid4()), hold_id=hold.hold_id))
        return self.deliver()

    def redeem(self, card: str, points: int, receipt: str) -> str:
        """Spend points. The request_id comes from the receipt: the same command is the same call."""
        request = points_pb2.RedeemRequest(
            request_id=f"redeem-{receipt}",
            identifier=member_pb2.Identifier(card_number=card),
            points=points,
            order_reference=receipt,
            channel="pos",
        )
        reply = self._call(self._points.Redeem, request)
        return f"receipt {receipt}: {reply.points} points redeemed, balance {reply.balance}"

    def balance(self, card: str) -> str:
        """What a member may spend."""
        identifier = member_pb2.Identifier(card_number=card)
        found = self._call(self._members.FindMember, member_pb2.FindMemberRequest(identifier=identifier))
        request = points_pb2.GetBalanceRequest(member_id=found.member.member_id)
        reply = self._call(self._points.GetBalance, request)
        return f"balance {reply.wallets[0].balance}, tier {reply.tier}"

    def deliver(self) -> Iterator[str]:
        """Send what is in the outbox, oldest first. Raises UnreachableError where there is no answer."""
        pauses = Pauses()
        while kept := sorted(path for path in self._outbox.glob("*") if path.suffix in KINDS):
            try:
                for path, reply in zip(kept, self._exchange(kept), strict=True):
                    yield self._cross_off(path, reply.result)
                    pauses = Pauses()
            except grpc.RpcError as error:
                # What was answered is crossed off; the rest goes out again.
                pauses.after(error)

    def _exchange(self, kept: Sequence[Path]) -> Iterator[journal_pb2.ExchangeResponse]:
        """An answer for each, in order, as soon as it and those before it are recorded."""
        requests = (journal_pb2.ExchangeRequest(entry=_entry(path)) for path in kept)
        replies: Iterator[journal_pb2.ExchangeResponse] = self._journals.Exchange(
            requests, timeout=JOURNAL_SECONDS, metadata=self._metadata
        )
        return replies

    def _cross_off(self, path: Path, result: journal_pb2.JournalResult) -> str:
        """What is said of an entry that was answered. Raises RefusedError if that is no fault of its own."""
        about = _about(_entry(path))
        if result.HasField("error"):
            refusal = _refusal(result.error)
            if refusal.code not in OF_THE_SALE:
                raise refusal
            # It must not block those behind it.
            path.rename(path.with_suffix(".refused"))
            self.set_aside += 1
            return f"{about}: refused, {refusal}"
        path.unlink()
        if result.HasField("review"):
            return f"{about}: too old, waits for review {result.review.review_id}"
        return f"{about}: {_told(result)}"

    def _keep(self, ending: str, request: Any) -> None:
        """In the outbox, behind all that is there."""
        self._write(self._outbox / f"{time.time_ns()}-{request.request_id}{ending}", request)

    def _allowance(self, card: str) -> Path:
        return self._outbox / f"{card}.allowance"

    def _allowed(self, card: str) -> holds_pb2.Hold:
        """What this till may spend of the member's points. Raises RefusedError if that is nothing."""
        path = self._allowance(card)
        if not path.exists():
            raise _refused("NO_ALLOWANCE", "the till has no allowance of this card")
        return holds_pb2.Hold.FromString(path.read_bytes())

    def _write(self, path: Path, message: Message) -> None:
        """Durably, or not at all: a till may lose power at any moment."""
        self._outbox.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            file.write(message.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)

    def _call(self, method: Any, request: Message) -> Any:
        """The reply; the same request again where that may help. Raises RefusedError, UnreachableError."""
        pauses = Pauses()
        while True:
            try:
                return method(request, timeout=CALL_SECONDS, metadata=self._metadata)
            except grpc.RpcError as error:
                pauses.after(error)


class Pauses:
    """The pauses between attempts, longer each time."""

    def __init__(self) -> None:
        self._left = ATTEMPTS
        self._wait = FIRST_WAIT_SECONDS

    def after(self, error: Any) -> None:
        """Wait until trying again makes sense. Raises RefusedError, or UnreachableError in the end."""
        status = _status(error)
        if error.code() not in PASSING:
            raise _refusal(status) from None
        self._left -= 1
        if not self._left:
            raise UnreachableError(f"{error.code().name}: {error.details()}") from None
        retry = error_details_pb2.RetryInfo()
        _unpack(status, retry)
        asked = retry.retry_delay.ToMilliseconds() / 1000
        # Tills that lost the server together should not come back together.
        time.sleep(max(self._wait, asked) * random.uniform(0.5, 1.0))
        self._wait *= 2


def _entry(path: Path) -> journal_pb2.JournalEntry:
    kind, request = KINDS[path.suffix]
    return journal_pb2.JournalEntry(**{kind: request.FromString(path.read_bytes())})


def _about(entry: journal_pb2.JournalEntry) -> str:
    """What an entry concerns."""
    said = getattr(entry, str(entry.WhichOneof("entry")))
    order = said.order if entry.HasField("return_purchase") else said
    return "allowance" if entry.HasField("void_hold") else f"receipt {order.order_reference}"


def _told(result: journal_pb2.JournalResult) -> str:
    """What became of an entry that was recorded."""
    kind = str(result.WhichOneof("result"))
    reply = getattr(result, kind)
    return {
        "accrue": "{0.points} points, balance {0.balance}",
        "return_purchase": "{0.points} points taken back, balance {0.balance}",
        "capture_hold": "{0.points} points spent, {0.hold.open_points} still allowed",
        "void_hold": "{0.points} points given up, balance {0.balance}",
    }[kind].format(reply)


def _status(error: Any) -> status_pb2.Status:
    """The status of a call that failed, with its details if the server sent any."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=error.code().value[0], message=error.details() or "")


def _refusal(status: status_pb2.Status) -> RefusedError:
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    info = error_details_pb2.ErrorInfo(reason=code.name)
    _unpack(status, info)
    return RefusedError(code, info.reason, status.message)


def _refused(reason: str, message: str) -> RefusedError:
    """What the till itself has against a command."""
    return RefusedError(grpc.StatusCode.FAILED_PRECONDITION, reason, message)


def _unpack(status: status_pb2.Status, into: Message) -> None:
    for detail in status.details:
        if detail.Unpack(into):
            return


def main() -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--outbox", type=Path, default=Path("outbox"), help="folder of unsent sales")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, arguments in (
        ("join", ("card", "name")),
        ("sell", ("card", "amount", "receipt")),
        ("redeem", ("card", "points", "receipt")),
        ("back", ("receipt",)),
        ("allow", ("card", "points")),
        ("spend", ("card", "points", "receipt")),
        ("release", ("card",)),
        ("balance", ("card",)),
        ("deliver", ()),
    ):
        command = commands.add_parser(name)
        for argument in arguments:
            command.add_argument(argument, type=int if argument == "points" else str)
    options = vars(parser.parse_args())
    address = os.environ.get("LAUREL_ADDRESS", "127.0.0.1:50051")
    key = os.environ.get("LAUREL_API_KEY")
    if not key:
        parser.error("set LAUREL_API_KEY to the key of this till; `laurel keys create` makes one")
    with grpc.insecure_channel(address) as channel:
        till = Till(channel, key, options.pop("outbox"))
        chosen = options.pop("command")
        try:
            said = getattr(till, chosen)(**options)
            for line in [said] if isinstance(said, str) else said:
                print(line)
        except RefusedError as refusal:
            print(f"refused: {refusal}", file=sys.stderr)
            return 1
        except UnreachableError as outage:
            print(f"no answer: {outage}", file=sys.stderr)
            if chosen in ("sell", "back", "spend", "release"):
                print("it is in the outbox; `deliver` sends it")
                return 0
            return 3
    return 1 if till.set_aside else 0


if __name__ == "__main__":
    sys.exit(main())
