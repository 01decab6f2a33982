"""The server in this process as the shim's backend: through the same gate, without a connection."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from gateway.backend import Call, Failed
from server.rpc import gate
from server.rpc.errors import challenge, unknown_method


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


class InsideBackend:
    """Calls methods behind the gate, by their gRPC paths."""

    def __init__(self, methods: Mapping[str, gate.Method]) -> None:
        self._methods = methods

    async def unary(self, call: Call, request: bytes) -> bytes:
        """The method's reply. Raises Failed."""
        method = self._methods.get(call.path)
        if method is None:
            raise _unknown(call)
        try:
            return await method(request, Incoming(call))
        except gate.Failed as failed:
            raise Failed(failed.status, challenge(failed.status)) from None

    async def stream(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Nothing: no method behind the gate streams. Raises Failed."""
        raise _unknown(call)
        yield b""  # what makes it an iterator


def _unknown(call: Call) -> Failed:
    return Failed(unknown_method(call.path.removeprefix("/").replace("/", ".")))
