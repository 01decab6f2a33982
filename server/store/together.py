"""Several statements in one round trip.

A batch asks many tables and writes to many. Each module says what it asks and writes;
here it becomes one statement, so that a batch waits for the database twice instead of
a dozen times.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

from server.store.database import Connection

Answer = TypeVar("Answer")

# Everything that is asked and written together is found by its key. So one plan serves a statement for as
# long as the connection keeps it, however the tables grow meanwhile; to plan it each time costs a small
# batch a third of what PostgreSQL does for it.
BY_KEY = """SELECT set_config('plan_cache_mode', 'force_generic_plan', true),
                   set_config('enable_seqscan', 'off', true),
                   set_config('enable_hashjoin', 'off', true),
                   set_config('enable_mergejoin', 'off', true)"""

PARAMETER = re.compile(r"\$(\d+)")


class Common(NamedTuple):
    """Rows that several questions look at under this name, looked up once for all of them."""

    name: str
    query: str
    arguments: tuple[Any, ...]


class Question(NamedTuple, Generic[Answer]):
    """A query whose rows are each one ``ROW(...)``, its arguments, and how to read the rows.

    ``of``: what it looks at together with others. What every purchase asks is answered in rows of a
    type that the migrations made for it: to read those takes half of what it does where each row has to
    say what it consists of.
    """

    query: str
    arguments: tuple[Any, ...]
    read: Callable[[Sequence[Any]], Answer]
    of: Common | None = None


class Write(NamedTuple):
    """A statement that changes one table, and its arguments. No two of a batch touch the same row.

    What every purchase writes is one argument: a list of rows, each a tuple of the type that the
    migrations made for it (``lot_row``). To send those takes half of what an array for each column does.
    """

    statement: str
    arguments: tuple[Any, ...]


def columns(rows: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    """Rows as `unnest` takes them: one array a column. There must be rows."""
    return tuple(zip(*rows, strict=True))


async def ask(connection: Connection, *questions: Question[Any]) -> list[Any]:
    """The answers, in order, all of one moment. What they have in common is the same for all of them."""
    common: dict[str, Common] = {}
    for question in questions:
        if question.of is not None and common.setdefault(question.of.name, question.of) is not question.of:
            raise ValueError(f"two tables of the name {question.of.name}")
    parts: list[Common | Question[Any]] = [*common.values(), *questions]
    statement = _asking(tuple(common), tuple((part.query, len(part.arguments)) for part in parts))
    row = await connection.fetchrow(statement, *(a for part in parts for a in part.arguments))
    assert row is not None
    return [question.read(rows) for question, rows in zip(questions, row, strict=True)]


async def write(connection: Connection, *writes: Write | None) -> None:
    """Do them all, or none; None stands for nothing to do."""
    due = [w for w in writes if w is not None]
    if due:
        statement = _writing(tuple((w.statement, len(w.arguments)) for w in due))
        await connection.execute(statement, *(a for w in due for a in w.arguments))


@cache  # as many as there are combinations of tables
def _asking(names: tuple[str, ...], queries: tuple[tuple[str, int], ...]) -> str:
    texts = _numbered(queries)
    common = ", ".join(f"{name} AS MATERIALIZED ({text})" for name, text in zip(names, texts, strict=False))
    asked = "SELECT " + ", ".join(f"ARRAY({text})" for text in texts[len(names) :])
    return f"WITH {common} {asked}" if common else asked


@cache
def _writing(statements: tuple[tuple[str, int], ...]) -> str:
    parts = [f"w{place} AS ({text})" for place, text in enumerate(_numbered(statements))]
    return f"WITH {', '.join(parts)} SELECT"


def _numbered(parts: tuple[tuple[str, int], ...]) -> list[str]:
    """Each part with its parameters counted on from those before it."""
    numbered, before = [], 0
    for text, arguments in parts:
        numbered.append(_shifted(text, before))
        before += arguments
    return numbered


def _shifted(text: str, by: int) -> str:
    return PARAMETER.sub(lambda found: f"${int(found[1]) + by}", text)
