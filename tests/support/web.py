"""ASGI applications on a real port of this machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.server import HttpServer, bind


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Host and port where ``app`` is served for as long as the block lasts."""
    server = HttpServer(app, bind("127.0.0.1", 0), max_message_bytes=4 * 1024 * 1024, drain_seconds=1.0)
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop()
