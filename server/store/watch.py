"""Spans of the statements that a sampled call runs."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import asyncpg
from opentelemetry.trace import SpanKind, StatusCode

from telemetry.traces import Trace

NANOSECONDS = 10**9
MAX_TEXT = 1000
CHANGE = re.compile(r"\b(INSERT INTO|(?<!DO )UPDATE|DELETE FROM) ([a-z_]+)")
LITERAL = re.compile(r"'[^']*'")
TABLE = re.compile(r"\b(?:INTO|FROM|UPDATE|JOIN)\s+(?!unnest\b)([a-z_]+)", re.IGNORECASE)


@contextmanager
def statements(connection: Any, trace: Trace) -> Iterator[None]:
    """Each statement on the connection becomes a span of the trace: its text, never its values."""

    def record(query: asyncpg.connection.LoggedQuery) -> None:
        ended = time.time_ns()
        began = ended - int(query.elapsed * NANOSECONDS)
        name, text = described(query.query)
        attributes = {
            "db.system.name": "postgresql",
            "db.namespace": query.conn_params.database or "",
            "db.operation.name": name.partition(" ")[0],
            "db.query.summary": name,
            "db.query.text": text,
        }
        span = trace.child(name, attributes, kind=SpanKind.CLIENT, began_ns=began).span
        assert span is not None
        if query.exception is not None:
            # Its message may quote a row.
            state = getattr(query.exception, "sqlstate", None)
            if state:
                span.set_attribute("db.response.status_code", state)
            span.set_attribute("error.type", state or type(query.exception).__qualname__)
            span.set_status(StatusCode.ERROR)
        span.end(ended)

    connection.add_query_logger(record)
    try:
        yield
    finally:
        with suppress(asyncpg.InterfaceError):  # the connection broke, and is no longer ours
            connection.remove_query_logger(record)


@lru_cache(maxsize=512)
def described(query: str) -> tuple[str, str]:
    """What a statement does, two words a table, and its text on one line without literals."""
    text = LITERAL.sub("?", " ".join(query.split()))
    operation = text.partition(" ")[0].rstrip(";").upper()
    if operation == "WITH":
        if changes := CHANGE.findall(text):
            return " ".join(f"{verb.split()[0]} {table}" for verb, table in changes), text[:MAX_TEXT]
        operation = "SELECT"  # of what it has just looked up
    table = TABLE.search(text)
    return f"{operation} {table[1]}" if table else operation, text[:MAX_TEXT]
