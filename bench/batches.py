"""Purchases committed in full batches, against raw SQL that writes the same rows.

Both work in this process, raw SQL on one connection. It is the least that can be done: COPY into
the tables that only grow, one UPDATE for each of the others, the same number of purchases
to a durable transaction, into copies of the tables with all their indexes and checks.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import uvloop

from bench import shop
from server import heap, secrets
from server.domain.activity import Line
from server.domain.actor import Actor, CallerKind
from server.domain.commands import Earn
from server.ids import new_id, parsed
from server.main import now
from server.operations.committer import Committer
from server.operations.programs import Programs
from server.store.database import Database

BATCH = 128
# Three batches are under way, and another is there when the first has been committed.
WAITING = 4 * BATCH
# The tables that only grow, by the column in whose order rows came.
GROWING = {
    "ledger_transaction": "transaction_id",
    "lot": "lot_id",
    "business_key": "event_id",
    "request_key": "recorded_at",
    "event_log": "position",
}
CHANGING = ("member", "wallet", "cap_usage")
ACTOR = Actor(
    kind=CallerKind.SERVICE,
    program_id=parsed(str(shop.PROGRAM.program_id)),
    credential_id=new_id(),
    name="bench",
    source_system="batches",
    scopes=frozenset(),
)


@dataclass(frozen=True)
class Rates:
    """Purchases per second, one figure a round."""

    committed: list[float]
    raw: list[float]


def compare(url: str, secrets_file: Path, members: Sequence[str], seconds: float, rounds: int) -> Rates:
    """Both in turns, each for ``seconds`` a round."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(
            _compare(url, secrets_file, [parsed(member) for member in members], seconds, rounds)
        )


async def _compare(
    url: str, secrets_file: Path, members: Sequence[UUID], seconds: float, rounds: int
) -> Rates:
    database = await Database.open(url, connections=3)
    connection = await asyncpg.connect(url)
    keys = secrets.load(secrets_file)
    committer = Committer(database, Programs(), keys.ledger, now, new_id, batch_size=BATCH)
    rates = Rates([], [])
    try:
        wanted = itertools.cycle(members)
        await _commit(committer, wanted, 0.5)
        raw = await Raw.over(connection)
        heap.settle()  # as a server does when it is ready
        for _ in range(rounds):
            rates.committed.append(await _commit(committer, wanted, seconds))
            rates.raw.append(await raw.write())
    finally:
        await committer.close()
        await connection.close()
        await database.close()
    return rates


async def _commit(committer: Committer, members: Iterator[UUID], seconds: float) -> float:
    """Purchases a second, with always enough of them waiting for a full batch."""
    started = time.monotonic()
    end, done = started + seconds, 0

    async def buyer() -> None:
        nonlocal done
        while time.monotonic() < end:
            await committer.submit(_purchase(next(members)), asyncio.get_running_loop().time() + 20)
            done += 1

    await asyncio.gather(*(buyer() for _ in range(WAITING)))
    return done / (time.monotonic() - started)


def _purchase(member_id: UUID) -> Earn:
    once = uuid4().hex
    return Earn(
        actor=ACTOR,
        request_id=once,
        received_at=now(),
        member_id=member_id,
        member_given=str(member_id),
        reference=once,
        store=shop.STORE,
        channel=shop.CHANNEL,
        occurred_at=None,
        business_date=None,
        part="",
        event_type="PURCHASE",
        currency="INR",
        amount=Decimal(500),
        lines=(Line("1", "", "", 1, Decimal(500), {}),),
    )


class Raw:
    """Copies of the tables, and what has been written to the originals since."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._columns: dict[str, list[str]] = {}
        self._written: dict[str, Any] = {}

    @classmethod
    async def over(cls, connection: asyncpg.Connection) -> "Raw":
        """Make the copies. What changes is filled, what grows is empty."""
        made = cls(connection)
        await connection.execute("DROP SCHEMA IF EXISTS raw CASCADE; CREATE SCHEMA raw")
        for table in (*GROWING, *CHANGING):
            await connection.execute(f"CREATE TABLE raw.{table} (LIKE public.{table} INCLUDING ALL)")
        for table in CHANGING:
            await connection.execute(f"INSERT INTO raw.{table} SELECT * FROM public.{table}")
        for table, order in GROWING.items():
            rows = await connection.fetch(
                """SELECT column_name FROM information_schema.columns
                    WHERE table_schema = 'public' AND table_name = $1
                      AND is_identity = 'NO' AND column_name <> 'xid'
                    ORDER BY ordinal_position""",
                table,
            )
            made._columns[table] = [row[0] for row in rows]
            made._written[table] = await connection.fetchval(
                f"SELECT {order} FROM {table} ORDER BY {order} DESC LIMIT 1"
            )
        await connection.execute("ANALYZE")
        return made

    async def write(self) -> float:
        """Write what the originals have had since the last time; purchases a second."""
        rows = {table: await self._new(table) for table in GROWING}
        number = len(rows["request_key"])
        batches = -(-number // BATCH)
        cut = {table: list(_parts(found, batches)) for table, found in rows.items()}
        started = time.monotonic()
        for place in range(batches):
            async with self._connection.transaction():
                await self._batch({table: parts[place] for table, parts in cut.items()})
        return number / (time.monotonic() - started)

    async def _new(self, table: str) -> list[Any]:
        order = GROWING[table]
        columns = ", ".join(self._columns[table])
        rows = await self._connection.fetch(
            f"SELECT {order} AS place, {columns} FROM {table} WHERE {order} > $1 ORDER BY {order}",
            self._written[table],
        )
        self._written[table] = rows[-1]["place"]
        return [tuple(row)[1:] for row in rows]

    async def _batch(self, rows: Mapping[str, Sequence[Any]]) -> None:
        for table, found in rows.items():
            await self._connection.copy_records_to_table(
                table, records=found, columns=self._columns[table], schema_name="raw"
            )
        ledger = [
            dict(zip(self._columns["ledger_transaction"], row, strict=True))
            for row in rows["ledger_transaction"]
        ]
        last = {row["member_id"]: row for row in ledger}
        earned: defaultdict[UUID, int] = defaultdict(int)
        for row in ledger:
            earned[row["member_id"]] += row["points"]
        members, points = list(last), [earned[member_id] for member_id in last]
        await self._connection.execute(
            """UPDATE raw.wallet w SET balance = n.balance, lifetime = w.lifetime + n.points,
                      sequence = n.sequence, head_hash = n.hash
                 FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[])
                      AS n(member_id, points, balance, sequence, hash)
                WHERE w.program_id = $1 AND w.member_id = n.member_id""",
            shop.PROGRAM.program_id,
            members,
            points,
            [row["balance_after"] for row in last.values()],
            [row["sequence"] for row in last.values()],
            [row["hash"] for row in last.values()],
        )
        await self._connection.execute(
            """UPDATE raw.member m SET version = m.version + 1, purchases = m.purchases + 1
                 FROM unnest($2::uuid[]) AS n(member_id)
                WHERE m.program_id = $1 AND m.member_id = n.member_id""",
            shop.PROGRAM.program_id,
            members,
        )
        await self._connection.execute(
            """UPDATE raw.cap_usage c SET points = c.points + n.points
                 FROM unnest($2::uuid[], $3::bigint[]) AS n(member_id, points)
                WHERE c.program_id = $1 AND c.member_id = n.member_id""",
            shop.PROGRAM.program_id,
            members,
            points,
        )


def _parts(rows: Sequence[Any], number: int) -> Iterator[Sequence[Any]]:
    """The rows in so many parts, as equal as can be."""
    for place in range(number):
        yield rows[place * len(rows) // number : (place + 1) * len(rows) // number]
