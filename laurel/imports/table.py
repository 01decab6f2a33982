"""A CSV file as rows with the line each begins on, read one at a time."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from laurel.failures import Failure

DELIMITERS = (",", ";", "\t", "|")
# Columns that a report of refused rows adds at the end; a corrected report is imported without them.
REPORTED = ("line", "reason", "message", "field")
UNDECODED = range(0xDC80, 0xDD00)  # what surrogateescape makes of bytes that aren't in the encoding


@dataclass(frozen=True, slots=True)
class Row:
    """One record, with the cells as in the file. ``line`` is the one it begins on; the first is 1."""

    line: int
    cells: Sequence[str]


class Table:
    """An open CSV file. Raises Failure with the line if it is none, OSError."""

    def __init__(self, path: Path, encoding: str, delimiter: str | None) -> None:
        self._path = path
        self._encoding = encoding
        self._file = path.open("rb", buffering=0)
        try:
            text = self._text()
            self.delimiter = delimiter or _sniffed(text.readline())
            # From the start again; a StreamReader in the middle of a file would look for a second BOM.
            self._file.seek(0)
            self._reader = csv.reader(self._text(), delimiter=self.delimiter, strict=True)
            header = self._record()
            if header is None:
                raise Failure(f"{path} is empty: the first line must name the columns")
            self.header = tuple(name.strip() for name in header.cells)
            self._reported = self.header[-len(REPORTED) :] == REPORTED
            if self._reported:
                self.header = self.header[: -len(REPORTED)]
        except BaseException:  # nobody else can close it, as there is no table yet
            self._file.close()
            raise

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._path.stat().st_size

    @property
    def position(self) -> int:
        """Bytes read so far, some of them ahead."""
        return self._file.tell()

    def rows(self) -> Iterator[Row]:
        """Every row but blank lines; a row may have more or fewer cells than the header."""
        while (row := self._record()) is not None:
            if not any(cell.strip() for cell in row.cells):
                continue
            if self._reported and len(row.cells) == len(self.header) + len(REPORTED):
                row = Row(row.line, row.cells[: -len(REPORTED)])
            yield row

    def close(self) -> None:
        """Read no more."""
        self._file.close()

    def _text(self) -> io.TextIOWrapper:
        # What can't be decoded must refuse its row only, and stand in the report as it was.
        raw = io.FileIO(self._file.fileno(), closefd=False)
        return io.TextIOWrapper(
            io.BufferedReader(raw), encoding=self._encoding, errors="surrogateescape", newline=""
        )

    def _record(self) -> Row | None:
        line = self._reader.line_num + 1
        try:
            return Row(line, next(self._reader))
        except StopIteration:
            return None
        except csv.Error as error:
            raise Failure(
                f"{self._path}, line {line}: {error}; is a quotation mark missing, or one too many?"
            ) from None
        except UnicodeError:
            raise Failure(
                f"{self._path}, near line {line}: not {self._encoding}; name another --encoding"
            ) from None


def decoded(cell: str) -> bool:
    """Whether all bytes of the cell were in the file's encoding."""
    return cell.isascii() or not any(ord(character) in UNDECODED for character in cell)


def encoding_named(name: str) -> str:
    """Python's name of a text encoding; UTF-8 with or without BOM. Raises LookupError."""
    "".encode(name)  # which codecs that make no bytes of text refuse
    found = codecs.lookup(name).name
    return "utf-8-sig" if found == "utf-8" else found


def _sniffed(header: str) -> str:
    """The delimiter that parts the header into most columns; a comma if none does."""

    def columns(delimiter: str) -> int:
        try:
            return max((len(cells) for cells in csv.reader([header], delimiter=delimiter)), default=0)
        except csv.Error:
            return 0

    return max(DELIMITERS, key=columns)
