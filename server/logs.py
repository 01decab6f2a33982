"""Structured logs: one JSON object a line on standard error.

No request, reply or personal data is ever logged. Text of exceptions may hold either
(a database error quotes the row, a KeyError the key), so of an exception only its
type, its place in the code and a message known to be harmless are written.

Logging never fails: what standard error doesn't take is lost.
"""

import logging
import sys
import traceback
from contextlib import suppress
from typing import Any

import asyncpg
import structlog
from structlog.typing import EventDict

from server.domain.errors import Refused
from telemetry.traces import current

MAX_FRAMES = 30
# The messages of this class quote the value that didn't fit ("invalid input syntax ...").
DATA_EXCEPTION = "22"


def configure(level: str = "INFO") -> None:
    """Write events of ``level`` and above; those of libraries too, from WARNING on."""
    threshold = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _add_trace,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: structlog.PrintLogger(STANDARD_ERROR),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=max(threshold, logging.WARNING), force=True)


def describe(error: BaseException) -> dict[str, Any]:
    """What may be logged of an exception: types, places and harmless messages, causes included."""
    described: dict[str, Any] = {"error": type(error).__qualname__, "frames": _frames(error)}
    message = _harmless(error)
    if message:
        described["message"] = message
    if isinstance(error, asyncpg.PostgresError):
        described["sqlstate"] = error.sqlstate
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        described["cause"] = describe(cause)
    return described


def _add_trace(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Name the trace of the call that a line belongs to, sampled or not."""
    trace = current.get()
    if trace is not None:
        event["trace_id"], event["span_id"] = trace.ids()
    return event


def _harmless(error: BaseException) -> str:
    if isinstance(error, Refused):
        return error.reason
    if isinstance(error, asyncpg.PostgresError):
        # Without DETAIL and HINT, which str(error) would add.
        return "" if (error.sqlstate or DATA_EXCEPTION).startswith(DATA_EXCEPTION) else str(error.args[0])
    if isinstance(error, OSError):
        return error.strerror or ""
    return ""


def _frames(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


class _StandardError:
    """Standard error as far as it takes what is written: its disk may be full, or its reader gone."""

    # Looked up each time, because it may be replaced.
    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


STANDARD_ERROR = _StandardError()


class _Forward(logging.Handler):
    """Turns records of the standard library's logging into events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        # The template without its arguments: those may hold anything.
        event: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1]:
            event |= describe(record.exc_info[1])
        structlog.get_logger().log(record.levelno, str(record.msg), **event)
