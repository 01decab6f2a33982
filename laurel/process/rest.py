"""REST over HTTP: the shim for Laurel's contracts, its pages and the port they share."""

import ssl
from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from gateway.app import Gateway
from gateway.backend import Backend
from gateway.contract import Contract
from gateway.cors import Cors
from gateway.openapi import comments
from gateway.openapi.document import document
from gateway.openapi.page import pages
from gateway.server import App, HttpServer, ListenError, bind
from gateway.settings import GatewaySettings
from gateway.watch import Watched
from laurel.description import about, contracts
from server.rpc.errors import DOMAIN
from server.serving import StartError
from telemetry.setup import Telemetry

# What is told to everybody must be of no use to others than this machine.
LOOPBACK = ("127.0.0.1", "localhost")


class Rest:
    """The HTTP side of a process. ``port`` is where it listens; calls go to ``backend``.

    ``mounted`` are further routes, each under a first segment of its own, which then is
    not the contracts'. ``telemetry`` is what requests are counted and traced with; ``health`` is
    where this process tells whether it is ready, "" if nobody is to know. Raises StartError.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        backend: Backend,
        telemetry: Telemetry,
        mounted: Sequence[BaseRoute] = (),
        tls: ssl.SSLContext | None = None,
        health: str = "",
    ) -> None:
        self._drain_seconds = settings.drain_seconds
        files = contracts()
        contract = Contract(files)
        self.gateway = Gateway(
            contract, backend, limits=settings.limits, cors=Cors(settings.origins), domain=DOMAIN
        )
        laurel = about()
        front = {"name": laurel.title, "version": laurel.version} | ({"health": health} if health else {})
        documented = pages(lambda: document(contract.routes.bindings, laurel, comments.read(files)), front)
        try:
            listening = bind(settings.http_host, settings.http_port)
        except ListenError as error:
            raise StartError(
                f"can't listen on {error}; LAUREL_HTTP_HOST and LAUREL_HTTP_PORT name another place for REST"
            ) from None
        self._server = HttpServer(
            Watched(beside(self.gateway, [*documented, *mounted]), telemetry.metrics, telemetry.tracing),
            listening,
            max_message_bytes=settings.max_message_bytes,
            drain_seconds=settings.drain_seconds,
            tls=tls,
        )
        self.port = self._server.port

    async def start(self) -> None:
        """Accept connections on return."""
        await self._server.start()

    async def stop(self) -> None:
        """Accept no more connections; let calls under way finish, end streams."""
        await self.gateway.end_streams(self._drain_seconds)
        await self._server.stop()


def beside(gateway: Gateway, routes: Sequence[BaseRoute]) -> App:
    """An application that sends paths by their first segment to ``routes``, all others to the shim.

    The shim stays outside of Starlette: matching a call against routes one by one would
    cost it more than all its own routing.
    """
    others = Starlette(routes=list(routes))
    first = {_first(str(getattr(route, "path", ""))) for route in routes}

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and _first(scope["path"]) in first:
            await others(scope, receive, send)
        else:
            await gateway(scope, receive, send)

    return app


def _first(path: str) -> str:
    return path[1:].partition("/")[0] if path != "/" else path


def health_at(host: str, port: int | None) -> str:
    """Where a process tells of its health; "" if nowhere, or where only some of its callers may look."""
    return f"http://{host}:{port}/readyz" if port is not None and host in LOOPBACK else ""
