"""Calls to a server over a channel."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.rpc import code_pb2

from gateway.backend import Call, Failed
from gateway.channel import ChannelBackend

CALLS = 300
AT_ONCE = 10


class Refusing(grpc.GenericRpcHandler):
    """A server that ends every stream while its client still speaks."""

    def service(self, _: Any) -> Any:
        async def refuse(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            await asyncio.sleep(0.001)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
            yield b""

        return grpc.stream_stream_rpc_method_handler(refuse)


async def test_a_message_that_meets_the_end_of_a_call_does_not_hide_why_it_ended() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    backend = ChannelBackend(f"127.0.0.1:{port}", max_message_bytes=1 << 22, patience=60, domain="test")

    async def talk() -> int:
        async def requests() -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0.0002)
                yield b"x" * 1000

        try:
            async for _ in backend.stream(Call("/test.Service/Talk", (), 60, ""), requests()):
                pass
        except Failed as failed:
            return failed.status.code
        return code_pb2.OK

    ends: Counter[int] = Counter()
    for _ in range(CALLS // AT_ONCE):
        ends.update(await asyncio.gather(*(talk() for _ in range(AT_ONCE))))
    await backend.close()
    await server.stop(None)
    assert ends == {code_pb2.PERMISSION_DENIED: CALLS}
