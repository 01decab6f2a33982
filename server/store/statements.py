"""Statements: a member's rows by business time, and what the rows before and up to them add up to.

``bounds`` are sequences, by point type: rows beyond them were recorded after the first page.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from server.domain.ledger import Account, Kind, Transaction, Wallet
from server.domain.proof import figures
from server.store.database import Connection
from server.store.ledger import TRANSACTION_COLUMNS, transaction

Position = tuple[datetime, UUID]  # when a row happened, and its id

OWN = """FROM ledger_transaction JOIN unnest($3::text[], $4::bigint[]) AS bound(point_type, last)
                                      USING (point_type)
        WHERE program_id = $1 AND member_id = $2 AND sequence <= last"""


async def bounds(connection: Connection, program_id: UUID, member_id: UUID) -> dict[str, int]:
    """Where the member's chains end now."""
    rows = await connection.fetch(
        "SELECT point_type, sequence FROM wallet WHERE program_id = $1 AND member_id = $2",
        program_id,
        member_id,
    )
    return {row[0]: row[1] for row in rows}


async def figures_at(
    connection: Connection,
    program_id: UUID,
    member_id: UUID,
    bounds: Mapping[str, int],
    moment: datetime,
) -> dict[str, Wallet]:
    """What the rows that happened before ``moment`` add up to; wallets without any are absent."""
    sums: dict[str, Counter[str]] = {}
    for point_type, kind, debit, credit, points in await connection.fetch(
        f"""SELECT point_type, kind, debit_account, credit_account, sum(points)::bigint
              {OWN} AND occurred_at < $5
             GROUP BY 1, 2, 3, 4""",
        program_id,
        member_id,
        list(bounds),
        list(bounds.values()),
        moment,
    ):
        own = sums.setdefault(point_type, Counter())
        for figure, change in figures(Kind(kind), Account(debit), Account(credit), points).items():
            own[figure] += change
    return {point_type: wallet_of(point_type, own) for point_type, own in sums.items()}


def wallet_of(point_type: str, sums: Counter[str]) -> Wallet:
    """A wallet with these figures; of no chain."""
    return Wallet(point_type, sums["balance"], sums["pending"], sums["held"], sums["debt"], sums["lifetime"])


async def rows_between(
    connection: Connection,
    program_id: UUID,
    member_id: UUID,
    bounds: Mapping[str, int],
    since: datetime,
    until: datetime,
    after: Position | None,
    limit: int,
) -> list[Transaction]:
    """The rows that happened from ``since`` until before ``until``, by business time, after a position."""
    occurred_at, transaction_id = after or (since, UUID(int=0))
    rows = await connection.fetch(
        f"""SELECT {TRANSACTION_COLUMNS}
              {OWN} AND occurred_at >= $5 AND occurred_at < $6 AND (occurred_at, transaction_id) > ($7, $8)
             ORDER BY occurred_at, transaction_id LIMIT $9""",
        program_id,
        member_id,
        list(bounds),
        list(bounds.values()),
        since,
        until,
        occurred_at,
        transaction_id,
        limit,
    )
    return [transaction(row) for row in rows]
