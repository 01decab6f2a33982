"""Rows as files: CSV for spreadsheets and programs, Parquet for analysis."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol

from laurel.failures import Failure
from laurel.spreadsheets import guarded, joined
from server.operations.exports import Column, Kind

ROW_GROUP = 20_000  # rows that Parquet keeps together; they are held in memory until written


class Sheet(Protocol):
    """A file that takes rows."""

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows."""

    def finish(self) -> None:
        """Write what is still held back, and whatever ends the file."""


class CsvSheet:
    """RFC 4180 in UTF-8 with a header. What a spreadsheet could run is guarded, unless ``raw``."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column], raw: bool) -> None:
        self._text = io.TextIOWrapper(file, "utf-8", newline="", write_through=False)
        self._writer = csv.writer(self._text)
        self._writer.writerow([column.name for column in columns])
        cells = _RAW_CELLS if raw else _CELLS
        self._cells = [cells[column.kind] for column in columns]

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows; what isn't there is an empty cell."""
        cells = self._cells
        self._writer.writerows(
            ["" if value is None else cell(value) for cell, value in zip(cells, row, strict=True)]
            for row in rows
        )

    def finish(self) -> None:
        """Write what is still held back."""
        self._text.flush()
        self._text.detach()


class ParquetSheet:
    """Parquet with a type for each column. Raises Failure without pyarrow."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise Failure("Parquet needs pyarrow: pip install 'laurel[parquet]'; or write CSV") from None
        types: Mapping[Kind, Any] = {
            Kind.INTEGER: pyarrow.int64(),
            Kind.TIME: pyarrow.timestamp("us", tz="UTC"),
            Kind.LIST: pyarrow.list_(pyarrow.string()),
        }
        self._pyarrow = pyarrow
        self._schema = pyarrow.schema(
            [(column.name, types.get(column.kind, pyarrow.string())) for column in columns]
        )
        self._values = [_VALUES.get(column.kind) for column in columns]
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[Sequence[Any]] = []

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows."""
        self._rows += rows
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        """Write what is still held back, and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            columns = [
                list(column) if value is None else [None if cell is None else value(cell) for cell in column]
                for value, column in zip(self._values, zip(*self._rows, strict=True), strict=True)
            ]
            arrays = [
                self._pyarrow.array(column, field.type)
                for column, field in zip(columns, self._schema, strict=True)
            ]
            self._writer.write_table(self._pyarrow.Table.from_arrays(arrays, schema=self._schema))
            self._rows = []


def moment(value: datetime) -> str:
    """A time as ISO 8601 in UTC, to the microsecond."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _hex(value: bytes) -> str:
    return value.hex()


def _compact(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return str(text)


_RAW_CELLS: Mapping[Kind, Callable[[Any], str]] = {
    Kind.TEXT: str,
    Kind.NAME: str,
    Kind.INTEGER: str,
    Kind.TIME: moment,
    Kind.LIST: joined,
    Kind.JSON: _compact,
    Kind.ID: str,
    Kind.HASH: _hex,
}
_CELLS: Mapping[Kind, Callable[[Any], str]] = {
    **_RAW_CELLS,
    Kind.TEXT: guarded,
    Kind.LIST: lambda values: guarded(joined(values)),
}
# What Parquet keeps as text; the others it takes as they are.
_VALUES: Mapping[Kind, Callable[[Any], str]] = {Kind.ID: str, Kind.HASH: _hex, Kind.JSON: _compact}
