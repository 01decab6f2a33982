"""The HTTP server around the shim: uvicorn with httptools, told when to start and stop."""

import asyncio
import contextlib
import re
import resource
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

App = Callable[..., Awaitable[None]]

# A request's line and headers together, in bytes.
MAX_HEAD = 64 * 1024
# For the head of a request to arrive, once its connection is there or its first byte came.
HEAD_SECONDS = 20.0
KEEP_ALIVE_SECONDS = 75
# Of the files that the process may have open; the others are for the database and the like.
CONNECTIONS_SHARE = 0.75
PING_SECONDS = 20.0


# An offer to speak HTTP/2, which Java's client makes with every first request. The parser would
# take what follows the head for that other protocol, and a body would be lost.
OFFER = re.compile(rb"\r\nUpgrade:(?=[ \t]*h2c)", re.IGNORECASE)
HEAD_END = b"\r\n\r\n"


class ListenError(Exception):
    """The address can't be listened on; the message says why."""


class Bounded(HttpToolsProtocol):
    """HTTP/1.1 whose heads have a size and a time; uvicorn itself bounds neither."""

    _head_bytes = 0
    _unfinished_bytes = 0
    _in_message = False
    _in_body = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A silent connection is closed, and one too many at once."""
        super().connection_made(transport)  # type: ignore[arg-type] # uvicorn narrows it
        if len(self.connections) > most_connections():
            self.transport.abort()
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a request, or several."""
        if not self._in_message and b"h2c" in data:
            head, end, rest = data.partition(HEAD_END)
            data = OFFER.sub(b"\r\nX-Offered:", head) + end + rest
        unfinished = self._in_message and not self._in_body
        super().data_received(data)
        self._go_on_waiting()
        # The parser keeps a header to itself until it is whole.
        if unfinished and not self._in_body and not self.transport.is_closing():
            self._unfinished_bytes += len(data)
            if self._unfinished_bytes > MAX_HEAD:
                self.send_400_response("the head is too large")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_message = True
        super().on_message_begin()
        self._head_bytes = self._unfinished_bytes = 0
        self._in_body = False
        self._wait()

    def on_url(self, url: bytes) -> None:
        """A part of the request's line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; one after the body is none, or it would pass by who reads the head."""
        self._count(len(name) + len(value))
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._arrived()
        self._in_body = True
        hosts, body = 0, False
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                body = body or value != b"0"
            elif name == b"transfer-encoding":
                body = True
                # Whatever else it names would have to be undone before anybody reads the body.
                if value.strip().lower() != b"chunked":
                    raise ValueError("only chunked bodies are read")
        if hosts != 1 and self.parser.get_http_version() == "1.1":
            raise ValueError("a request has one Host")
        if body and self.parser.should_upgrade():
            raise ValueError("a request that offers another protocol has no body")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there."""
        self._in_message = False
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD:
            raise ValueError("the head is too large")  # the parser answers 400 and closes

    def _go_on_waiting(self) -> None:
        # Of what is answered before all of it came, uvicorn would wait for the rest for ever.
        answered = self.cycle is not None and self.cycle.response_complete
        if answered and self._head_timer is None and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _wait(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Handshaken(WebSocketsSansIOProtocol):
    """WebSockets of which a refused one is over; uvicorn takes it for forgotten, and logs an error."""

    async def send(self, message: Any) -> None:
        """Send what the application says."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True


def most_connections() -> int:
    """How many connections may be open at once, WebSockets among them."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else int(files * CONNECTIONS_SHARE)


class HttpServer:
    """Serves an ASGI application on a socket that is bound."""

    def __init__(
        self,
        app: App,
        listening: socket.socket,
        *,
        max_message_bytes: int,
        drain_seconds: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.port: int = listening.getsockname()[1]
        self._socket = listening
        config = uvicorn.Config(
            app,
            http=Bounded,
            ws=Handshaken,
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            # What a client says of where it comes from is not believed.
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
            ws_max_size=max_message_bytes,
            # Compression costs an idle WebSocket more memory than all else.
            ws_per_message_deflate=False,
            ws_ping_interval=PING_SECONDS,
            ws_ping_timeout=PING_SECONDS,
        )
        config.load()
        config.ssl = tls
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept connections on return."""
        await self._server.startup(sockets=[self._socket])
        self._ticking = asyncio.create_task(self._server.main_loop())

    async def stop(self) -> None:
        """Accept no more connections; let requests under way finish, for as long as draining may take."""
        self._server.should_exit = True
        if self._ticking is not None:
            with contextlib.suppress(asyncio.CancelledError):
                self._ticking.cancel()
                await self._ticking
        await self._server.shutdown(sockets=[self._socket])


def bind(host: str, port: int, *, shared: bool = True) -> socket.socket:
    """A socket for a server, not listening yet; port 0 picks a free one. Raises ListenError.

    ``shared`` lets several processes listen on the same port, and the kernel divide the
    connections among them.
    """
    try:
        found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, place = found[0]
        # asyncio sends small writes at once only on sockets that say they are TCP.
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(f"{host}:{port}: {error.strerror}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(place)
    except OSError as error:
        bound.close()
        raise ListenError(f"{host}:{port}: {error.strerror}") from None
    bound.setblocking(False)
    return bound
