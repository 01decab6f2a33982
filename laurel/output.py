"""How commands show what they found: aligned tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Without a terminal nobody needs lines cut to one.
PIPE_WIDTH = 400
# Shorter words, such as ids and scopes, stay whole: they are there to be copied.
LONGEST_WORD = 64


def console(*, stderr: bool = False) -> Console:
    """Where to print. Markup is off: what is shown comes from others."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        markup=False,
        highlight=False,
        emoji=False,
        width=None if stream.isatty() else PIPE_WIDTH,
    )


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their headings; numbers to the right. A heading ``points>`` does so for text.

    Where the terminal is too narrow cells wrap between words, and if that isn't enough it wraps the lines.
    """
    content = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, heading in enumerate(columns):
        numeric = all(isinstance(row[index], int) for row in content) and bool(content)
        right = numeric or heading.endswith(">")
        title = heading.rstrip(">")
        widest = _widest_word([title, *(row[index] for row in content)])
        table.add_column(title, justify="right" if right else "left", overflow="fold", min_width=widest)
    for row in content:
        table.add_row(*(_cell(value) for value in row))
    _print(table)


def show_fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print one thing as name and value, a line each; what is empty is left out."""
    content = [(name, value) for name, value in pairs if value not in ("", None)]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold", min_width=_widest_word(value for _, value in content))
    for name, value in content:
        table.add_row(name, _cell(value))
    _print(table)


def show_json(value: Message | dict[str, Any] | list[Any]) -> None:
    """Print as JSON; messages as proto3 JSON with every field."""
    plain = as_dict(value) if isinstance(value, Message) else value
    print(json.dumps(plain, indent=2, ensure_ascii=False, default=str))


def as_dict(message: Message) -> dict[str, Any]:
    """The message as proto3 JSON, with fields that hold their default too."""
    content: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return content


def moment(value: Timestamp | datetime | None) -> str:
    """A time in UTC to the second, "" for none."""
    if value is None:
        return ""
    if isinstance(value, Timestamp):
        if not value.seconds and not value.nanos:
            return ""
        value = value.ToDatetime(tzinfo=UTC)
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def counted(number: int, noun: str) -> str:
    """How many there are of something, such as 1 row or 1,200 rows."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def amount_of(value: Money) -> str:
    """Money such as 1,499.50 INR, "" for none."""
    if not value.currency_code:
        return ""
    return f"{value.units:,}.{value.nanos // 10_000_000:02} {value.currency_code}"


def _print(table: Table) -> None:
    """Without the blanks that fill the last column: nobody wants them who copies a line or reads a pipe."""
    out = console()
    with out.capture() as printed:
        out.print(table, crop=False)
    for line in printed.get().splitlines():
        print(line.rstrip())


def _widest_word(values: Iterable[object]) -> int:
    """How wide a column must be to break no word but the very long."""
    words = (word for value in values for word in _cell(value).plain.split())
    return max((width for word in words if (width := cell_len(word)) <= LONGEST_WORD), default=0)


def _cell(value: object) -> Text:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    # A terminal acts on control characters; show them instead.
    return Text("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))
