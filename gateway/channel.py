"""A gRPC server as the backend, over one channel that reconnects by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from gateway.backend import Call, Failed

DETAILS_KEY = "grpc-status-details-bin"
CHALLENGE_KEY = "www-authenticate"
# Back soon after an outage, without hammering what is down.
RECONNECT_FIRST_MS = 100
RECONNECT_LONGEST_MS = 1000
# How long one attempt may take, TLS included, before it counts as failed and the calls that wait fail.
CONNECT_MS = 5000
REACH_SECONDS = 2.0


class ChannelBackend:
    """Any gRPC server. Open it within the event loop, close it when done."""

    def __init__(
        self,
        address: str,
        *,
        max_message_bytes: int,
        patience: float,
        domain: str,
        credentials: grpc.ChannelCredentials | None = None,
        server_name: str = "",
    ) -> None:
        """``patience`` is how long a unary call without a deadline may take, in seconds.

        ``server_name`` is what the server's certificate says where ``address`` says another.
        ``domain`` is that of the ErrorInfo where the server can't be reached to give its own.
        """
        named = (("grpc.ssl_target_name_override", server_name),) if server_name else ()
        options = (
            *named,
            ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
            ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_LONGEST_MS),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
        )
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        self._unary: dict[str, Any] = {}
        self._domain = domain
        self._patience = patience

    async def close(self) -> None:
        """End every call and the connection."""
        await self._channel.close()

    async def reachable(self) -> str:
        """Whether the server can be reached, as a check of readiness: "" if so."""
        try:
            async with asyncio.timeout(REACH_SECONDS):
                await self._channel.channel_ready()
        except TimeoutError:
            return "can't be reached"
        return ""

    async def unary(self, call: Call, request: bytes) -> bytes:
        """The server's reply. Raises Failed."""
        method = self._unary.get(call.path)
        if method is None:
            method = self._unary[call.path] = self._channel.unary_unary(call.path)
        timeout = self._patience if call.timeout is None else call.timeout
        under_way = method(request, metadata=call.metadata, timeout=timeout)
        try:
            reply: bytes = await under_way
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        finally:
            under_way.cancel()
        return reply

    async def stream(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The server's replies, whichever side streams: on the wire there is no difference."""
        method: Any = self._channel.stream_stream(call.path)
        under_way = method(metadata=call.metadata, timeout=call.timeout)
        # gRPC's own reader of an iterator outlives a call that ended by itself; ours doesn't.
        beside = [
            asyncio.create_task(work)
            for work in (feed(under_way, requests), _listen(under_way, call.admitted))
        ]
        try:
            async for reply in under_way:
                yield reply
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        finally:
            under_way.cancel()
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    def _failed(self, error: grpc.aio.AioRpcError) -> Failed:
        code = error.code().value[0]
        trailing = error.trailing_metadata()
        raw = trailing.get(DETAILS_KEY) if trailing is not None else None
        challenge = trailing.get(CHALLENGE_KEY) if trailing is not None else None
        told = challenge if isinstance(challenge, str) else None
        if isinstance(raw, bytes):
            try:
                status = status_pb2.Status.FromString(raw)
            except DecodeError:
                status = status_pb2.Status()
            if status.code == code:
                return Failed(status, told)
        return Failed(self._without_details(code, error), told)

    def _without_details(self, code: int, error: grpc.aio.AioRpcError) -> status_pb2.Status:
        """For a status of gRPC itself, whose text tells of addresses and libraries."""
        # We would know of cancelling it. So ends what a server that stops had not begun
        # (grpc/grpc#41785).
        code = code_pb2.UNAVAILABLE if code == code_pb2.CANCELLED else code
        message = OWN_WORDS.get(code) or error.details() or ""
        status = status_pb2.Status(code=code, message=message)
        reason = REASONS.get(code)
        if reason:
            detail = AnyMessage()
            detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=self._domain))
            status.details.append(detail)
        return status


async def feed(under_way: Any, requests: AsyncIterator[bytes]) -> None:
    """Send what the client says, until it has said everything or nobody listens any more.

    ``under_way`` is a call of grpc.aio without an iterator of requests.
    """
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.InternalError):
        await under_way.wait_for_connection()
        async for request in requests:
            if under_way.done():
                return
            # Not by `write`, as an iterator of requests is: when a message meets the end of the call, that
            # makes an INTERNAL of it, and the server's own status is lost.
            await under_way._cython_call.send_serialized_message(request)
        await under_way.done_writing()


async def _listen(under_way: Any, admitted: Callable[[], None]) -> None:
    """Tell of the server's first words, if there are any."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        await under_way.initial_metadata()
        admitted()


OWN_WORDS = {
    code_pb2.UNAVAILABLE: "the server can't be reached; whether the call was carried out is not known",
    code_pb2.DEADLINE_EXCEEDED: "the call's time was over before the server answered",
    code_pb2.UNKNOWN: "the server failed without saying why",
    code_pb2.INTERNAL: "the server failed without saying why",
}
REASONS = {
    code_pb2.UNAVAILABLE: "SERVER_UNAVAILABLE",
    code_pb2.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
}
