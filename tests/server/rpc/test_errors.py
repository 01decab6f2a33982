import ast
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog
from google.rpc import code_pb2, error_details_pb2
from loyalty.v1 import error_reason_pb2

from server import logs
from server.domain import errors
from server.domain.errors import InvalidArgument, Refused, Unavailable, Violation
from server.rpc.errors import CODES, status_of
from server.store.database import Database

ROOT = Path(__file__).parents[3]
REASONS = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
CATEGORIES = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, Refused) and kind is not errors.Refused
}


def details(error: BaseException, kind: type[Any]) -> list[Any]:
    found = []
    for detail in status_of(error).details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


def test_every_category_has_a_code_of_its_own() -> None:
    concrete = {getattr(errors, name) for name in CATEGORIES} - {errors.Retryable}
    assert set(CODES) == concrete
    assert len(set(CODES.values())) == len(CODES)


def test_a_category_further_down_keeps_the_code_of_its_parent() -> None:
    class TooLate(errors.FailedPrecondition):
        pass

    assert status_of(TooLate("OCCURRED_TOO_LONG_AGO", "too late")).code == code_pb2.FAILED_PRECONDITION


def test_a_refusal_says_its_reason_and_what_varies() -> None:
    error = errors.FailedPrecondition("INSUFFICIENT_POINTS", "not enough points", {"missing": "63"})
    (info,) = details(error, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason, dict(info.metadata)) == (
        "loyalty.laurel",
        "INSUFFICIENT_POINTS",
        {"missing": "63"},
    )


def test_violations_become_a_bad_request() -> None:
    error = InvalidArgument(
        [Violation("amount.units", "must not be negative"), Violation("store", "is required")]
    )
    (bad,) = details(error, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("amount.units", "must not be negative"),
        ("store", "is required"),
    ]


def test_what_may_be_retried_says_when() -> None:
    (retry,) = details(Unavailable("STORAGE_UNAVAILABLE", "not now", None, 1.5), error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 1500
    assert not details(Unavailable("STORAGE_UNAVAILABLE", "not now"), error_details_pb2.RetryInfo)


def test_no_refusal_is_too_large_for_the_headers_of_an_answer() -> None:
    path = "attributes[" + "अ" * 64 + "]"
    status = status_of(InvalidArgument([Violation(path * 9, "पुणे" * 999)] * 500, metadata={"x": "é" * 9999}))
    assert 0 < len(status.message.encode()) <= 1000
    assert status.ByteSize() < 4000
    assert len(status.details) == 2


def test_text_that_can_not_be_encoded_does_not_break_the_answer() -> None:
    assert status_of(errors.NotFound("RULE_NOT_FOUND", "no \ud800", {"rule": "\ud800"})).message == "no ?"


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    logs.configure()
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    structlog.reset_defaults()


async def test_a_database_error_is_logged_without_the_row_it_quotes(database: Database, lines: Any) -> None:
    errors_met: list[BaseException] = []
    for statement in (
        "INSERT INTO program VALUES (NULL, 'asha@example.com', '', '', '{}', '[]')",
        "SELECT 'asha@example.com'::integer",
        "SELECT 1/0",
    ):
        async with database.connection() as connection:
            with pytest.raises(asyncpg.PostgresError) as caught:
                await connection.execute(statement)
        errors_met.append(caught.value)
    for error in errors_met:
        status = status_of(error)
        (line,) = lines()
        assert (status.code, status.message) == (code_pb2.INTERNAL, "internal error")
        (info,) = (m for m in _unpacked(status) if m.reason)
        assert line["incident"] == info.metadata["incident"]
        assert line["sqlstate"] == error.sqlstate
        assert "asha" not in json.dumps(line)
        assert "asha" not in str(status)
    assert "asha" in str(errors_met[0]), "the error does quote the row"


def test_a_fault_is_logged_with_its_place_and_its_cause_but_not_its_words(lines: Any) -> None:
    def read() -> None:
        try:
            {}["asha@example.com"]
        except KeyError as error:
            raise RuntimeError("of asha@example.com") from error

    try:
        read()
    except RuntimeError as error:
        status_of(error)
    (line,) = lines()
    assert line["error"] == "RuntimeError"
    assert line["cause"]["error"] == "KeyError"
    assert any(frame.endswith(" read") for frame in line["frames"])
    assert "asha" not in json.dumps(line)


def test_libraries_are_logged_by_the_template_of_what_they_say(lines: Any) -> None:
    logging.getLogger("grpc").error("unexpected %s", "asha@example.com")
    (line,) = lines()
    assert (line["event"], line["logger"]) == ("unexpected %s", "grpc")


def raised() -> Iterator[tuple[Path, int, str]]:
    """Every reason that stands as a literal where a refusal is made."""
    for path in (ROOT / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            arguments = [*node.args, *(k.value for k in node.keywords if k.arg == "reason")]
            if called in CATEGORIES | {"invalid", "_status"}:
                for argument in arguments:
                    text = argument.value if isinstance(argument, ast.Constant) else None
                    if isinstance(text, str) and text.isupper() and text.replace("_", "").isalpha():
                        yield path, node.lineno, text


def test_every_reason_that_is_raised_stands_in_the_contract() -> None:
    found = list(raised())
    unknown = [f"{path}:{line} {reason}" for path, line, reason in found if reason not in REASONS]
    assert not unknown
    assert {"CREDENTIAL_INVALID", "STORAGE_UNAVAILABLE", "PAGE_TOKEN_INVALID"} <= {r for _, _, r in found}


def _unpacked(status: Any) -> Iterator[error_details_pb2.ErrorInfo]:
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            yield info
