"""The server in this process as the shim's backend: through the same gate, without a connection."""

import asyncio
from collections.abc import AsyncIterator

from gateway.backend import Call, Failed
from server.rpc import gate
from server.rpc.errors import challenge, unknown_method
from server.rpc.handlers import Methods

# Replies that wait for the client; then the method must wait too.
WAITING = 16


class Incoming:
    """A call of the shim's as the gate sees it."""

    __slots__ = ("_call", "_deadline")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._deadline = None
        if call.timeout is not None:
            self._deadline = asyncio.get_running_loop().time() + call.timeout

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """What the client sent and the shim passes on."""
        return self._call.metadata

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline; None if it set none."""
        if self._deadline is None:
            return None
        return self._deadline - asyncio.get_running_loop().time()

    def peer(self) -> str:
        """Where the HTTP connection comes from."""
        return self._call.peer

    async def send_initial_metadata(self, _metadata: tuple[()]) -> None:
        """The caller of a stream was let in."""
        self._call.admitted()


class InsideBackend:
    """Calls methods behind the gate, by their gRPC paths."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods

    async def unary(self, call: Call, request: bytes) -> bytes:
        """The method's reply. Raises Failed."""
        method = self._methods.unary.get(call.path)
        if method is None:
            raise _unknown(call)
        try:
            return await method(request, Incoming(call))
        except gate.Failed as failed:
            raise _failed(failed) from None

    async def stream(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The method's replies. Raises Failed."""
        method = self._methods.streams.get(call.path)
        if method is None:
            raise _unknown(call)
        replies: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(WAITING)
        # In a task of its own: whoever iterates may do so from several.
        talking = asyncio.create_task(_talk(method, requests, replies, Incoming(call)))
        try:
            while (reply := await replies.get()) is not None:
                if isinstance(reply, Exception):
                    raise reply
                yield reply
        except gate.Failed as failed:
            raise _failed(failed) from None
        finally:
            talking.cancel()
            await asyncio.wait((talking,))


async def _talk(
    method: gate.Stream,
    requests: AsyncIterator[bytes],
    replies: "asyncio.Queue[bytes | Exception | None]",
    incoming: Incoming,
) -> None:
    end: Exception | None = None
    try:
        await method(requests, replies.put, incoming)
    except Exception as error:  # noqa: BLE001 - told to whoever iterates
        end = error
    await replies.put(end)


def _failed(failed: gate.Failed) -> Failed:
    return Failed(failed.status, challenge(failed.status))


def _unknown(call: Call) -> Failed:
    return Failed(unknown_method(call.path.removeprefix("/").replace("/", ".")))
