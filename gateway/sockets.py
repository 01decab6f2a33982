"""Streams over WebSocket: each text frame is a message.

The client sends the JSON that would be a body, and an empty frame when it has nothing
more to say. The server sends ``{"result": ...}``, and before it closes because of an error
``{"error": ...}``. The close code is 1000 at the end of the stream, 4000 plus the HTTP
status after an error.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from google.rpc import code_pb2

from gateway import bodies, headers
from gateway.backend import Backend, Call, Failed
from gateway.bindings import Binding
from gateway.bodies import Disconnected, Receive
from gateway.cors import Cors
from gateway.endpoints import Endpoint
from gateway.headers import Head
from gateway.interruption import Interruption
from gateway.limits import Limits, Slots
from gateway.replies import ReplyWriter
from gateway.responses import Send, respond
from gateway.routes import Match, Routes
from gateway.scopes import Scope, address_of, callers_of, path_of, peer_of, values_of
from gateway.statuses import ErrorResponse, Errors, Refused
from gateway.streams import Activity, one, pump
from gateway.watch import BINDING

# Frames that wait while the backend is busy; then the client must wait too.
WAITING = 16
DONE = 1000
ERRORS = 4000
BEARER = "bearer"
Read = Callable[[str], bytes]
DENIAL = "websocket.http.response"
# The first of these that has a stream at the path answers a WebSocket.
ORDER = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Sockets:
    """Serves WebSockets."""

    def __init__(
        self,
        routes: Routes,
        endpoints: Mapping[Binding, Endpoint],
        backend: Backend,
        limits: Limits,
        slots: Slots,
        cors: Cors,
        errors: Errors,
    ) -> None:
        self._routes = routes
        self._endpoints = endpoints
        self._backend = backend
        self._limits = limits
        self._slots = slots
        self._cors = cors
        self._errors = errors

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket from its handshake on. Raises Disconnected."""
        await receive()  # "websocket.connect"
        accepted = False
        try:
            head = headers.read(scope["headers"])
            protocol = _bearer(head)
            self._check_origin(scope, head)
            match = self._match(path_of(scope))
            scope[BINDING] = match.binding
            values = values_of(match)
            seconds = headers.timeout(head, self._limits.max_deadline)
            endpoint = self._endpoints[match.binding]
            with self._slots.taken(callers_of(scope, head), address_of(scope)) as place:
                await send({"type": "websocket.accept", "subprotocol": protocol})
                accepted = True
                call = Call(endpoint.path, tuple(head.metadata), seconds, peer_of(scope), place.admitted)
                await self._talk(endpoint, values, scope, head, call, receive, send, place)
        except (Refused, Failed) as error:
            told = self._errors.of(error)
            if accepted:
                await Frames(None, send).end(told)
            else:
                await _deny(scope, send, told)

    async def _talk(
        self,
        endpoint: Endpoint,
        values: dict[str, str],
        scope: Scope,
        head: Head,
        call: Call,
        receive: Receive,
        send: Send,
        interruption: Interruption,
    ) -> None:
        activity = Activity()
        key, event_id = headers.idempotency_key(head), head.get(b"last-event-id")

        def read(text: str) -> bytes:
            body = bodies.parse(text.encode("utf-8", "surrogatepass"), self._limits.depth)
            return endpoint.reader.read(
                values, scope["query_string"], body, request_id=key, last_event_id=event_id
            )

        heard = Heard(receive, self._limits.body, interruption, activity)
        try:
            if endpoint.client_streams:
                requests = heard.messages(read)
            elif endpoint.binding.body:
                requests = heard.message(read)
            else:
                requests = one(read(""))
                heard.ignore()
            stream = self._backend.stream(call, requests)
            await pump(stream, Frames(endpoint.writer, send), self._errors, self._limits, activity)
        finally:
            heard.close()

    def _match(self, path: str) -> Match:
        """The streaming binding at the path. Raises Refused."""
        matches = self._routes.all(path)
        for method in (*ORDER, None):
            for match in matches:
                if match.binding.streams and method in {match.binding.verb, None}:
                    return match
        if matches:
            raise Refused(400, code_pb2.INVALID_ARGUMENT, "NO_STREAM", "what is at this path does not stream")
        raise Refused(404, code_pb2.NOT_FOUND, "ROUTE_UNKNOWN", "there is nothing at this path")

    def _check_origin(self, scope: Scope, head: Head) -> None:
        """Browsers let any page open a WebSocket; the shim only those that CORS lets in. Raises Refused."""
        origin = head.get(b"origin")
        if not origin or self._cors.admits(origin):
            return
        if origin.partition("://")[2].lower() == head.get(b"host").lower():
            return
        raise Refused(
            403, code_pb2.PERMISSION_DENIED, "ORIGIN_NOT_ALLOWED", "pages of this origin are not let in"
        )


class Heard:
    """What the client says, read ahead a little, so that its leaving is noticed at once."""

    def __init__(self, receive: Receive, limit: int, interruption: Interruption, activity: Activity) -> None:
        self._receive = receive
        self._limit = limit
        self._interruption = interruption
        self._activity = activity
        self._waiting: asyncio.Queue[str] = asyncio.Queue(WAITING)
        self._ignored = False
        self._listening = asyncio.create_task(self._listen())

    async def messages(self, read: Read) -> AsyncIterator[bytes]:
        """Each frame as a request, until an empty one."""
        while text := await self._waiting.get():
            yield await self._read(read, text)

    async def message(self, read: Read) -> AsyncIterator[bytes]:
        """The next frame as the only request."""
        text = await self._waiting.get()
        self.ignore()
        yield await self._read(read, text)

    def ignore(self) -> None:
        """Whatever the client says from now on doesn't matter; that it leaves does."""
        self._ignored = True
        while not self._waiting.empty():
            self._waiting.get_nowait()  # so that nobody waits for room

    def close(self) -> None:
        """Listen no longer."""
        self._listening.cancel()

    async def _read(self, read: Read, text: str) -> bytes:
        try:
            return read(text)
        except Refused as refused:
            self._interruption.strike(refused)
            await asyncio.Event().wait()
            raise

    async def _listen(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._interruption.strike(Disconnected())
                return
            text = message.get("text")
            if text is None:
                self._interruption.strike(
                    Refused(415, code_pb2.INVALID_ARGUMENT, "MEDIA_TYPE_UNSUPPORTED", "frames are text")
                )
                return
            if len(text) > self._limit:
                self._interruption.strike(bodies.too_large(self._limit))
                return
            self._activity.seen()
            if not self._ignored:
                await self._waiting.put(text)


class Frames:
    """Sends a stream as text frames."""

    def __init__(self, writer: ReplyWriter | None, send: Send) -> None:
        self.begun = False
        self._writer = writer
        self._send = send

    async def begin(self) -> None:
        """Nothing to send: the handshake has told."""
        self.begun = True

    async def message(self, raw: bytes) -> None:
        """Send a frame."""
        assert self._writer is not None
        await self._text("result", self._writer.write(raw).body)

    async def keep_alive(self) -> None:
        """Nothing: the server pings."""

    async def end(self, error: ErrorResponse | None) -> None:
        """Close, after the error if there is one."""
        code = DONE
        if error is not None:
            code = ERRORS + error.http
            await self._text("error", error.body)
        await self._send({"type": "websocket.close", "code": code})

    async def _text(self, kind: str, body: bytes) -> None:
        await self._send({"type": "websocket.send", "text": f'{{"{kind}":{body.decode()}}}'})


def _bearer(head: Head) -> str | None:
    """Take the token from the subprotocols, the one place where a browser can send it.

    ``Sec-WebSocket-Protocol: bearer, TOKEN`` is the header ``authorization: Bearer TOKEN``.
    Gives the subprotocol to answer with.
    """
    offered = [part.strip() for part in head.get(b"sec-websocket-protocol").split(",")]
    if len(offered) != 2 or offered[0].lower() != BEARER:
        return None
    head.metadata.append(("authorization", f"Bearer {offered[1]}"))
    return offered[0]


async def _deny(scope: Scope, send: Send, error: ErrorResponse) -> None:
    """Refuse the handshake, with a response where the server can send one."""
    if DENIAL not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": ERRORS + error.http})
        return

    async def deny(message: Any) -> None:
        await send({**message, "type": message["type"].replace("http.", "websocket.http.", 1)})

    await respond(deny, error, ())
