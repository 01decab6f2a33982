"""Wallets, lots and transactions: what a member owns, and the rows that move it.

Named tuples, because every purchase makes several; fields stand in the order of the
tables' columns.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
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


class Account(StrEnum):
    """Where points come from and go to: the parts of a wallet, and the program's side."""

    WALLET_BALANCE = "wallet.balance"
    PROGRAM_ISSUANCE = "program.issuance"
    PROGRAM_REDEMPTION = "program.redemption"


class Wallet(NamedTuple):
    """What a member holds of one point type, and the end of its chain."""

    point_type: str
    balance: int = 0
    pending: int = 0
    held: int = 0
    debt: int = 0
    lifetime: int = 0
    sequence: int = 0
    head_hash: bytes = GENESIS


class Lot(NamedTuple):
    """What one earn created: spent in order of expiry, those without expiry last, ties by age."""

    lot_id: UUID
    point_type: str
    transaction_id: UUID
    points: int
    remaining: int
    active: bool = True
    activates_at: datetime | None = None
    expires_at: datetime | None = None


class Allocation(NamedTuple):
    """How much of a transaction came from one lot."""

    lot_id: UUID
    points: int


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
    """A transaction with the lots it created or drew from, and the wallet after it."""

    transaction: Transaction
    wallet: Wallet
    created: tuple[Lot, ...] = ()
    allocations: tuple[Allocation, ...] = ()
    drawn: tuple[Lot, ...] = ()  # the lots of the allocations, as they are afterwards


def credited(wallet: Wallet, points: int) -> Wallet:
    """The wallet after an earn. Refused where it would leave its range."""
    if wallet.balance + points > MAX_WALLET or wallet.lifetime + points > MAX_WALLET:
        raise FailedPrecondition(
            "WALLET_LIMIT", "the wallet can't hold that many points", {"point_type": wallet.point_type}
        )
    return wallet._replace(
        balance=wallet.balance + points,
        lifetime=wallet.lifetime + points,
        sequence=wallet.sequence + 1,
    )


def debited(wallet: Wallet, points: int) -> Wallet:
    """The wallet after a redemption. Refused, saying by how much, where the balance is too small."""
    if wallet.balance < points:
        raise FailedPrecondition(
            "INSUFFICIENT_POINTS",
            f"the balance is {wallet.balance}: {points - wallet.balance} too few to redeem {points}",
            {
                "point_type": wallet.point_type,
                "balance": str(wallet.balance),
                "requested": str(points),
                "missing": str(points - wallet.balance),
            },
        )
    return wallet._replace(balance=wallet.balance - points, sequence=wallet.sequence + 1)


def spending_order(lot: Lot) -> tuple[bool, float, int]:
    """Sort key: the soonest to expire first, those without expiry last, ties by age."""
    never = lot.expires_at is None
    return never, 0.0 if lot.expires_at is None else lot.expires_at.timestamp(), lot.lot_id.int


def allocate(lots: Sequence[Lot], points: int) -> tuple[tuple[Allocation, ...], tuple[Lot, ...]]:
    """Take ``points`` from active lots in spending order: the shares, and the lots as they are then.

    The lots must hold enough: a wallet whose balance suffices and whose lots don't is
    corrupt, and nothing is paid from it.
    """
    allocations, drawn, missing = [], [], points
    for lot in sorted(lots, key=spending_order):
        if not lot.active or lot.remaining == 0:
            continue
        share = min(lot.remaining, missing)
        allocations.append(Allocation(lot.lot_id, share))
        drawn.append(lot._replace(remaining=lot.remaining - share))
        missing -= share
        if missing == 0:
            return tuple(allocations), tuple(drawn)
    raise AssertionError(f"the balance covers {points} points, the lots lack {missing} of them")
