"""An OpenTelemetry collector that throws away what it is sent.

    python -m bench.collector PORT

Servers send to it as they would to a real one, and its own work hardly shows.
"""

import asyncio
import sys
from typing import Any

import grpc


class Everything(grpc.GenericRpcHandler):
    """Answers every method with an empty message."""

    def service(self, _details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        """The handler of any method."""

        async def answer(_request: bytes, _context: Any) -> bytes:
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Everything()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
