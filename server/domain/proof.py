"""What must hold of the ledger, and what is found wrong with it.

A wallet's rows are taken in one by one, so a chain of any length is checked in little
memory. Only the first bad row of a wallet is named: what follows it is bad because of it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from server.domain.chain import fault
from server.domain.ledger import Account, Allocation, Kind, Lot, Transaction, Wallet


class Check(StrEnum):
    """Something that must hold, in words."""

    CHAIN = "each row is authentic and follows the one before it"
    RUNNING = "each row's balance is the sum of the rows up to it"
    HEAD = "each wallet points at the last of its rows"
    FIGURES = "each wallet's figures are the sums of its rows"
    ACTIVITIES = "each earning's activity is in the event log as it was"
    WALLETS = "each wallet has rows"
    WALLET_LOTS = "lots hold what their wallets say"
    DEBTS = "no wallet has points to spend beside a debt"
    HOLDS = "open holds reserve what their wallets say is held"
    HELD = "each hold is what its rows have made of it"
    EARNED_LOTS = "what brings points in created lots of them, and nothing else did"
    DRAWN_LOTS = "what each lot lacks and holds was allocated"
    ALLOCATIONS = "what moves points of lots says of which lots"
    TOTALS = "issued + adjusted = outstanding + redeemed + expired + reversed"
    TRANSFERS = "what was transferred out came in, per program and point type"
    ORDERS = "each order's transactions exist"
    ORDERED = "each transaction of an order is recorded under it"
    EVENTS = "each event's transactions exist"
    LOGGED = "each transaction is in the event log"
    MEMBERS = "each row and order is an existing member's"
    SEATS = "who sits in a household is there, and each has a pool and, until it is dissolved, one head"
    REFUNDED = "what is noted as refunded was given back, and no more than was spent"
    RETURNED = "what is noted as back came back"
    DUE = "no wallet waits longer than until the clock changes it"
    ACTIVE = "each wallet was last active when its rows say"
    ACTIVE_LOTS = "each lot can be spent, or waits, as its rows say"
    ADJUSTMENTS = "each adjustment is what was asked for and decided"
    CAPS = "what caps have counted is what rules gave and returns gave back"
    COUNTED = "what members bought and took over by merges is what is recorded"
    REQUESTS = "what requests are answered with is in the ledger"
    REMEMBERED = "what somebody asked for is remembered by its request"
    GUARDS = "triggers refuse what nobody may change"
    CHECKPOINT_FILE = "each checkpoint is signed and follows the one before it"
    CHECKPOINTS = "each end of a chain in the checkpoints is in the ledger"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong and where; a place is as exact as the check can tell."""

    check: Check
    problem: str
    program_id: UUID | None = None
    member_id: UUID | None = None
    point_type: str | None = None
    sequence: int | None = None
    transaction_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands."""

    program_id: UUID
    member_id: UUID
    point_type: str
    sequence: int
    transaction_id: UUID

    def finding(self, check: Check, problem: str) -> Finding:
        """Something wrong here."""
        return Finding(
            check,
            problem,
            self.program_id,
            self.member_id,
            self.point_type,
            self.sequence,
            self.transaction_id,
        )


class Vouched(NamedTuple):
    """Digests of the activity that earned a row: what its trace says, and what the event log has now."""

    said: str
    logged: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A row as it was read; ``row`` is None if it holds what no server writes.

    ``activity`` is None where the row's trace vouches for none.
    """

    place: Place
    row: Transaction | None
    created: Sequence[Lot] = ()
    allocations: Sequence[Allocation] = ()
    activity: Vouched | None = None


# What a point that a row allocates does to its lot: to what remains of it, and to what is held. Said
# here once more, apart from the arithmetic that writes: a slip there is found here.
ALLOCATED: Mapping[Kind, tuple[int, int]] = MappingProxyType(
    {
        Kind.REDEEM: (-1, 0),
        Kind.EXPIRE: (-1, 0),
        Kind.SETTLE: (-1, 0),
        Kind.REVERSE_EARN: (-1, 0),
        Kind.TRANSFER_OUT: (-1, 0),
        Kind.ADJUST: (-1, 0),  # one that takes out; one that puts in creates a lot
        Kind.REVERSE_REDEEM: (1, 0),
        Kind.HOLD: (0, 1),
        Kind.RELEASE: (0, -1),
        Kind.CAPTURE: (-1, -1),
        Kind.ACTIVATE: (0, 0),
    }
)
# The figure of a wallet that an account is, and what one point credited to it does; debited, the opposite.
FIGURES: Mapping[Account, tuple[str, int]] = MappingProxyType(
    {
        Account.WALLET_BALANCE: ("balance", 1),
        Account.WALLET_PENDING: ("pending", 1),
        Account.WALLET_HELD: ("held", 1),
        Account.WALLET_DEBT: ("debt", -1),
    }
)
LIFETIME: Mapping[Kind, int] = MappingProxyType({Kind.EARN: 1, Kind.REVERSE_EARN: -1})


def figures(kind: Kind, debit_account: Account, credit_account: Account, points: int) -> Counter[str]:
    """What a row does to its wallet's figures, by name."""
    moved: Counter[str] = Counter()
    for account, direction in ((credit_account, 1), (debit_account, -1)):
        if account in FIGURES:
            figure, sign = FIGURES[account]
            moved[figure] += direction * sign * points
    if kind in LIFETIME:
        moved["lifetime"] += LIFETIME[kind] * points
    return moved


@dataclass(slots=True)
class History:
    """One wallet's rows so far, and the sums they should have led to.

    It may begin behind a row that is trusted: ``before``, its place in ``last``, and the
    sums up to there.
    """

    keys: Mapping[str, bytes]
    before: Transaction | None = None
    last: Place | None = None
    sums: Counter[str] = field(default_factory=Counter)
    broken: set[Check] = field(default_factory=set)

    def take(self, entry: Entry) -> Iterator[Finding]:
        """Take the next row in, by sequence."""
        self.last = entry.place
        row = entry.row
        if row is None:
            yield from self._first(Check.CHAIN, entry.place, "holds what no server writes")
            self.broken |= {Check.CHAIN, Check.RUNNING}
            return
        if Check.CHAIN not in self.broken:
            problem = self._fault(row, entry)
            if problem is not None:
                yield from self._first(Check.CHAIN, entry.place, problem)
        if entry.activity is not None and entry.activity.said != entry.activity.logged:
            yield entry.place.finding(
                Check.ACTIVITIES, f"event {row.event_id} does not tell of what earned it any more"
            )
        self.before = row
        for figure, points in figures(row.kind, row.debit_account, row.credit_account, row.points).items():
            self.sums[figure] += points
        if row.balance_after != self.sums["balance"]:
            yield from self._first(
                Check.RUNNING,
                entry.place,
                f"says the balance was {row.balance_after} after it; the rows say {self.sums['balance']}",
            )

    def close(self, wallet: Wallet | None) -> Iterator[Finding]:
        """Compare the wallet with its rows, all of which were taken in."""
        assert self.last is not None
        if wallet is None:
            yield self.last.finding(Check.HEAD, "is the last of rows without a wallet")
            return
        if wallet.sequence != self.last.sequence:
            yield self.last.finding(
                Check.HEAD, f"is the last row, the wallet points at sequence {wallet.sequence}"
            )
        elif self.before is None or wallet.head_hash != self.before.hash:
            yield self.last.finding(Check.HEAD, "is the last row, the wallet points at another hash")
        for figure in ("balance", "pending", "held", "debt", "lifetime"):
            said = getattr(wallet, figure)
            if said != self.sums[figure]:
                yield self.last.finding(
                    Check.FIGURES, f"the wallet's {figure} is {said}; its rows sum to {self.sums[figure]}"
                )

    def _fault(self, row: Transaction, entry: Entry) -> str | None:
        try:
            return fault(row, entry.created, entry.allocations, self.before, self.keys)
        except (TypeError, ValueError, OverflowError):
            # Such as a time of "infinity": it has no canonical content, so nobody sealed it.
            return "holds what no server writes"

    def _first(self, check: Check, place: Place, problem: str) -> Iterator[Finding]:
        if check not in self.broken:
            self.broken.add(check)
            yield place.finding(check, problem)
