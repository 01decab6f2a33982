"""Wallets, lots and transactions: what a member owns, and the rows that move it.

Named tuples, because every purchase makes several; fields stand in the order of the
tables' columns.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from server.domain.errors import FailedPrecondition

MAX_POINTS = 10**12  # in one command; a wallet holds a million times as many
MAX_WALLET = 10**18
GENESIS = bytes(32)  # the hash before the first row of a chain


class Kind(StrEnum):
    """What a transaction does."""

    EARN = "EARN"
    REDEEM = "REDEEM"
    ACTIVATE = "ACTIVATE"
    EXPIRE = "EXPIRE"
    HOLD = "HOLD"
    RELEASE = "RELEASE"
    CAPTURE = "CAPTURE"
    SETTLE = "SETTLE"
    REVERSE_EARN = "REVERSE_EARN"
    REVERSE_REDEEM = "REVERSE_REDEEM"
    ADJUST = "ADJUST"
    TRANSFER_OUT = "TRANSFER_OUT"
    TRANSFER_IN = "TRANSFER_IN"


class Account(StrEnum):
    """Where points come from and go to: the parts of a wallet, and the program's side.

    A wallet's figures follow from the accounts of its rows alone. A debt is the mirror of
    the others: what is credited to it makes it smaller.
    """

    WALLET_BALANCE = "wallet.balance"
    WALLET_PENDING = "wallet.pending"
    WALLET_HELD = "wallet.held"
    WALLET_DEBT = "wallet.debt"
    PROGRAM_ISSUANCE = "program.issuance"
    PROGRAM_REDEMPTION = "program.redemption"
    PROGRAM_BREAKAGE = "program.breakage"
    PROGRAM_ADJUSTMENT = "program.adjustment"
    PROGRAM_TRANSFER = "program.transfer"
    PROGRAM_SHORTFALL = "program.shortfall"  # points that a return should have taken back and could not


# What crediting one point does to a wallet's balance, pending, held and debt; debiting does the opposite.
CREDITED: Mapping[Account, tuple[int, int, int, int]] = MappingProxyType(
    {
        Account.WALLET_BALANCE: (1, 0, 0, 0),
        Account.WALLET_PENDING: (0, 1, 0, 0),
        Account.WALLET_HELD: (0, 0, 1, 0),
        Account.WALLET_DEBT: (0, 0, 0, -1),
    }
)
ELSEWHERE = (0, 0, 0, 0)
# What one point of a row does to the lifetime that tiers look at.
LIFETIME: Mapping[Kind, int] = MappingProxyType({Kind.EARN: 1, Kind.REVERSE_EARN: -1})


class Wallet(NamedTuple):
    """What a member holds of one point type, and the end of its chain.

    ``next_due``: nothing in it activates, expires or is released before; None if nothing ever will.
    ``active_at``: the latest earning or spending, from which rolling expiry counts.
    """

    point_type: str
    balance: int = 0
    pending: int = 0
    held: int = 0
    debt: int = 0
    lifetime: int = 0
    sequence: int = 0
    head_hash: bytes = GENESIS
    next_due: datetime | None = None
    active_at: datetime | None = None


class Lot(NamedTuple):
    """Points that came in together. ``remaining`` includes what is ``held``.

    Not ``active`` while its points are pending: until ``activates_at``, or until the member
    submits an event of the type ``activates_on``. It expires at ``expires_at``, or ``rolling_days``
    after the wallet's last activity, or never.
    """

    lot_id: UUID
    point_type: str
    transaction_id: UUID
    points: int
    remaining: int
    active: bool = True
    activates_at: datetime | None = None
    expires_at: datetime | None = None
    held: int = 0
    activates_on: str = ""
    rolling_days: int | None = None


class Allocation(NamedTuple):
    """How much of a transaction came from, or went into, one lot that was there before."""

    lot_id: UUID
    points: int


class HoldStatus(StrEnum):
    """Whether a hold still reserves points, and how it ended."""

    OPEN = "open"
    CAPTURED = "captured"
    VOIDED = "voided"
    EXPIRED = "expired"


class Hold(NamedTuple):
    """Points reserved for a payment. ``open_points`` are still reserved, in the lots of ``shares``.

    ``spender_id``: for which member a household's pool is to pay.
    """

    hold_id: UUID
    point_type: str
    points: int
    open_points: int
    captured: int
    status: HoldStatus
    expires_at: datetime
    shares: tuple[Allocation, ...]
    spender_id: UUID | None = None


class Transaction(NamedTuple):
    """One immutable row: who, what, when, why, and its link in the wallet's chain."""

    program_id: UUID
    member_id: UUID
    transaction_id: UUID
    point_type: str
    sequence: int
    kind: Kind
    points: int
    debit_account: Account
    credit_account: Account
    balance_after: int
    occurred_at: datetime
    recorded_at: datetime
    event_id: UUID
    event_type: str
    order_reference: str
    store: str
    channel: str
    source_system: str
    actor: str
    credential_id: UUID
    reason: str
    trace: str  # canonical JSON
    key_id: str
    previous_hash: bytes
    hash: bytes = b""


class Movement(NamedTuple):
    """A transaction with the lots it created or touched, and the wallet after it."""

    transaction: Transaction
    wallet: Wallet
    created: tuple[Lot, ...] = ()
    allocations: tuple[Allocation, ...] = ()
    changed: tuple[Lot, ...] = ()  # lots that were there before, as they are afterwards


def posted(wallet: Wallet, kind: Kind, debit: Account, credit: Account, points: int) -> Wallet:
    """The wallet after a row. Refused where it would leave its range.

    Whoever spends checks first that there is enough (``check_balance``): a figure below zero is a
    fault of ours, and nothing is paid from it.
    """
    point_type, balance, pending, held, debt, lifetime, sequence, head_hash, next_due, active_at = wallet
    to_balance, to_pending, to_held, to_debt = _moved(debit, credit)
    after = Wallet(
        point_type,
        balance + to_balance * points,
        pending + to_pending * points,
        held + to_held * points,
        debt + to_debt * points,
        lifetime + LIFETIME.get(kind, 0) * points,
        sequence + 1,
        head_hash,
        next_due,
        active_at,
    )
    if after.balance + after.pending + after.held > MAX_WALLET or after.lifetime > MAX_WALLET:
        raise FailedPrecondition(
            "WALLET_LIMIT", "the wallet can't hold that many points", {"point_type": wallet.point_type}
        )
    assert min(after.balance, after.pending, after.held, after.debt) >= 0, after
    return after


@cache
def _moved(debit: Account, credit: Account) -> tuple[int, ...]:
    """What a point that goes from one to the other does to balance, pending, held and debt."""
    more, less = CREDITED.get(credit, ELSEWHERE), CREDITED.get(debit, ELSEWHERE)
    return tuple(gain - loss for gain, loss in zip(more, less, strict=True))


def check_balance(wallet: Wallet, points: int, what: str = "redeem") -> None:
    """Refuse, saying by how much, where the balance is too small."""
    if wallet.balance < points:
        raise FailedPrecondition(
            "INSUFFICIENT_POINTS",
            f"the balance is {wallet.balance}: {points - wallet.balance} too few to {what} {points}",
            {
                "point_type": wallet.point_type,
                "balance": str(wallet.balance),
                "requested": str(points),
                "missing": str(points - wallet.balance),
            },
        )
