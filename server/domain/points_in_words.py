"""A row of the ledger in sentences that a support agent can read out."""

from collections.abc import Sequence

from server.domain.ledger import Kind, Lot, Transaction
from server.domain.rules import explain


def told(row: Transaction, lots: Sequence[tuple[Lot, int]]) -> list[str]:
    """What happened, why, and which lots it filled or drew from."""
    return [_happened(row), *explain.sentences(row.trace), *(_lot(row, lot, points) for lot, points in lots)]


def _happened(row: Transaction) -> str:
    where = f" at store {row.store}" if row.store else ""
    what = f" for {row.order_reference}" if row.order_reference else ""
    did = "were earned by" if row.kind is Kind.EARN else "were spent by"
    return (
        f"{row.points} {row.point_type} {did} {row.event_type}{what}{where} on "
        f"{row.occurred_at:%Y-%m-%d at %H:%M} UTC, sent by {row.actor}; "
        f"the balance was {row.balance_after} afterwards."
    )


def _lot(row: Transaction, lot: Lot, points: int) -> str:
    until = "they never expire" if lot.expires_at is None else f"they expire on {lot.expires_at:%Y-%m-%d}"
    if row.kind is Kind.EARN:
        return f"{points} of them make up one lot; {until}; {lot.remaining} are left."
    return (
        f"{points} came out of the lot of transaction {lot.transaction_id}, where {lot.remaining} are left."
    )
