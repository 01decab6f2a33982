"""A decision while it is being made: rows in the order in which they are added, and what they leave.

Every row goes through ``Draft.move``, so wallets, lots and the chain cannot disagree.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.activity import MemberFacts
from server.domain.books import Books, Changes, MemberState, Terms, rows_of
from server.domain.chain import sealed
from server.domain.commands import Command
from server.domain.errors import NotFound
from server.domain.events import Event, PointsMoved, TierChanged
from server.domain.ledger import (
    Account,
    Allocation,
    Hold,
    Kind,
    Lot,
    Movement,
    Transaction,
    Wallet,
    posted,
)
from server.domain.lots import allocate, due_moments
from server.domain.rules import trace

BALANCE, PENDING = Account.WALLET_BALANCE, Account.WALLET_PENDING
HELD, DEBT = Account.WALLET_HELD, Account.WALLET_DEBT

# What each point that a row allocates does to its lot: to what remains, and to what is held.
ALLOCATED: Mapping[Kind, tuple[int, int]] = MappingProxyType(
    {
        Kind.REDEEM: (-1, 0),
        Kind.EXPIRE: (-1, 0),
        Kind.SETTLE: (-1, 0),
        Kind.ADJUST: (-1, 0),
        Kind.TRANSFER_OUT: (-1, 0),
        Kind.REVERSE_EARN: (-1, 0),
        Kind.CAPTURE: (-1, -1),
        Kind.HOLD: (0, 1),
        Kind.RELEASE: (0, -1),
        Kind.ACTIVATE: (0, 0),
        Kind.REVERSE_REDEEM: (1, 0),
    }
)


class Cause(NamedTuple):
    """Why rows are written: the event that they belong to, and who sent it."""

    event_id: UUID
    event_type: str
    occurred_at: datetime
    order_reference: str
    store: str
    channel: str
    source_system: str
    actor: str
    credential_id: UUID
    reason: str = ""


def caused_by(command: Command, event_id: UUID, occurred_at: datetime) -> Cause:
    """What a command causes."""
    return Cause(
        event_id,
        command.action,
        occurred_at,
        command.reference,
        command.store,
        command.channel,
        command.actor.source_system,
        command.actor.label,
        command.actor.credential_id,
        command.reason,
    )


class Holdings:
    """What one member has, as the draft leaves it. ``overdue``: point types with something already due."""

    __slots__ = ("facts", "holds", "lots", "member_id", "overdue", "state", "wallets")

    def __init__(self, member_id: UUID, state: MemberState) -> None:
        self.member_id = member_id
        self.state = state
        self.facts = state.facts
        self.wallets: dict[str, Wallet] = dict(state.wallets)
        self.lots: dict[UUID, Lot] = dict(state.lots)
        self.holds: dict[UUID, Hold] = dict(state.holds)
        self.overdue: set[str] = set()

    def wallet(self, point_type: str) -> Wallet:
        """The wallet, empty if it was never touched."""
        return self.wallets.get(point_type) or Wallet(point_type)

    def lots_of(self, point_type: str) -> Iterator[Lot]:
        """The lots of a wallet that are known here."""
        return (lot for lot in self.lots.values() if lot.point_type == point_type)

    def allocated(self, point_type: str, points: int) -> tuple[Allocation, ...]:
        """From which lots so many points of the balance are taken."""
        return allocate(self.lots_of(point_type), points, self.wallet(point_type).active_at)

    def touch(self, point_type: str, moment: datetime) -> None:
        """The member did something: rolling lots live on from there."""
        wallet = self.wallet(point_type)
        if wallet.active_at is None or wallet.active_at < moment:
            self.wallets[point_type] = Wallet(*wallet[:-1], active_at=moment)


class Draft:
    """What a command changes. ``cause`` is the command's own; ``members`` are those it concerns."""

    __slots__ = ("_books", "_told", "cause", "changes", "events", "members", "movements", "terms")

    def __init__(self, books: Books, terms: Terms, cause: Cause) -> None:
        self._books = books
        self.terms = terms
        self.cause = cause
        self.members: dict[UUID, Holdings] = {}
        self.movements: list[Movement] = []
        self.events: list[Event] = []
        self.changes = Changes()
        self._told: list[tuple[type[PointsMoved], Holdings, Cause, str, int, Mapping[str, Any]]] = []

    def of(self, member_id: UUID) -> Holdings:
        """What the member has. Raises NotFound."""
        own = self.members.get(member_id)
        if own is None:
            state = self._books.members.get(member_id)
            if state is None:
                raise NotFound("MEMBER_NOT_FOUND", "no such member in this program")
            own = self.members[member_id] = Holdings(member_id, state)
        return own

    def found(self, member_id: UUID, state: MemberState) -> Holdings:
        """Somebody of whom there was nothing before."""
        own = self.members[member_id] = Holdings(member_id, state)
        return own

    def origin(self, lot: Lot) -> UUID:
        """The row that a lot's points came from, before any merge and pool."""
        known = self.changes.origins.get(lot.lot_id) or self._books.origins.get(lot.lot_id)
        return known or lot.transaction_id

    def giver(self, lot: Lot) -> UUID | None:
        """Who gave a pool the lot's points; None for points that nobody gave."""
        return self.changes.givers.get(lot.lot_id) or self._books.givers.get(lot.lot_id)

    def move(
        self,
        own: Holdings,
        point_type: str,
        kind: Kind,
        debit: Account,
        credit: Account,
        points: int,
        why: Mapping[str, object],
        *,
        cause: Cause | None = None,
        transaction_id: UUID | None = None,
        created: tuple[Lot, ...] = (),
        allocations: tuple[Allocation, ...] = (),
    ) -> Transaction:
        """Add a row. ``created`` lots belong to it, ``allocations`` are of lots that are known."""
        cause = cause or self.cause
        before, terms = own.wallet(point_type), self.terms
        after = posted(before, kind, debit, credit, points)
        unsealed = Transaction(
            terms.program.program_id,
            own.member_id,
            transaction_id or terms.new_id(),
            point_type,
            after.sequence,
            kind,
            points,
            debit,
            credit,
            after.balance,
            cause.occurred_at,
            terms.now,
            cause.event_id,
            cause.event_type,
            cause.order_reference,
            cause.store,
            cause.channel,
            cause.source_system,
            cause.actor,
            cause.credential_id,
            cause.reason,
            trace.canonical(why),
            terms.key_id,
            before.head_hash,
        )
        row = sealed(unsealed, created, allocations, terms.key)
        after = after._replace(head_hash=row.hash)
        changed = tuple([_changed(own.lots[share.lot_id], kind, share.points) for share in allocations])
        for lot in (*created, *changed):
            own.lots[lot.lot_id] = lot
            after = self._watched(own, lot, after)
        own.wallets[point_type] = after
        self.movements.append(Movement(row, after, created, allocations, changed))
        return row

    def hold(self, own: Holdings, hold: Hold) -> None:
        """Keep a hold as it is now."""
        own.holds[hold.hold_id] = hold
        self.changes.holds[own.member_id, hold.hold_id] = hold
        wallet = own.wallet(hold.point_type)
        if hold.open_points and (wallet.next_due is None or hold.expires_at < wallet.next_due):
            own.wallets[hold.point_type] = wallet._replace(next_due=hold.expires_at)

    def settle(self, own: Holdings, point_type: str, cause: Cause | None = None) -> None:
        """Pay a debt from what has come into the balance."""
        wallet = own.wallet(point_type)
        points = min(wallet.balance, wallet.debt)
        if points:
            shares = own.allocated(point_type, points)
            self.move(
                own, point_type, Kind.SETTLE, BALANCE, DEBT, points, {}, cause=cause, allocations=shares
            )

    def tell(
        self,
        event: type[PointsMoved],
        own: Holdings,
        point_type: str,
        points: int,
        details: Mapping[str, Any],
        cause: Cause | None = None,
    ) -> None:
        """Log that points moved; the rows of the same cause are named in it, later ones too."""
        self._told.append((event, own, cause or self.cause, point_type, points, details))

    def rows_of(self, own: Holdings, cause: Cause) -> tuple[UUID, ...]:
        """The rows of a member that have this cause."""
        return rows_of(self.movements, own.member_id, cause.event_id)

    def finish(self) -> dict[UUID, MemberState]:
        """The members as they are afterwards. What was told of is written down as things stand in the end."""
        for told in self._told:
            self.events.append(self._event(*told))
        return {member_id: self._finished(own) for member_id, own in self.members.items()}

    def _event(
        self,
        event: type[PointsMoved],
        own: Holdings,
        cause: Cause,
        point_type: str,
        points: int,
        details: Mapping[str, Any],
    ) -> PointsMoved:
        wallet = own.wallet(point_type)
        return event(
            event_id=cause.event_id,
            program_id=self.terms.program.program_id,
            member_id=own.member_id,
            occurred_at=cause.occurred_at,
            recorded_at=self.terms.now,
            point_type=point_type,
            points=points,
            balance=wallet.balance,
            pending=wallet.pending,
            held=wallet.held,
            debt=wallet.debt,
            transaction_ids=self.rows_of(own, cause),
            reference=cause.order_reference,
            store=cause.store,
            channel=cause.channel,
            details=details,
            version=own.state.version + 1,
        )

    def _finished(self, own: Holdings) -> MemberState:
        """The member afterwards. The tier follows the lifetime, up and down."""
        state, facts, program = own.state, own.facts, self.terms.program
        lifetime = own.wallet(program.main_point_type).lifetime + state.inherited
        tier, before = program.tier_at(lifetime).name, facts.tier
        if tier != before:
            self.events.append(
                TierChanged(
                    event_id=self.terms.new_id(),
                    program_id=program.program_id,
                    member_id=own.member_id,
                    occurred_at=self.cause.occurred_at,
                    recorded_at=self.terms.now,
                    before=before,
                    after=tier,
                    lifetime=lifetime,
                )
            )
        return MemberState(
            state.status,
            MemberFacts(tier, facts.joined_at, lifetime, *facts[3:]),
            state.version + 1,
            own.wallets,
            own.lots,
            own.holds,
            state.inherited,
            state.household,
        )

    def _watched(self, own: Holdings, lot: Lot, wallet: Wallet) -> Wallet:
        """The wallet, knowing when the clock will change the lot."""
        if lot.remaining == 0:
            return wallet
        for moment in due_moments(lot, wallet.active_at):
            if moment <= self.terms.now:
                own.overdue.add(lot.point_type)
            elif wallet.next_due is None or moment < wallet.next_due:
                wallet = wallet._replace(next_due=moment)
        return wallet


def _changed(lot: Lot, kind: Kind, points: int) -> Lot:
    remaining, held = ALLOCATED[kind]
    lot = lot._replace(remaining=lot.remaining + remaining * points, held=lot.held + held * points)
    assert 0 <= lot.held <= lot.remaining <= lot.points, lot
    return lot._replace(active=True) if kind is Kind.ACTIVATE else lot
