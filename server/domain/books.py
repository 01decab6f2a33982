"""The state that decisions read and change, and the shape of a decision.

``Books`` holds what one batch loaded under its locks. ``apply`` takes an accepted
decision in, so that the next command of the batch sees it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from server.domain.activity import Activity, MemberFacts
from server.domain.adjustments import Adjustment
from server.domain.commands import Command, Outcome
from server.domain.errors import Refused
from server.domain.events import Event, PointsEarned
from server.domain.households import Household, Invitation, Seat
from server.domain.ledger import Hold, Lot, Movement, Wallet
from server.domain.members import Consent
from server.domain.past import Purchase, Spent, purchase_of
from server.domain.program import Program
from server.domain.records import record
from server.domain.reviews import PutAside, Review
from server.domain.rules.compile import RuleSet
from server.domain.rules.evaluation import CapKey


class MemberState(NamedTuple):
    """A member as a decision sees it, or the pool of a household, which is no person.

    ``lots`` and ``holds`` are those that the decision may touch; of a wallet in which something has
    fallen due, all that are open. ``inherited`` is the lifetime of members merged into this one.
    """

    status: str
    facts: MemberFacts
    version: int
    wallets: Mapping[str, Wallet] = MappingProxyType({})
    lots: Mapping[UUID, Lot] = MappingProxyType({})
    holds: Mapping[UUID, Hold] = MappingProxyType({})
    inherited: int = 0
    household: bool = False

    def wallet(self, point_type: str) -> Wallet:
        """The wallet, empty if it was never touched."""
        return self.wallets.get(point_type) or Wallet(point_type)


class Remembered(NamedTuple):
    """A request that succeeded. ``outcome``: None if it was none that moves points."""

    digest: bytes
    outcome: Outcome | None


class OrderKey(NamedTuple):
    """The business key within a program and source system: permanent, whatever the request_id."""

    source_system: str
    store: str
    business_date: date
    reference: str
    action: str
    part: str


class Recorded(NamedTuple):
    """What an order was recorded as."""

    member_id: UUID
    event_id: UUID
    transaction_ids: tuple[UUID, ...]


class Prepared(NamedTuple):
    """A command with what follows from it and the program alone: the same for every look at it.

    ``key`` is None if it names no order. ``refusal`` is why it can't be done whatever the
    state is; ``key`` and ``activity`` are None then.
    """

    command: Command
    digest: bytes
    key: OrderKey | None
    activity: Activity | None
    refusal: Refused | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a decision obeys: the program, its rules in force, the time, new ids, the ledger's key."""

    program: Program
    rules: RuleSet
    revision: int
    now: datetime
    new_id: Callable[[], UUID]
    key_id: str
    key: bytes


@dataclass(slots=True)
class Changes:
    """What a decision changes beside members, wallets and lots.

    ``cap_usage``: points to add to a member's counters, or to give back. ``holds``: as they are
    afterwards, by member. ``returned``: units that came back, by purchase and line. ``refunded``: points,
    by row. ``adjustments``: as they are afterwards. ``merged``: members who end, and who lives on.
    ``consents``: decisions to add, by member. ``households``, ``seats``, ``invitations``: as they are
    afterwards. ``origins``, ``givers``: of lots that were handed on, as in the books. ``reviews``: as they
    are afterwards. ``answered``: requests that are remembered as this one is, by source system and
    request_id, each with its digest.
    """

    cap_usage: dict[tuple[UUID, CapKey], int] = field(default_factory=dict)
    holds: dict[tuple[UUID, UUID], Hold] = field(default_factory=dict)
    returned: dict[tuple[UUID, UUID, str], int] = field(default_factory=dict)
    refunded: dict[tuple[UUID, UUID], int] = field(default_factory=dict)
    adjustments: dict[UUID, Adjustment] = field(default_factory=dict)
    merged: dict[UUID, UUID] = field(default_factory=dict)
    consents: list[tuple[UUID, Consent]] = field(default_factory=list)
    households: dict[UUID, Household] = field(default_factory=dict)
    seats: dict[UUID, Seat] = field(default_factory=dict)
    invitations: dict[UUID, Invitation] = field(default_factory=dict)
    origins: dict[UUID, UUID] = field(default_factory=dict)
    givers: dict[UUID, UUID] = field(default_factory=dict)
    reviews: dict[UUID, Review] = field(default_factory=dict)
    answered: dict[tuple[str, str], bytes] = field(default_factory=dict)


@record
class Effects:
    """What changes in the books, whoever caused it: ``members`` as they are afterwards, and how."""

    members: Mapping[UUID, MemberState]
    movements: tuple[Movement, ...]
    events: tuple[Event, ...]
    changes: Changes


@record
class Decision(Effects):
    """Everything that changes when a command is accepted.

    ``order``: as it goes on record, None if the command names none.
    """

    command: Command
    digest: bytes
    outcome: Outcome
    order: tuple[OrderKey, Recorded] | None

    def requests(self) -> Iterator[tuple[tuple[str, str], bytes]]:
        """The requests that get this outcome when they come again, by source system and request_id."""
        if self.command.remembered:
            yield (self.command.actor.source_system, self.command.request_id), self.digest
        yield from self.changes.answered.items()


@dataclass(slots=True)
class Books:
    """What one program's commands need to know, loaded under their locks.

    ``cap_usage`` is by member, then by rule and period: points given so far. ``purchases``, ``spent``
    and ``adjustments`` are those that returns, refunds and approvals may concern. ``returning``: members
    whose returns name no purchase, so that what they buy meanwhile counts too.
    ``consents`` are in force, by member and purpose. ``origins``: of lots that came by merges or went
    through a pool, the row that their points came from; ``givers``: of lots in a pool, who gave them.
    ``seats``: by member, of those who matter, and all of households that are named. ``households`` and
    ``invitations`` are those that are named. ``put_aside``: entries by source system and
    request_id; ``pending_reviews``: how many wait, by credential.
    """

    members: dict[UUID, MemberState] = field(default_factory=dict)
    requests: dict[tuple[str, str], Remembered] = field(default_factory=dict)
    orders: dict[OrderKey, Recorded] = field(default_factory=dict)
    cap_usage: dict[UUID, dict[CapKey, int]] = field(default_factory=dict)
    purchases: dict[UUID, Purchase] = field(default_factory=dict)
    spent: dict[UUID, Spent] = field(default_factory=dict)
    returning: set[UUID] = field(default_factory=set)
    adjustments: dict[UUID, Adjustment] = field(default_factory=dict)
    consents: dict[UUID, Mapping[str, Consent]] = field(default_factory=dict)
    origins: dict[UUID, UUID] = field(default_factory=dict)
    givers: dict[UUID, UUID] = field(default_factory=dict)
    seats: dict[UUID, Seat] = field(default_factory=dict)
    households: dict[UUID, Household] = field(default_factory=dict)
    invitations: dict[UUID, Invitation] = field(default_factory=dict)
    reviews: dict[UUID, Review] = field(default_factory=dict)
    put_aside: dict[tuple[str, str], Review] = field(default_factory=dict)
    pending_reviews: dict[UUID, int] = field(default_factory=dict)

    def apply(self, decision: Decision) -> None:
        """Take an accepted decision in."""
        command, changes = decision.command, decision.changes
        self.members.update(decision.members)
        for request, digest in decision.requests():
            self.requests[request] = Remembered(digest, decision.outcome)
        if decision.order is not None:
            order_key, recorded = decision.order
            self.orders[order_key] = recorded
        for (member_id, key), points in changes.cap_usage.items():
            usage = self.cap_usage.setdefault(member_id, {})
            usage[key] = usage.get(key, 0) + points
        if command.member_id in self.returning:
            self._remember_purchases(decision)
        for (_, event_id, line_id), units in changes.returned.items():
            self.purchases[event_id] = self.purchases[event_id].with_returned(line_id, units)
        for (_, transaction_id), points in changes.refunded.items():
            spent = self.spent[transaction_id]
            self.spent[transaction_id] = spent._replace(refunded=spent.refunded + points)
        self.adjustments.update(changes.adjustments)
        self.origins.update(changes.origins)
        self.givers.update(changes.givers)
        self._reseat(changes)
        self.reviews.update(changes.reviews)
        if isinstance(command, PutAside):
            self._remember_entries(changes.reviews.values())

    def _reseat(self, changes: Changes) -> None:
        self.households.update(changes.households)
        self.invitations.update(changes.invitations)
        for seat in changes.seats.values():
            if seat.left_at is None:
                self.seats[seat.member_id] = seat
            else:
                self.seats.pop(seat.member_id, None)

    def _remember_entries(self, reviews: Iterable[Review]) -> None:
        for review in reviews:
            self.put_aside[review.source_system, review.request_id] = review
            waiting = self.pending_reviews.get(review.credential_id, 0)
            self.pending_reviews[review.credential_id] = waiting + 1

    def _remember_purchases(self, decision: Decision) -> None:
        rows = [movement.transaction for movement in decision.movements]
        for event in decision.events:
            if isinstance(event, PointsEarned):
                self.purchases[event.event_id] = purchase_of(event, rows)


def rows_of(movements: Iterable[Movement], member_id: UUID, event_id: UUID) -> tuple[UUID, ...]:
    """The rows of a member that an event caused."""
    rows = [movement.transaction for movement in movements]
    return tuple(
        [row.transaction_id for row in rows if row.event_id == event_id and row.member_id == member_id]
    )
