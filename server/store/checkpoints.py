"""Where wallets' chains end by now, and what the database knows of the files of checkpoints."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from server.domain.checkpoints import HEADS_PER_LINE, Head, Line, Position
from server.store.database import Connection
from server.store.locks import CHECKPOINTS_LOCK

PATIENCE_SECONDS = 24 * 3600.0  # the first look at a large ledger takes its time


class Known(NamedTuple):
    """The last line of a file, as the database remembers it."""

    number: int
    digest: bytes
    taken_at: datetime


async def hold(connection: Connection) -> bool:
    """Be the one who takes checkpoints until the transaction ends; False if somebody else is."""
    held: bool = await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", CHECKPOINTS_LOCK)
    return held


async def position(connection: Connection) -> Position:
    """Now: what commits later has an xid of this or above it."""
    row = await connection.fetchrow(
        """SELECT (SELECT system_identifier::text FROM pg_control_system()),
                  (SELECT max(epoch) FROM log_epoch),
                  pg_snapshot_xmin(pg_current_snapshot())::text"""
    )
    assert row is not None
    return Position(row[0], row[1], int(row[2]))


async def heads(connection: Connection, since: Position | None) -> AsyncIterator[list[Head]]:
    """The ends of the chains that changed since, a line's worth at a time; of all chains for None.

    Whatever changes a wallet writes to the event log in the same transaction, so the log
    tells which members to look at, however many there are.
    """
    columns = "w.program_id, w.member_id, w.point_type, w.sequence, w.head_hash"
    order = "ORDER BY w.program_id, w.point_type, w.member_id"
    if since is None:
        cursor = await connection.cursor(f"SELECT {columns} FROM wallet w {order}", timeout=PATIENCE_SECONDS)
    else:
        cursor = await connection.cursor(
            f"""SELECT {columns}
                  FROM (SELECT DISTINCT program_id, member_id FROM event_log
                         WHERE (epoch, xid) >= ($1::integer, $2::text::xid8)) changed
                  JOIN wallet w USING (program_id, member_id) {order}""",
            since.epoch,
            str(since.xid),
            timeout=PATIENCE_SECONDS,
        )
    while rows := await cursor.fetch(HEADS_PER_LINE, timeout=PATIENCE_SECONDS):
        yield [Head(*row) for row in rows]


async def known(connection: Connection, chain: UUID) -> Known | None:
    """What is remembered of a file, None if nothing."""
    row = await connection.fetchrow("SELECT number, digest, taken_at FROM checkpoint WHERE chain = $1", chain)
    return None if row is None else Known(*row)


async def latest(connection: Connection) -> Known | None:
    """What is remembered of the file that was written to last, None if there never was one."""
    row = await connection.fetchrow(
        "SELECT number, digest, taken_at FROM checkpoint ORDER BY taken_at DESC LIMIT 1"
    )
    return None if row is None else Known(*row)


async def remember(connection: Connection, line: Line) -> None:
    """Keep what the file's last line is; the line is on the disk already."""
    checkpoint = line.checkpoint
    await connection.execute(
        """INSERT INTO checkpoint (chain, number, digest, taken_at) VALUES ($1, $2, $3, $4)
               ON CONFLICT (chain) DO UPDATE SET
                  number = excluded.number, digest = excluded.digest, taken_at = excluded.taken_at""",
        checkpoint.chain,
        checkpoint.number,
        line.digest,
        checkpoint.taken_at,
    )


async def missed(
    connection: Connection, wanted: Sequence[Head]
) -> list[tuple[Head, int | None, UUID | None]]:
    """Those that are not in the chains, each with the wallet's last sequence (None: no rows) and
    the transaction that stands at its place (None: nothing does)."""
    rows = await connection.fetch(
        """SELECT place, t.transaction_id,
                  (SELECT max(sequence) FROM ledger_transaction l
                    WHERE l.program_id = wanted.program_id AND l.member_id = wanted.member_id
                      AND l.point_type = wanted.point_type) AS last
             FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bytea[]) WITH ORDINALITY
                  AS wanted(program_id, member_id, point_type, sequence, hash, place)
             LEFT JOIN ledger_transaction t USING (program_id, member_id, point_type, sequence)
            WHERE t.hash IS DISTINCT FROM wanted.hash
            ORDER BY place""",
        *(list(column) for column in zip(*wanted, strict=True)),
        timeout=PATIENCE_SECONDS,
    )
    return [(wanted[place - 1], last, transaction_id) for place, transaction_id, last in rows]
