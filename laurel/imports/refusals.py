"""Rows that were refused: why, and a CSV file of them to be corrected and imported again."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from laurel.drafts import Draft
from laurel.imports.table import REPORTED, Row

SHOWN = 10


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """Why a row is not imported. ``field``: the columns to blame, "" if it isn't one."""

    def __init__(self, reason: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that was refused, for the eye."""

    line: int
    reason: str
    message: str
    field: str


class Report:
    """Collects refused rows, and writes them down from the first one on.

    ``path`` is where: without one beside the file that is imported, under a name that is
    free. ``counts`` are by reason, ``first`` the first few.
    """

    def __init__(
        self, header: Sequence[str], delimiter: str, encoding: str, imported: Path, path: Path | None
    ) -> None:
        self._header = header
        self._delimiter = delimiter
        self._encoding = encoding
        self._path = path
        self._imported = imported
        self._draft: Draft | None = None
        self._text = io.StringIO(newline="")
        self.counts = Counter[str]()
        self.first: list[Refused] = []

    def add(self, row: Row, refusal: Refusal) -> None:
        """Write down the row. Raises OSError."""
        self.counts[refusal.reason] += 1
        if len(self.first) < SHOWN:
            self.first.append(Refused(row.line, refusal.reason, refusal.message, refusal.field))
        if self._draft is None:
            self._draft = Draft(self._path or next(_free(self._imported)))
            self._write([*self._header, *REPORTED])
        width = len(self._header)
        own = [*row.cells[:width], *[""] * (width - len(row.cells))]
        # Cells too many go to the end: none may be lost, and none may move the others.
        beyond = row.cells[width:]
        self._write([*own, str(row.line), refusal.reason, refusal.message, refusal.field, *beyond])

    def keep(self) -> Path | None:
        """Finish the file; None if no row was refused. Raises OSError."""
        if self._draft is None:
            return None
        self._draft.keep()
        return self._draft.path

    def drop(self) -> None:
        """Leave no file behind, unless it was kept."""
        if self._draft is not None:
            self._draft.drop()

    def _write(self, cells: Sequence[str]) -> None:
        assert self._draft is not None
        csv.writer(self._text, delimiter=self._delimiter).writerow(cells)
        # A line at a time in the encoding of the file, and one BOM only.
        encoding = self._encoding if self._draft.file.tell() == 0 else _without_bom(self._encoding)
        self._draft.file.write(self._text.getvalue().encode(encoding, "surrogateescape"))
        self._text.seek(0)
        self._text.truncate()


def _free(imported: Path) -> Iterator[Path]:
    """Names beside the file that nothing has: an earlier report may hold corrections."""
    for number in count(1):
        path = imported.with_name(f"{imported.stem}.refused{'' if number == 1 else f'-{number}'}.csv")
        if not path.exists():
            yield path


def _without_bom(encoding: str) -> str:
    if encoding == "utf-8-sig":
        return "utf-8"
    return {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(encoding, encoding)
