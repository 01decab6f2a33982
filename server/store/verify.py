"""What `laurel verify` reads: chains in batches, and the identities between tables.

Everything is read from one snapshot, so a shop that goes on selling disturbs nothing.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from server.domain.ledger import Allocation, Lot, Wallet
from server.domain.proof import Check, Entry, Finding, Place
from server.store.database import Connection, Database
from server.store.identities import IDENTITIES, SCOPE
from server.store.ledger import LOT_COLUMNS, TRANSACTION_COLUMNS, transaction

ROWS_AT_ONCE = 2000
PATIENCE_SECONDS = 24 * 3600.0  # a large ledger takes its time; the pool's limits are those of a purchase

WalletKey = tuple[UUID, UUID, str]  # program, member, point type
RowKey = tuple[UUID, UUID, UUID]  # program, member, transaction


@asynccontextmanager
async def snapshot(database: Database) -> AsyncIterator[Connection]:
    """A connection that sees one moment, changes nothing and may take its time."""
    async with (
        database.connection() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield connection


async def counts(connection: Connection, program_id: UUID | None) -> dict[str, int]:
    """How many there are of everything that is checked."""
    row = await connection.fetchrow(
        f"""{SCOPE} SELECT (SELECT count(*) FROM entry) AS rows,
                           (SELECT count(*) FROM purse) AS wallets,
                           (SELECT count(*) FROM batch) AS lots,
                           (SELECT count(*) FROM entry WHERE kind = 'EARN') AS earns,
                           (SELECT count(*) FROM entry WHERE kind = 'REDEEM') AS redemptions,
                           (SELECT count(DISTINCT (program_id, point_type)) FROM purse) AS totals,
                           (SELECT count(*) FROM receipt) AS orders,
                           (SELECT count(*) FROM entry WHERE order_reference <> '') AS ordered,
                           (SELECT count(*) FROM logged) AS events,
                           (SELECT count(*) FROM usage) AS caps""",
        program_id,
        timeout=PATIENCE_SECONDS,
    )
    return dict(row) if row is not None else {}


async def chains(connection: Connection, program_id: UUID | None) -> AsyncIterator[list[Entry]]:
    """All rows, wallet by wallet in order of sequence, some at a time; a wallet may span several batches."""
    cursor = await connection.cursor(
        f"""SELECT {TRANSACTION_COLUMNS} FROM ledger_transaction
             WHERE $1::uuid IS NULL OR program_id = $1
             ORDER BY program_id, member_id, point_type, sequence""",
        program_id,
        timeout=PATIENCE_SECONDS,
    )
    while rows := await cursor.fetch(ROWS_AT_ONCE, timeout=PATIENCE_SECONDS):
        keys = [(r["program_id"], r["member_id"], r["transaction_id"]) for r in rows]
        created = await _created(connection, keys)
        allocations = await _allocations(connection, keys)
        yield [
            _entry(row, created.get(key, []), allocations.get(key, []))
            for row, key in zip(rows, keys, strict=True)
        ]


def _entry(row: Any, created: Sequence[Lot], allocations: Sequence[Allocation]) -> Entry:
    place = Place(
        row["program_id"], row["member_id"], row["point_type"], row["sequence"], row["transaction_id"]
    )
    try:
        read = transaction(row)
    except ValueError:  # a kind or an account that there isn't
        read = None
    return Entry(place, read, created, allocations)


async def _created(connection: Connection, keys: Sequence[RowKey]) -> dict[RowKey, list[Lot]]:
    rows = await connection.fetch(
        f"""SELECT program_id, member_id, {LOT_COLUMNS}
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS wanted(program_id, member_id, transaction_id)
             JOIN lot USING (program_id, member_id, transaction_id)""",
        *_columns(keys),
        timeout=PATIENCE_SECONDS,
    )
    created: dict[RowKey, list[Lot]] = {}
    for r in rows:
        created.setdefault((r[0], r[1], r[4]), []).append(Lot(*r[2:]))
    return created


async def _allocations(connection: Connection, keys: Sequence[RowKey]) -> dict[RowKey, list[Allocation]]:
    rows = await connection.fetch(
        """SELECT program_id, member_id, transaction_id, lot_id, points
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS wanted(program_id, member_id, transaction_id)
             JOIN allocation USING (program_id, member_id, transaction_id)""",
        *_columns(keys),
        timeout=PATIENCE_SECONDS,
    )
    allocations: dict[RowKey, list[Allocation]] = {}
    for r in rows:
        allocations.setdefault((r[0], r[1], r[2]), []).append(Allocation(r[3], r[4]))
    return allocations


def _columns(keys: Sequence[tuple[Any, Any, Any]]) -> tuple[list[Any], ...]:
    return [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys]


async def wallets(connection: Connection, keys: Sequence[WalletKey]) -> dict[WalletKey, Wallet]:
    """These wallets, as far as they exist."""
    rows = await connection.fetch(
        """SELECT program_id, member_id, point_type, balance, pending, held, debt, lifetime, sequence,
                  head_hash
             FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS wanted(program_id, member_id, point_type)
             JOIN wallet USING (program_id, member_id, point_type)""",
        *_columns(keys),
        timeout=PATIENCE_SECONDS,
    )
    return {(r[0], r[1], r[2]): Wallet(*r[2:]) for r in rows}


async def violations(
    connection: Connection, check: Check, program_id: UUID | None, most: int
) -> tuple[int, list[Finding]]:
    """How often one of the IDENTITIES doesn't hold, and the first ``most`` places."""
    rows = await connection.fetch(
        f"""{SCOPE}
            SELECT problem, program_id, member_id, point_type, sequence, transaction_id,
                   count(*) OVER () AS faults
              FROM ({IDENTITIES[check]})
                   AS bad(program_id, member_id, point_type, sequence, transaction_id, problem)
             ORDER BY program_id, member_id, point_type, sequence, transaction_id LIMIT $2""",
        program_id,
        max(most, 1),
        timeout=PATIENCE_SECONDS,
    )
    if not rows:
        return 0, []
    return rows[0]["faults"], [Finding(check, *tuple(r)[:6]) for r in rows[:most]]


def subjects(found: Mapping[str, int]) -> dict[Check, int]:
    """How many things each check looks at."""
    return {check: found[what] for check, what in SUBJECTS.items()}


SUBJECTS: Mapping[Check, str] = {
    Check.CHAIN: "rows",
    Check.RUNNING: "rows",
    Check.HEAD: "wallets",
    Check.FIGURES: "wallets",
    Check.WALLETS: "wallets",
    Check.WALLET_LOTS: "wallets",
    Check.EARNED_LOTS: "earns",
    Check.DRAWN_LOTS: "lots",
    Check.ALLOCATIONS: "redemptions",
    Check.TOTALS: "totals",
    Check.ORDERS: "orders",
    Check.ORDERED: "ordered",
    Check.EVENTS: "events",
    Check.LOGGED: "rows",
    Check.MEMBERS: "rows",
    Check.CAPS: "caps",
}
