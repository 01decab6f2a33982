"""PointsService: parse, act, render."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any
from uuid import UUID

from google.type import date_pb2
from loyalty.v1 import points_pb2 as pb

from server.domain.actor import CallerKind
from server.domain.commands import Outcome, Redeem
from server.domain.errors import PermissionDenied, invalid
from server.domain.ledger import MAX_POINTS, Kind, Lot, Transaction, Wallet
from server.domain.members import Identifier
from server.domain.points_in_words import told
from server.domain.rules import trace
from server.operations.points import Points
from server.rpc import activities, profiles
from server.rpc.fields import Fields
from server.rpc.gate import Call
from server.rpc.money import money
from server.rpc.movements import MAX_REASON, Movements
from server.rpc.outcomes import NOBODY, outcome_of, the_member
from server.rpc.pages import Pages
from server.rpc.rules import result_message
from server.rpc.versions import Versions, check_seen, not_of_this_member
from server.store.receipts import Receipt

KINDS: Mapping[Kind, pb.TransactionKind.ValueType] = MappingProxyType(
    {kind: pb.TransactionKind.Value(f"TRANSACTION_KIND_{kind}") for kind in Kind}
)


class PointsService(Movements):
    """The RPCs of PointsService, called by the gate."""

    def __init__(
        self, points: Points, pages: Pages, versions: Versions, clock: Callable[[], datetime]
    ) -> None:
        super().__init__(points, versions, clock)
        self._pages = pages

    async def Accrue(self, request: pb.AccrueRequest, call: Call) -> pb.AccrueResponse:
        """Record a purchase."""
        fields = Fields()
        request_id = fields.token("request_id", request.request_id)
        happened = activities.purchase(fields, "", request)
        named = activities.member(fields, "", request)
        fields.check()
        outcome = await self._earn(happened, request_id, named, call)
        return pb.AccrueResponse(**_earned(outcome, self._token(call, outcome)))

    async def SubmitEvent(self, request: pb.SubmitEventRequest, call: Call) -> pb.SubmitEventResponse:
        """Record an event that is no purchase."""
        fields = Fields()
        request_id = fields.token("request_id", request.request_id)
        happened = activities.submission(fields, "", request)
        named = activities.member(fields, "", request)
        fields.check()
        outcome = await self._earn(happened, request_id, named, call)
        return pb.SubmitEventResponse(**_earned(outcome, self._token(call, outcome)))

    async def _earn(
        self, happened: activities.Happened, request_id: str, named: UUID | Identifier, call: Call
    ) -> Outcome:
        who = self._points.named(call.actor.program_id, named)
        command = partial(
            happened.at(call.actor.store).to,
            actor=call.actor,
            member_id=NOBODY,
            received_at=self._clock(),
            request_id=request_id,
            member_given=who.given,
        )
        return await outcome_of(self._points, call, command, the_member(self._points, who))

    async def Redeem(self, request: pb.RedeemRequest, call: Call) -> pb.RedeemResponse:
        """Spend points."""
        if call.actor.kind is CallerKind.MEMBER:
            _here_and_now(request, call)
        fields = Fields()
        request_id = fields.token("request_id", request.request_id)
        named = activities.member(fields, "", request)
        said: dict[str, Any] = {
            "points": fields.count("points", request.points, 1, MAX_POINTS),
            "point_type": fields.text("point_type", request.point_type, max_length=64, required=False),
            "reference": fields.text(
                "order_reference", request.order_reference, max_length=64, required=False
            ),
            "store": fields.text("store", request.store, max_length=64, required=False) or call.actor.store,
            "channel": fields.text("channel", request.channel, max_length=64, required=False),
            "occurred_at": fields.timestamp("occur_time", request),
            "business_date": fields.date("business_date", request),
            "part": fields.text("part", request.part, max_length=activities.MAX_PART, required=False),
            "reason": fields.text("reason", request.reason, max_length=MAX_REASON, required=False),
            "from_household": request.from_household,
        }
        fields.check()
        who = self._points.named(call.actor.program_id, named)
        command = partial(
            Redeem,
            actor=call.actor,
            request_id=request_id,
            received_at=self._clock(),
            member_id=NOBODY,
            member_given=who.given,
            **said,
        )
        outcome = await outcome_of(self._points, call, command, the_member(self._points, who))
        return _redeemed(outcome, self._token(call, outcome))

    async def GetBalance(self, request: pb.GetBalanceRequest, call: Call) -> pb.GetBalanceResponse:
        """Show what a member holds."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        moment = fields.timestamp("as_of_time", request)
        if moment is not None and moment > self._clock():
            fields.add("as_of_time", "must not be in the future")
        fields.check()
        program_id = call.actor.program_id
        seen = self._versions.read(program_id, request.consistency_token)
        if moment is not None:
            if seen is not None:
                raise not_of_this_member()
            return await self._balance_as_of(member_id, moment, call)
        asked = member_id
        member_id, program, held = await self._points.balance(program_id, asked, seen)
        if seen is not None:
            check_seen(seen, asked, member_id, held.version)
        call.touched.append(member_id)
        following = program.tier_after(held.lifetime)
        return pb.GetBalanceResponse(
            member_id=str(member_id),
            wallets=[profiles.wallet_with_outlook(*held.wallet(t)) for t in program.point_types],
            tier=held.tier,
            next_tier="" if following is None else following.name,
            points_to_next_tier=0 if following is None else following.from_points - held.lifetime,
            version=held.version,
            consistency_token=self._versions.token(program_id, member_id, held.version),
        )

    async def _balance_as_of(self, member_id: UUID, moment: datetime, call: Call) -> pb.GetBalanceResponse:
        program, found = await self._points.balance_as_of(call.actor.program_id, member_id, moment)
        call.touched.append(found.member_id)
        lifetime = found.lifetime[program.main_point_type]
        following = program.tier_after(lifetime)
        return pb.GetBalanceResponse(
            member_id=str(found.member_id),
            wallets=[profiles.wallet_message(found.wallets.get(t, Wallet(t))) for t in program.point_types],
            tier=program.tier_at(lifetime).name,
            next_tier="" if following is None else following.name,
            points_to_next_tier=0 if following is None else following.from_points - lifetime,
        )

    async def GetTransaction(
        self, request: pb.GetTransactionRequest, call: Call
    ) -> pb.GetTransactionResponse:
        """Show a row of the ledger."""
        fields = Fields()
        transaction_id = fields.uuid("transaction_id", request.transaction_id)
        fields.check()
        row = await self._points.transaction(call.actor.program_id, transaction_id)
        call.touched.append(row.member_id)
        return pb.GetTransactionResponse(transaction=_transaction(row))

    async def ListHistory(self, request: pb.ListHistoryRequest, call: Call) -> pb.ListHistoryResponse:
        """Page through a member's rows."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        size = fields.page_size("page_size", request.page_size)
        point_type = fields.text("point_type", request.point_type, max_length=64, required=False)
        fields.check()
        filters = {
            "program": str(call.actor.program_id),
            "member_id": str(member_id),
            "point_type": point_type,
        }
        position = self._pages.decode("ListHistory", filters, request.page_token)
        rows, more = await self._points.history(
            call.actor.program_id,
            member_id,
            size,
            before=UUID(position[0]) if position else None,
            point_type=point_type,
        )
        token = self._pages.encode("ListHistory", filters, [str(rows[-1].transaction_id)]) if more else ""
        return pb.ListHistoryResponse(transactions=[_transaction(r) for r in rows], next_page_token=token)

    async def GetStatement(self, request: pb.GetStatementRequest, call: Call) -> pb.GetStatementResponse:
        """Show what a member had, what came and went, and what was left."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        since = fields.timestamp("from_time", request, required=True)
        until = fields.timestamp("to_time", request, required=True)
        size = fields.page_size("page_size", request.page_size)
        fields.check()
        if until <= since:
            raise invalid("to_time", "must be later than from_time")
        filters = {
            "program": str(call.actor.program_id),
            "member_id": str(member_id),
            "from_time": since.isoformat(),
            "to_time": until.isoformat(),
        }
        position = self._pages.decode("GetStatement", filters, request.page_token)
        bounds, after = (None, None) if position is None else _statement_position(position)
        page = await self._points.statement(
            call.actor.program_id, member_id, since, until, size, bounds=bounds, after=after
        )
        token = ""
        if page.more:
            last = page.rows[-1]
            following = [
                last.occurred_at.isoformat(),
                str(last.transaction_id),
                json.dumps(dict(page.bounds)),
            ]
            token = self._pages.encode("GetStatement", filters, following)
        return pb.GetStatementResponse(
            opening=[profiles.wallet_message(wallet) for wallet in page.opening],
            transactions=[_transaction(row) for row in page.rows],
            closing=[profiles.wallet_message(wallet) for wallet in page.closing],
            next_page_token=token,
        )

    async def FindTransactions(
        self, request: pb.FindTransactionsRequest, call: Call
    ) -> pb.FindTransactionsResponse:
        """Show what stands under a receipt's number."""
        fields = Fields()
        reference = fields.text("order_reference", request.order_reference, max_length=64)
        store = fields.text("store", request.store, max_length=64, required=False) or call.actor.store
        fields.check()
        found, more = await self._points.receipts(call.actor.program_id, reference, store)
        call.touched.extend(dict.fromkeys(receipt.member_id for receipt in found))
        return pb.FindTransactionsResponse(orders=[_receipt(receipt) for receipt in found], more=more)

    async def Explain(self, request: pb.ExplainRequest, call: Call) -> pb.ExplainResponse:
        """Say why."""
        fields = Fields()
        transaction_id = fields.uuid("transaction_id", request.transaction_id)
        fields.check()
        found = await self._points.explain(call.actor.program_id, transaction_id)
        row = found.transaction
        call.touched.append(row.member_id)
        return pb.ExplainResponse(
            transaction=_transaction(row),
            sentences=told(row, found.lots),
            rules=[result_message(result) for result in trace.load(row.trace)],
            lots=[_lot_share(lot, points) for lot, points in found.lots],
        )


def _statement_position(position: Sequence[str]) -> tuple[dict[str, int], tuple[datetime, UUID]]:
    """Where chains ended when the first page was made, and the last row that was shown."""
    occurred_at, transaction_id, bounds = position
    return json.loads(bounds), (datetime.fromisoformat(occurred_at), UUID(transaction_id))


def _here_and_now(request: pb.RedeemRequest, call: Call) -> None:
    """Rules look at store and time, so a member can't choose them: there is no till to vouch for it."""
    chosen = [name for name in ("store", "occur_time", "business_date") if _given(request, name)]
    if chosen:
        raise PermissionDenied(
            "CALLER_NOT_ADMITTED",
            "a member redeems now and in no store",
            {"method": call.method, "fields": ",".join(chosen)},
        )


def _given(request: pb.RedeemRequest, name: str) -> bool:
    return any(field.name == name for field, _ in request.ListFields())


def _earned(outcome: Outcome, token: str) -> dict[str, Any]:
    return {
        "event_id": str(outcome.event_id),
        "member_id": str(outcome.member_id),
        "awards": [
            pb.Award(transaction_id=str(a.transaction_id), point_type=a.point_type, points=a.points)
            for a in outcome.awards
        ],
        "points": outcome.points,
        "balance": outcome.balance,
        "pending": outcome.pending,
        "tier": outcome.tier,
        "tier_raised": outcome.tier_raised,
        "version": outcome.version,
        "consistency_token": token,
        "shared_points": outcome.shared,
    }


def _redeemed(outcome: Outcome, token: str) -> pb.RedeemResponse:
    return pb.RedeemResponse(
        event_id=str(outcome.event_id),
        member_id=str(outcome.member_id),
        transaction_id=str(outcome.awards[0].transaction_id),
        point_type=outcome.point_type,
        points=outcome.points,
        value=None if outcome.value is None else money(outcome.currency, outcome.value),
        balance=outcome.balance,
        version=outcome.version,
        consistency_token=token,
        spender_id="" if outcome.spender_id is None else str(outcome.spender_id),
    )


def _transaction(row: Transaction) -> pb.Transaction:
    message = pb.Transaction(
        transaction_id=str(row.transaction_id),
        member_id=str(row.member_id),
        point_type=row.point_type,
        sequence=row.sequence,
        kind=KINDS[row.kind],
        points=row.points,
        debit_account=row.debit_account,
        credit_account=row.credit_account,
        balance_after=row.balance_after,
        event_id=str(row.event_id),
        event_type=row.event_type,
        order_reference=row.order_reference,
        store=row.store,
        channel=row.channel,
        source_system=row.source_system,
        actor=row.actor,
        reason=row.reason,
    )
    message.occur_time.FromDatetime(row.occurred_at)
    message.record_time.FromDatetime(row.recorded_at)
    return message


def _receipt(found: Receipt) -> pb.RecordedOrder:
    key = found.key
    day = key.business_date
    return pb.RecordedOrder(
        event_id=str(found.event_id),
        member_id=str(found.member_id),
        action=key.action,
        order_reference=key.reference,
        store=key.store,
        business_date=date_pb2.Date(year=day.year, month=day.month, day=day.day),
        part=key.part,
        source_system=key.source_system,
        transactions=[_transaction(row) for row in found.transactions],
    )


def _lot_share(lot: Lot, points: int) -> pb.LotShare:
    message = pb.LotShare(lot_id=str(lot.lot_id), points=points)
    if lot.expires_at is not None:
        message.expire_time.FromDatetime(lot.expires_at)
    return message
