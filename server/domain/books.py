"""The state that decisions read and change, and the shape of a decision.

``Books`` holds what one batch loaded under its locks. ``apply`` takes an accepted
decision in, so that the next command of the batch sees it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from server.domain.activity import Activity, MemberFacts
from server.domain.commands import Command, Outcome
from server.domain.errors import Refused
from server.domain.events import Event
from server.domain.ledger import Lot, Movement, Wallet
from server.domain.program import Program
from server.domain.rules.compile import RuleSet
from server.domain.rules.evaluation import CapKey


class MemberState(NamedTuple):
    """A member as a decision sees it. ``lots`` are the open ones, loaded only for who spends."""

    status: str
    facts: MemberFacts
    version: int
    wallets: Mapping[str, Wallet] = MappingProxyType({})
    lots: Mapping[UUID, Lot] = MappingProxyType({})

    def wallet(self, point_type: str) -> Wallet:
        """The wallet, empty if it was never touched."""
        return self.wallets.get(point_type) or Wallet(point_type)


class Remembered(NamedTuple):
    """A request that succeeded."""

    digest: bytes
    outcome: Outcome


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Everything that changes when a command is accepted."""

    command: Command
    digest: bytes
    outcome: Outcome
    member: MemberState
    movements: tuple[Movement, ...]
    events: tuple[Event, ...]
    order_key: OrderKey | None
    cap_usage: Mapping[CapKey, int] = field(default_factory=dict)


@dataclass(slots=True)
class Books:
    """What one program's commands need to know, loaded under their locks.

    ``cap_usage`` is by member, then by rule and period: points given so far.
    """

    members: dict[UUID, MemberState] = field(default_factory=dict)
    requests: dict[tuple[str, str], Remembered] = field(default_factory=dict)
    orders: dict[OrderKey, Recorded] = field(default_factory=dict)
    cap_usage: dict[UUID, dict[CapKey, int]] = field(default_factory=dict)

    def apply(self, decision: Decision) -> None:
        """Take an accepted decision in."""
        command, outcome = decision.command, decision.outcome
        self.members[outcome.member_id] = decision.member
        self.requests[command.actor.source_system, command.request_id] = Remembered(decision.digest, outcome)
        if decision.order_key is not None:
            self.orders[decision.order_key] = recorded(decision)
        if decision.cap_usage:
            usage = self.cap_usage.setdefault(outcome.member_id, {})
            for key, points in decision.cap_usage.items():
                usage[key] = usage.get(key, 0) + points


def recorded(decision: Decision) -> Recorded:
    """The order as it goes on record."""
    return Recorded(
        decision.outcome.member_id,
        decision.outcome.event_id,
        tuple(m.transaction.transaction_id for m in decision.movements),
    )
