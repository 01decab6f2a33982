"""From what went wrong to one clear line; never a traceback for what an operator can mend."""

from collections.abc import Iterator
from typing import cast

import asyncpg
import click
import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from laurel.stack.processes import StackError
from migrations import MigrationError
from server.domain.checkpoints import CheckpointError, NoSuchCheckpointError
from server.domain.errors import Refused
from server.secrets import SecretsError

# What operators can cause; anything else is a fault of ours and may show its traceback.
KNOWN = (
    grpc.RpcError,
    Refused,
    StackError,
    MigrationError,
    SecretsError,
    CheckpointError,
    NoSuchCheckpointError,
    asyncpg.PostgresError,
    OSError,
)


class Failure(click.ClickException):
    """Ends the command with exit code 1 and the message."""


def explain(error: BaseException) -> str:
    """The line to show, with further lines where there is more to say."""
    match error:
        case grpc.RpcError():
            text = "\n".join(_explain_call(error))
        case Refused():
            text = f"{error.reason}: {error.message}"
        case asyncpg.InvalidCatalogNameError():
            text = f"{error}; run `laurel migrate`"
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            text = "the database is behind this Laurel; run `laurel migrate`"
        case asyncpg.PostgresError():
            text = f"the database refused: {error}"
        # asyncpg on a socket that is not there names no file.
        case ConnectionError() | TimeoutError() | FileNotFoundError(filename=None):
            text = "the database can't be reached; does `laurel up` run, or is LAUREL_DATABASE_URL right?"
        case _:
            text = str(error) or type(error).__name__
    return text


def no_message(error: Exception) -> str:
    """Why a text is no message in proto3 JSON, in one line: protobuf lists every field below, unasked."""
    return str(error).split("\n")[0].removeprefix("Failed to load JSON: ").rstrip(".")


def _explain_call(error: grpc.RpcError) -> Iterator[str]:
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        yield f"the call failed: {type(error).__name__}"
        return
    code, message = error.code(), error.details() or ""
    # What an aio call raises has all that is asked of a call, but not the type.
    status = rpc_status.from_call(cast(grpc.Call, error))
    if status is None:
        yield _without_details(code, message)
        return
    reason, violations, retry = "", list[str](), ""
    for detail in status.details:
        info, bad, again = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            reason = f" ({info.reason})"
        elif detail.Unpack(bad):
            violations += [f"  {v.field}: {v.description}" for v in bad.field_violations]
        elif detail.Unpack(again):
            retry = f"; retry after {again.retry_delay.ToTimedelta().total_seconds():g} s"
    yield f"{code.name}{reason}: {message}{retry}"
    # A message may quote its violations; one at a time is easier to read than twice.
    yield from (line for line in violations if len(violations) > 1 or line.strip() not in message)


def _without_details(code: grpc.StatusCode, message: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE:
        return "UNAVAILABLE: no server answers; does `laurel up` run, or is LAUREL_ADDRESS right?"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "DEADLINE_EXCEEDED: the server took too long; a write's outcome is unknown until it is retried"
    return f"{code.name}: {message}"
