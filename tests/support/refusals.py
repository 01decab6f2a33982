"""Looking at refusals as a client gets them."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from loyalty.v1 import error_reason_pb2


@dataclass(frozen=True)
class Refusal:
    """A refused call: its gRPC code, and what its details say."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str]
    retry_seconds: float | None


async def refusal(call: Awaitable[Any]) -> Refusal:
    """The refusal that ``call`` meets; fails if it succeeds, or if its details are not as promised."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return read(caught.value)


def read(error: grpc.aio.AioRpcError) -> Refusal:
    """What an error says; it must hold one ErrorInfo with a reason of the contracts."""
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error.code()} {error.details()}"
    info = _one(status, error_details_pb2.ErrorInfo)
    assert info is not None, f"no ErrorInfo: {status}"
    assert info.domain == "loyalty.laurel"
    assert f"ERROR_REASON_{info.reason}" in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118 - an enum, no dict
    retry = _one(status, error_details_pb2.RetryInfo)
    bad = _one(status, error_details_pb2.BadRequest)
    return Refusal(
        code=error.code(),
        message=status.message,
        reason=info.reason,
        metadata=dict(info.metadata),
        violations={v.field: v.description for v in bad.field_violations} if bad else {},
        retry_seconds=retry.retry_delay.ToMilliseconds() / 1000 if retry else None,
    )


def _one(status: Any, kind: type[Any]) -> Any:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    assert len(found) <= 1
    return found[0] if found else None
