"""What `laurel export` reads: rows of one snapshot, in order, some at a time.

The names of columns are those of the export. Personal data stays sealed here.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

from server.store.database import Connection

ROWS_AT_ONCE = 2000
PATIENCE_SECONDS = 24 * 3600.0

HASHES = ("previous_hash", "hash")
LEDGER = (
    "program_id",
    "member_id",
    "transaction_id",
    "point_type",
    "sequence",
    "kind",
    "points",
    "debit_account",
    "credit_account",
    "balance_after",
    "occurred_at",
    "recorded_at",
    "event_id",
    "event_type",
    "order_reference",
    "store",
    "channel",
    "source_system",
    "actor",
    "credential_id",
    "reason",
    "trace",
    "key_id",
)
_RECORDED = """WHERE ($1::uuid IS NULL OR program_id = $1)
                 AND ($2::timestamptz IS NULL OR recorded_at >= $2)
                 AND ($3::timestamptz IS NULL OR recorded_at < $3)"""
_OF_PROGRAM = "WHERE ($1::uuid IS NULL OR program_id = $1)"


async def ledger_size(
    connection: Connection, program_id: UUID | None, since: datetime | None, until: datetime | None
) -> int:
    """How many rows ``ledger`` gives."""
    return await _count(
        connection, f"SELECT count(*) FROM ledger_transaction {_RECORDED}", program_id, since, until
    )


def ledger(
    connection: Connection, program_id: UUID | None, since: datetime | None, until: datetime | None
) -> AsyncIterator[list[Any]]:
    """Rows of the ledger by time of recording, from ``since`` until before ``until``."""
    return _batches(
        connection,
        f"""SELECT p.name AS program, {", ".join(f"t.{name}" for name in (*LEDGER, *HASHES))}
              FROM (SELECT * FROM ledger_transaction {_RECORDED}) AS t
              JOIN program p USING (program_id)
             ORDER BY t.recorded_at, t.transaction_id""",
        program_id,
        since,
        until,
    )


async def members_size(connection: Connection, program_id: UUID | None) -> int:
    """How many rows ``members`` gives."""
    return await _count(
        connection, f"SELECT count(*) FROM member {_OF_PROGRAM} AND kind = 'person'", program_id
    )


def members(connection: Connection, program_id: UUID | None) -> AsyncIterator[list[Any]]:
    """Every member in order of joining, with the latest decision about each purpose; a member
    whose key was destroyed has no ``wrapped``."""
    return _batches(
        connection,
        f"""SELECT p.name AS program, m.program_id, m.member_id, m.status, m.tier, m.tags, m.segments,
                   m.attributes, m.birth_month, m.purchases, m.joined_at, f.updated_at, m.version,
                   f.preferences, f.sealed, k.master_key_id, k.wrapped,
                   ARRAY(SELECT DISTINCT ON (c.purpose)
                                c.purpose || CASE WHEN c.granted THEN '=yes' ELSE '=no' END
                           FROM consent c
                          WHERE c.program_id = m.program_id AND c.member_id = m.member_id
                          ORDER BY c.purpose, c.consent_id DESC) AS consents
              FROM (SELECT * FROM member {_OF_PROGRAM}) AS m
              JOIN program p USING (program_id)
              JOIN member_profile f USING (program_id, member_id)
              LEFT JOIN member_key k USING (program_id, member_id)
             ORDER BY m.program_id, m.member_id""",
        program_id,
    )


async def balances_size(connection: Connection, program_id: UUID | None) -> int:
    """How many rows ``balances`` gives."""
    return await _count(connection, f"SELECT count(*) FROM wallet {_OF_PROGRAM}", program_id)


def balances(connection: Connection, program_id: UUID | None) -> AsyncIterator[list[Any]]:
    """Every wallet with its figures as recorded, member by member; the pools of households, too."""
    return _batches(
        connection,
        f"""SELECT p.name AS program, w.program_id, w.member_id, m.status, w.point_type, w.balance, w.pending,
                   w.held, w.debt, w.lifetime, w.sequence, f.sealed, k.master_key_id, k.wrapped
              FROM (SELECT * FROM wallet {_OF_PROGRAM}) AS w
              JOIN program p USING (program_id)
              JOIN member m USING (program_id, member_id)
              LEFT JOIN member_profile f USING (program_id, member_id)
              LEFT JOIN member_key k USING (program_id, member_id)
             ORDER BY w.program_id, w.member_id, w.point_type""",
        program_id,
    )


async def _count(connection: Connection, query: str, *arguments: object) -> int:
    found: int = await connection.fetchval(query, *arguments, timeout=PATIENCE_SECONDS)
    return found


async def _batches(connection: Connection, query: str, *arguments: object) -> AsyncIterator[list[Any]]:
    cursor = await connection.cursor(query, *arguments, timeout=PATIENCE_SECONDS)
    while rows := await cursor.fetch(ROWS_AT_ONCE, timeout=PATIENCE_SECONDS):
        yield rows
