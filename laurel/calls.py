"""Many calls of the public API: several at a time, each tried again when that may help.

Whoever makes them gives every write a request_id made from its content, so that a retry,
or the whole run again, is the same request and changes nothing.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from laurel.client import CALL_SECONDS

ATTEMPTS = 8
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0
PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    # Of what a stopping server had not begun: nobody here cancels a call.
    grpc.StatusCode.CANCELLED,
)
# What concerns one request; anything else would befall all the others too.
OF_ONE = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
)

Item = TypeVar("Item")
Details = tuple[error_details_pb2.ErrorInfo, error_details_pb2.BadRequest]


class Calls:
    """Calls with one key. ``retries`` counts those that were made again."""

    def __init__(self, key: str) -> None:
        self._metadata = (("authorization", f"Bearer {key}"),)
        self.retries = 0

    async def make(self, method: Any, request: Any) -> Any:
        """The reply. Raises grpc.RpcError: at once if it is the request's fault, else when tries run out."""
        wait = FIRST_WAIT_SECONDS
        for _ in range(ATTEMPTS - 1):
            try:
                return await method(request, timeout=CALL_SECONDS, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() not in PASSING:
                    raise
            self.retries += 1
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come back at once
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        return await method(request, timeout=CALL_SECONDS, metadata=self._metadata)


async def at_a_time(number: int, items: Iterable[Item], work: Callable[[Item], Awaitable[None]]) -> None:
    """Do ``work`` with every item, ``number`` of them at a time; items are taken when their turn comes.

    Raises the first failure as it is, when the others have been cancelled.
    """
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(number):
                group.create_task(worker())
    except ExceptionGroup as failures:
        # Whoever asked wants the error of the call that failed, not a group of one.
        raise failures.exceptions[0] from None


def details_of(error: grpc.aio.AioRpcError) -> Details:
    """What the server said beside the code; empty where it said nothing."""
    # It has all that is asked of a call, but not the type.
    status = rpc_status.from_call(cast(grpc.Call, error))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details if status else ():
        # Unpack leaves the message alone if the detail is of another type.
        _ = detail.Unpack(info) or detail.Unpack(bad)
    return info, bad


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Why the server refused, such as MEMBER_NOT_ACTIVE; the code, if it didn't say."""
    return details_of(error)[0].reason or str(error.code().name)
