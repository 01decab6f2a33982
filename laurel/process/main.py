"""gRPC and REST in one process, started and stopped in order."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import redis.asyncio
import structlog
from starlette.routing import BaseRoute, Mount

from gateway.settings import GatewaySettings
from laurel.failures import Failure
from laurel.process.inside import InsideBackend
from laurel.process.rest import Rest, health_at
from server.issuers import IssuersError
from server.main import Server
from server.serving import StartError, until_asked
from server.settings import Settings

# Where the local stack's own issuer has its keys.
ISSUER_FILE = "LAUREL_ISSUER_FILE"
REDIS_SECONDS = 1.0

log = structlog.get_logger()


class Process:
    """A server and the shim before it. ``server.port`` and ``rest.port`` are where they listen."""

    def __init__(self, settings: Settings, http: GatewaySettings) -> None:
        self.server = Server(settings)
        self._settings = settings
        self._http = http
        self._rest: Rest | None = None
        self._redis: redis.asyncio.Redis | None = None
        self._listens = False

    @property
    def rest(self) -> Rest:
        """The HTTP side, once started."""
        assert self._rest is not None
        return self._rest

    async def start(self) -> None:
        """Be ready to serve on return. Raises StartError; what had started is stopped again."""
        await self.server.start()
        try:
            if self.server.readiness is not None:
                self.server.readiness.checks["rest"] = self._rest_listens
            self._rest = self._make_rest()
            await self._rest.start()
            self._listens = True
        except BaseException:
            await self._close()
            await self.server.stop()
            raise

    def _make_rest(self) -> Rest:
        shown, telemetry = self.server.certificates, self.server.telemetry
        assert telemetry is not None
        return Rest(
            self._http,
            InsideBackend(self.server.methods),
            telemetry,
            self._mounted(),
            tls=shown.context() if shown else None,
            health=health_at(self._settings.ops_host, self.server.ops_port),
        )

    async def _rest_listens(self) -> str:
        return "" if self._listens else "starting"

    async def stop(self) -> None:
        """Announce it, then take no more calls over either way, let those under way finish, and close.

        Both at once: the server closes nothing before the calls of both are done.
        """
        await self.server.announce_stop()
        # Those over REST too; the shim would cut them off.
        await self.server.end_streams()
        await asyncio.gather(self.rest.stop(), self.server.stop())
        await self._close()

    def _mounted(self) -> list[BaseRoute]:
        """The local stack's own issuer, if `laurel up` has told to serve it. Raises StartError."""
        file = os.environ.get(ISSUER_FILE)
        if not file:
            return []
        # Here, so that a server without it needs nothing of it.
        from laurel.issuer import stack

        url = self._settings.redis_url.get_secret_value()
        self._redis = redis.asyncio.Redis.from_url(url, socket_timeout=REDIS_SECONDS)
        try:
            return [Mount(stack.PATH, stack.application(file, self._settings, self._redis))]
        except (IssuersError, Failure) as error:
            raise StartError(str(error)) from None

    async def _close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()


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
    """Serve until SIGTERM or SIGINT. One JSON line on standard output tells of the ports.

    Raises StartError, and Broken if it can't go on.
    """
    async with running(settings, http) as process:
        await until_asked(
            {
                "host": settings.host,
                "port": process.server.port,
                "ops_port": process.server.ops_port,
                "http_host": http.http_host,
                "http_port": process.rest.port,
            },
            process.server.broken(),
        )
        log.info("stopping", grace_seconds=settings.grace_seconds, drain_seconds=settings.drain_seconds)
