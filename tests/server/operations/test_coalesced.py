"""Reads that wait at the same moment share a query, and nothing else."""

import asyncio
from collections.abc import Collection, Mapping

import pytest
from opentelemetry.trace import INVALID_SPAN

from server.domain.errors import Unavailable
from server.operations import coalesced
from server.operations.coalesced import LANES, Coalesced, Gathered
from server.store.database import Connection, Database
from telemetry.traces import Trace, current


class Shelf:
    """Squares, read from PostgreSQL by queries that wait until they are let go."""

    def __init__(self) -> None:
        self.queries: list[set[int]] = []
        self.begun: asyncio.Queue[None] = asyncio.Queue()
        self.open = asyncio.Event()

    async def read(self, connection: Connection, wanted: Collection[int]) -> Mapping[int, int]:
        """The squares of even numbers."""
        self.queries.append(set(wanted))
        self.begun.put_nowait(None)
        await self.open.wait()
        rows = await connection.fetch(
            "SELECT n, n * n FROM unnest($1::int[]) AS n WHERE n % 2 = 0", list(wanted)
        )
        return dict(rows)


async def test_who_waits_long_for_slow_queries_starts_another_until_there_are_too_many(
    database: Database,
) -> None:
    shelf = Shelf()
    squares = Coalesced(database, shelf.read)
    first = []
    for n in range(LANES):
        first.append(asyncio.create_task(squares.get(n)))
        await shelf.begun.get()
    rest = [asyncio.create_task(squares.get(n)) for n in (4, 5, 4, 6)]
    await asyncio.sleep(0)
    shelf.open.set()
    assert await asyncio.gather(*first) == [0, None, 4, None]
    assert await asyncio.gather(*rest) == [16, None, 16, 36]
    assert shelf.queries[LANES:] == [{4, 5, 6}]


async def test_who_gives_up_takes_nothing_from_the_others(database: Database) -> None:
    shelf = Shelf()
    squares = Coalesced(database, shelf.read)
    reads = [asyncio.create_task(squares.get(n)) for n in (2, 4, 6, 8)]
    await shelf.begun.get()
    reads[0].cancel()
    shelf.open.set()
    assert await asyncio.gather(*reads[1:]) == [16, 36, 64]
    assert await squares.get(10) == 100


async def test_a_fault_reaches_everybody_and_the_next_query_is_a_new_one(database: Database) -> None:
    broken = True

    async def read(connection: Connection, wanted: Collection[int]) -> Mapping[int, int]:
        if broken:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return dict.fromkeys(wanted, 1)

    ones = Coalesced(database, read)
    told = await asyncio.gather(*(ones.get(n) for n in range(9)), return_exceptions=True)
    assert all(isinstance(fault, Unavailable) for fault in told)
    broken = False
    assert await ones.get(3) == 1


async def test_a_read_never_joins_a_query_that_has_begun(database: Database) -> None:
    shelf = Shelf()
    squares = Coalesced(database, shelf.read)
    early = asyncio.create_task(squares.get(2))
    await shelf.begun.get()
    late = asyncio.create_task(squares.get(2))
    shelf.open.set()
    assert await asyncio.gather(early, late) == [4, 4]
    assert shelf.queries == [{2}, {2}]


async def test_a_query_belongs_to_the_trace_of_the_first_of_its_reads_that_is_sampled() -> None:
    queries = []

    async def find(wanted: Collection[int]) -> Mapping[int, int]:
        queries.append((set(wanted), current.get()))
        return {}

    numbers: Gathered[int, int] = Gathered(find)

    async def read(n: int, trace: Trace | None) -> None:
        current.set(trace)
        await numbers.get(n)

    first, second = Trace(None, INVALID_SPAN), Trace(None, INVALID_SPAN)
    await asyncio.gather(*(read(n, trace) for n, trace in enumerate([None, Trace(None), first, second])))
    await read(4, None)
    assert queries == [({0, 1, 2, 3}, first), ({4}, None)]


@pytest.mark.parametrize("number", [1, 3])
async def test_what_is_not_there_is_none(database: Database, number: int) -> None:
    shelf = Shelf()
    shelf.open.set()
    assert await Coalesced(database, shelf.read).get(number) is None


async def test_one_read_after_the_other_waits_for_no_query_that_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coalesced, "PATIENCE_SECONDS", 3600.0)

    async def find(wanted: Collection[int]) -> Mapping[int, int]:
        return {n: n * n for n in wanted}

    squares = Gathered(find)
    async with asyncio.timeout(10):
        assert [await squares.get(n) for n in range(20)] == [n * n for n in range(20)]


async def test_one_read_after_the_other_gets_by_where_all_queries_but_one_are_slow() -> None:
    slow = asyncio.Event()
    begun: asyncio.Queue[None] = asyncio.Queue()

    async def find(wanted: Collection[int]) -> Mapping[int, int]:
        if min(wanted) < 0:
            begun.put_nowait(None)
            await slow.wait()
        return {n: n * n for n in wanted}

    squares = Gathered(find)
    first = []
    for n in range(1, LANES):
        first.append(asyncio.create_task(squares.get(-n)))
        await begun.get()
    async with asyncio.timeout(10):
        assert [await squares.get(n) for n in range(20)] == [n * n for n in range(20)]
    slow.set()
    assert await asyncio.gather(*first) == [n * n for n in range(1, LANES)]
