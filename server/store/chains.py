"""Wallets' chains as `laurel verify` reads them: all rows some at a time, or those behind trusted ones."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from server.domain.checkpoints import Position
from server.domain.ledger import Account, Allocation, Kind, Lot, Transaction, Wallet
from server.domain.proof import Entry, Place, Vouched, figures
from server.domain.rules import trace
from server.store.database import Connection
from server.store.identities import Scope
from server.store.ledger import LOT_COLUMNS, TRANSACTION_COLUMNS, transaction
from server.store.verify import PATIENCE_SECONDS

ROWS_AT_ONCE = 2000
ENDS_AT_ONCE = 20_000

WalletKey = tuple[UUID, UUID, str]  # program, member, point type
RowKey = tuple[UUID, UUID, UUID]  # program, member, transaction


async def chains(connection: Connection, scope: Scope) -> AsyncIterator[list[Entry]]:
    """All rows, wallet by wallet in order of sequence, some at a time; a wallet may span several batches."""
    cursor = await connection.cursor(
        f"""SELECT {TRANSACTION_COLUMNS} FROM ledger_transaction
             WHERE {scope.condition}
             ORDER BY program_id, member_id, point_type, sequence""",
        *scope.arguments,
        timeout=PATIENCE_SECONDS,
    )
    while rows := await cursor.fetch(ROWS_AT_ONCE, timeout=PATIENCE_SECONDS):
        yield await _entries(connection, rows)


async def chains_after(
    connection: Connection, scope: Scope, trusted: Mapping[WalletKey, int]
) -> AsyncIterator[list[Entry]]:
    """As ``chains``, without the rows up to the sequences that are trusted."""
    place = len(scope.arguments)
    arguments = (*_columns(list(trusted)), list(trusted.values())) if trusted else ((), (), (), ())
    cursor = await connection.cursor(
        f"""SELECT {TRANSACTION_COLUMNS} FROM ledger_transaction
              LEFT JOIN unnest(${place + 1}::uuid[], ${place + 2}::uuid[], ${place + 3}::text[],
                               ${place + 4}::bigint[]) AS trusted(program_id, member_id, point_type, upto)
                   USING (program_id, member_id, point_type)
             WHERE {scope.condition} AND sequence > coalesce(upto, 0)
             ORDER BY program_id, member_id, point_type, sequence""",
        *scope.arguments,
        *arguments,
        timeout=PATIENCE_SECONDS,
    )
    while rows := await cursor.fetch(ROWS_AT_ONCE, timeout=PATIENCE_SECONDS):
        yield await _entries(connection, rows)


async def trusted_rows(connection: Connection, ends: Sequence[tuple[WalletKey, int]]) -> list[Entry]:
    """The rows at these places, as far as they are there."""
    rows = await connection.fetch(
        f"""SELECT {TRANSACTION_COLUMNS}
              FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[])
                   AS wanted(program_id, member_id, point_type, sequence)
              JOIN ledger_transaction USING (program_id, member_id, point_type, sequence)""",
        *_columns([key for key, _ in ends]),
        [sequence for _, sequence in ends],
        timeout=PATIENCE_SECONDS,
    )
    return [Entry(_place(row), _read(row)) for row in rows]


async def sums(
    connection: Connection, ends: Sequence[tuple[WalletKey, int]]
) -> dict[WalletKey, Counter[str]]:
    """The figures that the rows up to these places sum to."""
    rows = await connection.fetch(
        """SELECT program_id, member_id, point_type, kind, debit_account, credit_account, sum(points)::text
             FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[])
                  AS wanted(program_id, member_id, point_type, upto)
             JOIN ledger_transaction USING (program_id, member_id, point_type)
            WHERE sequence <= upto GROUP BY 1, 2, 3, 4, 5, 6""",
        *_columns([key for key, _ in ends]),
        [sequence for _, sequence in ends],
        timeout=PATIENCE_SECONDS,
    )
    found: dict[WalletKey, Counter[str]] = {}
    for *key, kind, debit, credit, points in rows:
        own = found.setdefault((key[0], key[1], key[2]), Counter())
        for figure, moved in _moved(kind, debit, credit, int(points)).items():
            own[figure] += moved
    return found


def _moved(kind: str, debit: str, credit: str, points: int) -> Counter[str]:
    try:
        return figures(Kind(kind), Account(debit), Account(credit), points)
    except ValueError:  # a kind or an account that there isn't: trusted rows are not looked into
        return Counter()


async def changed_members(
    connection: Connection, since: Position, program_id: UUID | None
) -> list[tuple[UUID, UUID]]:
    """Who stands in the event log since then, each with the program."""
    rows = await connection.fetch(
        """SELECT DISTINCT program_id, member_id FROM event_log
            WHERE (epoch, xid) >= ($1::integer, $2::text::xid8) AND ($3::uuid IS NULL OR program_id = $3)""",
        since.epoch,
        str(since.xid),
        program_id,
        timeout=PATIENCE_SECONDS,
    )
    return [(row[0], row[1]) for row in rows]


async def ends(
    connection: Connection, program_id: UUID | None
) -> AsyncIterator[list[tuple[WalletKey, int | None, bytes | None, int | None]]]:
    """Every wallet with the end that it points at, by sequence and hash, and the sequence of its last row.

    None stands for a wallet, or rows, that there are not.
    """
    cursor = await connection.cursor(
        """SELECT program_id, member_id, point_type, w.sequence, w.head_hash, l.last
             FROM (SELECT * FROM wallet WHERE $1::uuid IS NULL OR program_id = $1) w
             FULL JOIN (SELECT program_id, member_id, point_type, max(sequence) AS last
                          FROM ledger_transaction WHERE $1::uuid IS NULL OR program_id = $1
                         GROUP BY 1, 2, 3) l USING (program_id, member_id, point_type)""",
        program_id,
        timeout=PATIENCE_SECONDS,
    )
    while rows := await cursor.fetch(ENDS_AT_ONCE, timeout=PATIENCE_SECONDS):
        yield [((r[0], r[1], r[2]), r[3], r[4], r[5]) for r in rows]


async def _entries(connection: Connection, rows: Sequence[Any]) -> list[Entry]:
    keys = [(r["program_id"], r["member_id"], r["transaction_id"]) for r in rows]
    created = await _created(connection, keys)
    allocations = await _allocations(connection, keys)
    read = [_read(row) for row in rows]
    activities = await _activities(connection, read)
    return [
        Entry(_place(row), own, created.get(key, ()), allocations.get(key, ()), activities.get(at))
        for at, (row, own, key) in enumerate(zip(rows, read, keys, strict=True))
    ]


def _place(row: Any) -> Place:
    return Place(
        row["program_id"], row["member_id"], row["point_type"], row["sequence"], row["transaction_id"]
    )


def _read(row: Any) -> Transaction | None:
    try:
        return transaction(row)
    except ValueError:  # a kind or an account that there isn't
        return None


async def _activities(connection: Connection, rows: Sequence[Transaction | None]) -> dict[int, Vouched]:
    """Of those rows that vouch for an activity, by their places: for which, and what the event log has."""
    said = {
        at: digest
        for at, row in enumerate(rows)
        if row is not None and row.kind is Kind.EARN and (digest := trace.vouched(row.trace))
    }
    earned = [(row.program_id, row.member_id, row.event_id) for at in said if (row := rows[at]) is not None]
    found = await connection.fetch(
        """SELECT at, payload -> 'activity'
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[])
                  AS wanted(program_id, member_id, event_id, at)
             JOIN event_log USING (program_id, member_id, event_id)
            WHERE event_type = 'points.earned'""",
        *_columns(earned),
        list(said),
        timeout=PATIENCE_SECONDS,
    )
    logged = {at: trace.digest(json.loads(activity or "null")) for at, activity in found}
    return {at: Vouched(digest, logged.get(at, "")) for at, digest in said.items()}


async def _created(connection: Connection, keys: Sequence[RowKey]) -> dict[RowKey, list[Lot]]:
    # By member first: no index leads from a row to its lots, and a member's are read once this way.
    rows = await connection.fetch(
        f"""SELECT program_id, member_id, {LOT_COLUMNS}
             FROM (SELECT DISTINCT * FROM unnest($1::uuid[], $2::uuid[])) AS owners(program_id, member_id)
             JOIN lot USING (program_id, member_id)
            WHERE transaction_id = ANY($3::uuid[])""",
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
