"""The ops listener: /metrics, /livez and /readyz over HTTP, on a port of their own.

It is for those who run Laurel and asks for no credential, so it belongs on an address
that only they reach. ``/livez`` answers as long as the event loop turns and looks at
nothing else: a process whose database is away must not be killed for it. ``/readyz``
tells as JSON which check fails.
"""

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import uvicorn

from telemetry import prometheus
from telemetry.setup import Telemetry

# Each says "" if all is well, else what is wrong, in words that give nothing away.
Checks = Mapping[str, Callable[[], Awaitable[str]]]
Page = tuple[int, str, bytes]

JSON = "application/json"
FINE = "ok"
CALLS_AT_ONCE = 32
CHECK_SECONDS = 3.0


class Listener:
    """Serves the three pages; ``checks`` may be added to while it runs."""

    def __init__(self, telemetry: Telemetry, checks: Checks) -> None:
        self.port = 0
        self._telemetry = telemetry
        self._checks = checks
        self._pages: Mapping[str, Callable[[], Awaitable[Page]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
        }

    async def open(self, host: str, port: int) -> None:
        """Listen, on a free port if it is 0; then ``port`` tells which. Raises OSError."""
        bound = _bind(host, port)
        self.port = bound.getsockname()[1]
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            http="httptools",
            proxy_headers=False,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CALLS_AT_ONCE,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]))
        await self._server.up.wait()

    async def close(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        await self._task

    async def _serve(self, scope: Any, _receive: Any, send: Any) -> None:
        page = self._pages.get(scope["path"])
        if page is None:
            status, kind, body = 404, "text/plain", " ".join(self._pages).encode()
        elif scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, "text/plain", b"GET"
        else:
            status, kind, body = await page()
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _livez(self) -> Page:
        return 200, JSON, b'{"alive": true}'

    async def _readyz(self) -> Page:
        outcomes = await asyncio.gather(*map(_outcome, self._checks.values()))
        found = dict(zip(self._checks, outcomes, strict=True))
        ready = all(outcome == FINE for outcome in found.values())
        return 200 if ready else 503, JSON, json.dumps({"ready": ready, "checks": found}).encode()

    async def _metrics(self) -> Page:
        await self._telemetry.refresh()
        return 200, prometheus.CONTENT_TYPE, prometheus.text(self._telemetry.metrics)


async def _outcome(check: Callable[[], Awaitable[str]]) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check() or FINE
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"


class _Server(uvicorn.Server):
    """Tells when it is up, and leaves the signals to whoever runs the process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(host: str, port: int) -> socket.socket:
    """A socket on that port, which somebody may keep for us, but where nobody may listen."""
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if port:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(place) == 0:
                raise OSError(errno.EADDRINUSE, "somebody else listens there")
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # `laurel up` holds the ports of its servers, so that no other stack takes them.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(place)
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound
