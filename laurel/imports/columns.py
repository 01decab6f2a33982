"""Which column of a file goes into which field: as told by --map, else by its heading."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from laurel.failures import Failure
from laurel.imports.table import Row
from laurel.spreadsheets import unguarded

_BLANKS = re.compile(r"[\s_-]+")


@dataclass(frozen=True, slots=True)
class Target:
    """What can be imported.

    ``single``: fields of one column each. ``several``: fields that more than one column
    may fill. ``prefixes``: such as ``attributes.``, whatever follows. ``headings``: other
    spellings of columns, in lower case with ``_`` for blanks and hyphens -> field.
    """

    single: Collection[str]
    several: Collection[str] = ()
    prefixes: Sequence[str] = ()
    headings: Mapping[str, str] = field(default_factory=dict)

    def knows(self, name: str) -> bool:
        """Whether there is such a field."""
        return (
            name in self.single
            or name in self.several
            or any(name.startswith(prefix) and name != prefix for prefix in self.prefixes)
        )

    def of_heading(self, heading: str) -> str:
        """The field that a heading obviously means, "" if none."""
        if self.knows(heading):
            return heading
        plain = _BLANKS.sub("_", heading.strip().lower())
        return plain if self.knows(plain) else self.headings.get(plain, "")

    def described(self) -> str:
        """All fields, for whoever named one that there isn't."""
        return ", ".join([*self.single, *self.several, *(f"{prefix}NAME" for prefix in self.prefixes)])


@dataclass(frozen=True, slots=True)
class Columns:
    """``places``: field -> indexes of its columns. ``left_out``: headings that go nowhere."""

    header: Sequence[str]
    places: Mapping[str, Sequence[int]]
    left_out: Sequence[str]

    def texts(self, row: Row, name: str) -> list[str]:
        """What stands in the columns of the field, without blanks around; nothing for empty cells."""
        cells = (unguarded(row.cells[index].strip()) for index in self.places.get(name, ()))
        return [cell for cell in cells if cell]

    def text(self, row: Row, name: str) -> str:
        """What stands in the one column of the field, "" if nothing does."""
        found = self.texts(row, name)
        return found[0] if found else ""

    def named(self, name: str) -> str:
        """The headings of the columns that fill the field, or one that begins with it; "" if none."""
        places = [
            index
            for own, indexes in self.places.items()
            if own == name or own.partition(".")[0] == name
            for index in indexes
        ]
        return ", ".join(self.header[index] for index in places)


def match(target: Target, header: Sequence[str], given: Sequence[tuple[str, str]]) -> Columns:
    """Bring columns and fields together. ``given``: field and heading; "" leaves a field out.

    Raises Failure.
    """
    for heading in header:
        if header.count(heading) > 1 and (heading or given):
            raise Failure(f"two columns are headed {heading!r}")
    places: dict[str, list[int]] = {}
    for name, heading in given:
        if not target.knows(name):
            raise Failure(f"--map {name}: there is no such field; there is {target.described()}")
        if heading and heading not in header:
            raise Failure(f"--map {name}: no column is headed {heading!r}; there is {', '.join(header)}")
        places.setdefault(name, []).extend([header.index(heading)] if heading else [])
    told = {index for indexes in places.values() for index in indexes}
    guessed: dict[str, list[int]] = {}
    for index, heading in enumerate(header):
        name = target.of_heading(heading)
        if name and name not in places and index not in told:
            guessed.setdefault(name, []).append(index)
    places |= guessed
    for name, indexes in places.items():
        if len(indexes) > 1 and name not in target.several:
            headings = ", ".join(header[index] for index in indexes)
            raise Failure(f"{name} could be any of {headings}; say which with --map {name}=...")
    used = {index for indexes in places.values() for index in indexes}
    if not used:
        raise Failure("no column's heading is a field's; say with --map FIELD=HEADING what is in them")
    return Columns(
        header,
        {name: indexes for name, indexes in places.items() if indexes},
        [heading for index, heading in enumerate(header) if index not in used],
    )
