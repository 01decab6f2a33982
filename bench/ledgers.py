"""Ledgers of any size: one member's real history, multiplied by the database itself.

A model member buys and redeems through the API; SQL then copies its rows in every table that an
accrual touches, with other ids, to as many members as are wanted. So the rows are as wide as real
ones, and follow the tables by themselves. What copies don't have is a chain that `laurel verify`
would believe, and profiles.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import grpc
from google.type import money_pb2
from loyalty.v1 import member_pb2, points_pb2

from bench import shop
from laurel.client import Client
from laurel.clients import Missing

# What docs/sizing.md advises, though the disk may have no room for all of it: a run writes a few GB.
FILLED: Mapping[str, str] = {"max_wal_size": "32GB"}
# On disk, indexes and the log of writing them included, by the row of the ledger; with some to spare.
BYTES_PER_ROW = 5_000
# Copies made by one statement: a few seconds.
AT_ONCE = 50_000
LEAST_SECONDS_BETWEEN_REPORTS = 5.0
# PostgreSQL while it is filled: whoever loses a ledger then fills another.
FILLING: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "shared_buffers": "1GB",
}
# The order in which the model's rows came, by table. Members' rows are written in turns, as customers come.
TABLES: Mapping[str, str] = {
    "member": "member_id",
    "wallet": "point_type",
    "ledger_transaction": "sequence",
    "lot": "lot_id",
    "allocation": "transaction_id",
    "cap_usage": "period",
    "business_key": "event_id",
    "request_key": "recorded_at",
    "event_log": "position",
}
# What is another's in a copy; ids keep their time, so that a member's rows stay in their order.
OTHERS: Mapping[str, str] = {
    "member_id": "pg_temp.another(m.member_id, n)",
    "transaction_id": "pg_temp.another(m.transaction_id, n)",
    "event_id": "pg_temp.another(m.event_id, n)",
    "lot_id": "pg_temp.another(m.lot_id, n)",
    "transaction_ids": "ARRAY(SELECT pg_temp.another(id, n) FROM unnest(m.transaction_ids) id)",
    "request_id": "md5(m.request_id || n)",
    "order_reference": "CASE m.order_reference WHEN '' THEN '' ELSE md5(m.order_reference || n) END",
}
ANOTHER = """CREATE FUNCTION pg_temp.another(id uuid, n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql
    RETURN (left(id::text, 19) || '8' || substr(md5(id::text || n), 1, 3) || '-'
            || substr(md5(id::text || n), 4, 12))::uuid"""


@dataclass(frozen=True)
class Size:
    """How much a ledger holds: so many rows for each of ``members``, ``rows`` in all or a few less."""

    rows: int
    members: int

    @property
    def each(self) -> int:
        """Rows of one member."""
        return self.rows // self.members

    def __str__(self) -> str:
        return f"{self.each * self.members:,} rows of {self.members:,} members"


@dataclass(frozen=True)
class Ledger:
    """A database that was filled: the key of a service in it, and its members' ids."""

    url: str
    key: str
    members: list[str]


def check_room(size: Size, folder: Path, say: Callable[[str], None]) -> None:
    """Say how much room a ledger takes below ``folder``. Raises Missing if that isn't there."""
    wanted, free = size.rows * BYTES_PER_ROW / 1e9, shutil.disk_usage(folder).free / 1e9
    if wanted >= 1:
        say(f"{size} take up to {wanted:.0f} GB below {folder}, until the end; {free:.0f} GB are free")
    if wanted > free:
        raise Missing(f"{size} take {wanted:.0f} GB below {folder}, and {free:.0f} GB are free")


def live(address: str, key: str, rows: int) -> str:
    """The id of a member with so many rows in the ledger: purchases, the last of several a redemption."""
    with grpc.insecure_channel(address) as channel:
        client = Client(channel, key)
        member = member_pb2.Member(email=f"{uuid4().hex}@example.com")
        joining = member_pb2.RegisterMemberRequest(request_id=uuid4().hex, member=member)
        member_id = str(client.call(client.members.RegisterMember, joining).member.member_id)
        for _ in range(max(1, rows - 1)):
            bought = points_pb2.AccrueRequest(
                request_id=uuid4().hex,
                member_id=member_id,
                order_reference=uuid4().hex,
                store=shop.STORE,
                channel=shop.CHANNEL,
                amount=money_pb2.Money(currency_code="INR", units=500),
            )
            client.call(client.points.Accrue, bought)
        if rows > 1:
            spent = points_pb2.RedeemRequest(
                request_id=uuid4().hex, member_id=member_id, order_reference=uuid4().hex, points=1
            )
            client.call(client.points.Redeem, spent)
    return member_id


async def drop(url: str, name: str) -> None:
    """Drop the database of that name, if there is one, over a connection to another."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}"')
    finally:
        await connection.close()


async def logged(url: str) -> tuple[int, int]:
    """How many bytes PostgreSQL has logged so far, and how many events that ledger has."""
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            """SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,
                      (SELECT last_value FROM event_log_position_seq)"""
        )
    finally:
        await connection.close()
    assert row is not None
    return row[0], row[1]


def fill(url: str, model: str, size: Size, say: Callable[[str], None]) -> list[str]:
    """Copy the model's rows, the only ones so far, until the ledger has its size; the ids of all members."""
    return asyncio.run(_fill(url, model, size, say))


async def _fill(url: str, model: str, size: Size, say: Callable[[str], None]) -> list[str]:
    connection = await asyncpg.connect(url, command_timeout=None)
    try:
        await connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '512MB'")
        await connection.execute(ANOTHER)
        indexes = await _drop_indexes(connection)
        await _copy(connection, size.members - 1, say)
        say(f"  {len(indexes)} indexes, then vacuum and a checkpoint")
        for index in indexes:
            await connection.execute(index)
        await _tidy(connection)
        found = await connection.fetch("SELECT member_id::text FROM member")
        bytes_taken = await connection.fetchval("SELECT pg_database_size(current_database())")
        say(f"  {size}, {bytes_taken / 1e9:.1f} GB")
        return [row[0] for row in found]
    finally:
        await connection.close()


async def tidy(url: str) -> None:
    """What autovacuum and the checkpointer would do in time; they must not while somebody measures."""
    connection = await asyncpg.connect(url, command_timeout=None)
    try:
        await _tidy(connection)
    finally:
        await connection.close()


async def _tidy(connection: asyncpg.Connection) -> None:
    for table in TABLES:
        await connection.execute(f"VACUUM (ANALYZE) {table}")
    await connection.execute("CHECKPOINT")


async def _drop_indexes(connection: asyncpg.Connection) -> list[str]:
    """Drop them; what makes them again. To build one at the end takes a fraction of keeping it up to date."""
    rows = await connection.fetch(
        """SELECT t.relname AS "table", i.relname AS name, pg_get_constraintdef(c.oid) AS rule,
                  pg_get_indexdef(i.oid) AS definition
             FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
             LEFT JOIN pg_constraint c ON c.conindid = i.oid
            WHERE x.indrelid = ANY($1::text[]::regclass[])""",
        list(TABLES),
    )
    for row in rows:
        dropped = (
            f"DROP INDEX {row['name']}"
            if row["rule"] is None
            else f"ALTER TABLE {row['table']} DROP CONSTRAINT {row['name']}"
        )
        await connection.execute(dropped)
    return [
        row["definition"]
        if row["rule"] is None
        else f"ALTER TABLE {row['table']} ADD CONSTRAINT {row['name']} {row['rule']}"
        for row in rows
    ]


async def _copy(connection: asyncpg.Connection, copies: int, say: Callable[[str], None]) -> None:
    """So many copies of the model, round by round, with word of how far it has come."""
    rounds = {}
    for table, order in TABLES.items():
        await connection.execute(
            f"""CREATE TEMPORARY TABLE model_{table} AS
                SELECT *, row_number() OVER (ORDER BY {order}) AS place FROM {table}"""
        )
        rounds[table] = await connection.fetchval(f"SELECT count(*) FROM model_{table}")
    columns = {table: await _columns(connection, table) for table in TABLES}
    total, done = copies * sum(rounds.values()), 0
    began = told = time.monotonic()
    for place in range(1, max(rounds.values()) + 1):
        for table in (table for table in TABLES if place <= rounds[table]):
            for first, last in _parts(copies):
                await connection.execute(
                    f"""INSERT INTO {table} ({", ".join(columns[table])})
                        SELECT {", ".join(OTHERS.get(name, f"m.{name}") for name in columns[table])}
                          FROM model_{table} m, generate_series($2::bigint, $3::bigint) n
                         WHERE m.place = $1""",
                    place,
                    first,
                    last,
                )
                done += last - first + 1
                now = time.monotonic()
                if now - told >= LEAST_SECONDS_BETWEEN_REPORTS:
                    told, left = now, (now - began) * (total - done) / done
                    say(f"  {done:,} of {total:,} rows of all tables, {left:,.0f} s to go")


async def _columns(connection: asyncpg.Connection, table: str) -> list[str]:
    """Those that have no value of their own making."""
    rows = await connection.fetch(
        """SELECT column_name FROM information_schema.columns
            WHERE table_schema = 'public' AND table_name = $1
              AND is_identity = 'NO' AND is_generated = 'NEVER' AND column_name <> 'xid'
            ORDER BY ordinal_position""",
        table,
    )
    return [row[0] for row in rows]


def _parts(copies: int) -> Iterator[tuple[int, int]]:
    for first in range(1, copies + 1, AT_ONCE):
        yield first, min(first + AT_ONCE - 1, copies)
