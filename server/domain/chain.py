"""The chain that makes a wallet's history tamper-evident.

    hash(n) = HMAC-SHA256(key, hash(n-1) || content(n))

``content`` is canonical JSON over every column of the row, the lots it created with
their terms, and its allocations. The key is not in the database (its id stands in the
row), so whoever owns the database can neither change a row nor forge a new one.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from server.domain.canonical_json import canonical
from server.domain.ledger import Allocation, Lot, Transaction

FORMAT = 1  # the first element of every content: how to read the rest
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_text = json.encoder.encode_basestring  # one string as JSON


def content(row: Transaction, created: Sequence[Lot], allocations: Sequence[Allocation]) -> bytes:
    """What is authenticated: the same bytes for the same row, whoever reads it from where."""
    # Canonical JSON by hand, since every row pays for it: identifiers, numbers and names of ours need
    # no quoting, and the trace is canonical JSON already.
    created_terms = [_terms(lot) for lot in sorted(created, key=_by_id)]
    shares = [[a.lot_id.hex, a.points] for a in sorted(allocations)]
    return (
        f'[{FORMAT},"{row.program_id.hex}","{row.member_id.hex}","{row.transaction_id.hex}",'
        f'{_text(row.point_type)},{row.sequence},"{row.kind!s}",{row.points},'
        f'"{row.debit_account!s}","{row.credit_account!s}",{row.balance_after},'
        f'{_microseconds(row.occurred_at)},{_microseconds(row.recorded_at)},"{row.event_id.hex}",'
        f"{_text(row.event_type)},{_text(row.order_reference)},{_text(row.store)},{_text(row.channel)},"
        f'{_text(row.source_system)},{_text(row.actor)},"{row.credential_id.hex}",{_text(row.reason)},'
        f"{row.trace},{_text(row.key_id)},{canonical(created_terms).decode()},{canonical(shares).decode()}]"
    ).encode()


def link(key: bytes, previous_hash: bytes, authenticated: bytes) -> bytes:
    """The hash of a row, 32 bytes."""
    return hmac.digest(key, previous_hash + authenticated, "sha256")


def sealed(
    row: Transaction, created: Sequence[Lot], allocations: Sequence[Allocation], key: bytes
) -> Transaction:
    """The row linked to the chain: with its hash, which stands last."""
    return Transaction(*row[:-1], link(key, row.previous_hash, content(row, created, allocations)))


def fault(
    row: Transaction,
    created: Sequence[Lot],
    allocations: Sequence[Allocation],
    before: Transaction | None,
    keys: Mapping[str, bytes],
) -> str | None:
    """What is wrong with a row that follows ``before`` in its wallet, None if nothing is."""
    sequence = 1 if before is None else before.sequence + 1
    previous_hash = bytes(32) if before is None else before.hash
    if row.sequence != sequence:
        return f"sequence {row.sequence} where {sequence} was due: rows are missing"
    if row.previous_hash != previous_hash:
        return "does not follow the row before it"
    key = keys.get(row.key_id)
    if key is None:
        return f"is sealed with key {row.key_id!r}, which is not among the secrets"
    if not hmac.compare_digest(row.hash, link(key, previous_hash, content(row, created, allocations))):
        return "was changed after it was written, or forged"
    return None


def _by_id(lot: Lot) -> Any:
    return lot.lot_id


def _terms(lot: Lot) -> list[Any]:
    """What a lot was created with. Two elements more if either of them says something."""
    terms = [lot.lot_id.hex, lot.points, _microseconds(lot.activates_at), _microseconds(lot.expires_at)]
    if lot.activates_on or lot.rolling_days is not None:
        return [*terms, lot.activates_on, lot.rolling_days]
    return terms


def _microseconds(moment: datetime | None) -> Any:
    return None if moment is None else (moment - EPOCH) // MICROSECOND
