"""gRPC and REST in one process, started and stopped in order."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator

import structlog

from gateway.settings import GatewaySettings
from laurel.process.inside import InsideBackend
from laurel.process.rest import Rest
from server.main import Server
from server.settings import Settings

log = structlog.get_logger()


class Process:
    """A server and the shim before it. ``server.port`` and ``rest.port`` are where they listen."""

    def __init__(self, settings: Settings, http: GatewaySettings) -> None:
        self.server = Server(settings)
        self._http = http
        self._rest: Rest | None = None

    @property
    def rest(self) -> Rest:
        """The HTTP side, once started."""
        assert self._rest is not None
        return self._rest

    async def start(self) -> None:
        """Be ready to serve on return. Raises StartError; what had started is stopped again."""
        await self.server.start()
        try:
            shown = self.server.certificates
            self._rest = Rest(
                self._http, InsideBackend(self.server.methods), tls=shown.context() if shown else None
            )
            await self._rest.start()
        except BaseException:
            await self.server.stop()
            raise

    async def stop(self) -> None:
        """Announce it, then take no more calls over either way, let those under way finish, and close.

        Both at once: the server closes nothing before the calls of both are done.
        """
        await self.server.announce_stop()
        await asyncio.gather(self.rest.stop(), self.server.stop())


@contextlib.asynccontextmanager
async def running(settings: Settings, http: GatewaySettings) -> AsyncIterator[Process]:
    """A process's parts for as long as the block lasts."""
    process = Process(settings, http)
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


async def serve(settings: Settings, http: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT. One JSON line on standard output tells of the ports."""
    async with running(settings, http) as process:
        await until_asked(
            {
                "host": settings.host,
                "port": process.server.port,
                "ops_port": process.server.ops_port,
                "http_host": http.http_host,
                "http_port": process.rest.port,
            }
        )
        log.info("stopping", grace_seconds=settings.grace_seconds, drain_seconds=settings.drain_seconds)


async def until_asked(places: dict[str, object]) -> None:
    """Tell on standard output where somebody listens, and wait for SIGTERM or SIGINT."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    print(json.dumps({"event": "ready", **places}), file=sys.stdout, flush=True)
    await asked.wait()
