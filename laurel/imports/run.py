"""An import: rows are read, checked and taken in, some at a time, and whatever is refused is reported."""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from laurel.calls import at_a_time
from laurel.imports.columns import Columns
from laurel.imports.refusals import Refusal, Report
from laurel.imports.seen import Seen
from laurel.imports.table import Row, Table, decoded

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Work(Generic[Item]):
    """What is done with rows.

    ``read`` makes something of a row. ``names`` tells what no other row may name, with
    the headings to blame. ``take`` brings it in. Both first and last raise Refusal.
    """

    read: Callable[[Row], Item]
    names: Callable[[Item], Iterable[tuple[str, str]]]
    take: Callable[[Row, Item], Awaitable[None]]


class Import(Generic[Item]):
    """One file on its way in. ``rows`` counts those read, ``seconds`` how long it took."""

    def __init__(self, table: Table, columns: Columns, report: Report, work: Work[Item]) -> None:
        self._table = table
        self._columns = columns
        self._report = report
        self._work = work
        self.rows = 0
        self.seconds = 0.0

    async def run(self, workers: int, done: Callable[[int, int], None]) -> None:
        """Take in every row, ``workers`` at a time; ``done`` is told bytes and rows read.

        Memory doesn't grow with the file. Raises grpc.RpcError for what befalls every
        row, Failure for what is no CSV.
        """
        started = time.monotonic()
        seen = Seen()

        async def one(given: tuple[Row, Item]) -> None:
            row, item = given
            try:
                await self._work.take(row, item)
            except Refusal as refusal:
                self._report.add(row, refusal)
            done(self._table.position, self.rows)

        try:
            await at_a_time(workers, self._read(seen), one)
        finally:
            seen.close()
            self.seconds = time.monotonic() - started

    def _read(self, seen: Seen) -> Iterator[tuple[Row, Item]]:
        for row in self._table.rows():
            self.rows += 1
            try:
                self._check(row)
                item = self._work.read(row)
                self._first(row, item, seen)
            except Refusal as refusal:
                self._report.add(row, refusal)
            else:
                yield row, item

    def _check(self, row: Row) -> None:
        wanted, cells = len(self._table.header), len(row.cells)
        if cells != wanted:
            raise Refusal(
                "ROW_MISSHAPEN",
                f"has {cells} cells, the header {wanted}; is a delimiter or a quotation mark missing?",
            )
        wrong = [
            heading for heading, cell in zip(self._table.header, row.cells, strict=True) if not decoded(cell)
        ]
        if wrong:
            raise Refusal(
                "ENCODING_WRONG",
                "holds bytes that the file's encoding doesn't know; name another --encoding",
                ", ".join(wrong),
            )

    def _first(self, row: Row, item: Item, seen: Seen) -> None:
        """Refuse what an earlier row named. The first one counts, however calls overtake each other."""
        repeated: Mapping[str, int] = {
            headings: line
            for name, headings in self._work.names(item)
            if (line := seen.first(name, row.line)) != row.line
        }
        if repeated:
            places = "; ".join(
                f"{headings}: stands in line {line} too" for headings, line in repeated.items()
            )
            raise Refusal("DUPLICATE_IN_FILE", places, ", ".join(repeated))
