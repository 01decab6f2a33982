"""The shim itself: an ASGI application that serves any contract by google.api.http alone."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from google.rpc import code_pb2

from gateway import bodies, etags, headers, idempotency
from gateway.backend import Backend, Call, Failed, nothing
from gateway.bodies import ABSENT, Disconnected, Receive
from gateway.contract import Contract
from gateway.cors import Cors, spelt_out
from gateway.endpoints import Endpoint, endpoints
from gateway.headers import Head
from gateway.interruption import Interruption
from gateway.limits import Limits, Place, Slots
from gateway.replies import Reply
from gateway.responses import Send, answer, empty, respond, respond_early
from gateway.routes import Match
from gateway.scopes import Scope, address_of, callers_of, path_of, peer_of, values_of
from gateway.sockets import Sockets
from gateway.statuses import Errors, Headers, Refused, wrong
from gateway.streams import LINES, Activity, Lines, one, only, pump, sink_for
from gateway.watch import BINDING

JSON_TYPES = frozenset({"", "application/json"})
# Nothing of a reply may lie about in caches: it belongs to who asked.
PRIVATE = (b"cache-control", b"no-store")


@dataclass(slots=True)
class Exchange:
    """A request with what serves it. ``shared`` are headers that every response to it has."""

    scope: Scope
    receive: Receive
    send: Send
    head: Head
    shared: Headers
    match: Match
    endpoint: Endpoint

    @property
    def method(self) -> str:
        """The HTTP method."""
        method: str = self.scope["method"]
        return method


class Gateway:
    """Serves a contract in front of a backend.

    ``domain`` is that of the ErrorInfo in what the shim itself refuses.
    """

    def __init__(
        self,
        contract: Contract,
        backend: Backend,
        *,
        limits: Limits | None = None,
        cors: Cors | None = None,
        domain: str = "gateway",
    ) -> None:
        self._limits = limits or Limits()
        self.slots = Slots(self._limits)
        self._routes = contract.routes
        self._endpoints = endpoints(contract)
        self._backend = backend
        self._cors = cors or Cors()
        self._errors = Errors(contract.registry, domain)
        self._sockets = Sockets(
            self._routes, self._endpoints, backend, self._limits, self.slots, self._cors, self._errors
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        try:
            if scope["type"] == "http":
                await self._http(scope, receive, send)
            elif scope["type"] == "websocket":
                await self._sockets.serve(scope, receive, send)
            else:
                await _lifespan(receive, send)
        except Disconnected:
            pass  # there is nobody to tell

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        shared: Headers = ()
        try:
            head = headers.read(scope["headers"])
            if b"origin" in head.known:
                shared = self._cors.headers(head.known[b"origin"])
            path = path_of(scope)
            match = self._routes.find(method, path)
            if match is None:
                match = self._instead(method, path)
            if match is None:
                await self._options(path, head, shared, send)
                return
            scope[BINDING] = match.binding
            exchange = Exchange(scope, receive, send, head, shared, match, self._endpoints[match.binding])
            if match.binding.streams:
                await self._stream(exchange)
            else:
                await self._unary(exchange)
        except (Refused, Failed) as error:
            told = self._errors.of(error)
            if isinstance(error, Refused) and error.unread:
                await respond_early(send, told, shared, receive)
            else:
                await respond(send, told, shared, head=method == "HEAD")

    def _instead(self, method: str, path: str) -> Match | None:
        """GET's binding for HEAD; None for OPTIONS, which the shim answers. Raises Refused for all else."""
        if method == "HEAD":
            match = self._routes.find("GET", path)
            if match is not None and not match.binding.streams:
                return match
        methods = self._routes.methods(path)
        if not methods:
            raise Refused(404, code_pb2.NOT_FOUND, "ROUTE_UNKNOWN", "there is nothing at this path")
        if method == "OPTIONS":
            return None
        raise Refused(
            405,
            code_pb2.UNIMPLEMENTED,
            "METHOD_NOT_ALLOWED",
            f"the path has no {method}",
            headers=((b"allow", ", ".join(spelt_out(methods)).encode()),),
        )

    async def _options(self, path: str, head: Head, shared: Headers, send: Send) -> None:
        methods = self._routes.methods(path)
        allowed = (b"allow", ", ".join(spelt_out(methods)).encode())
        await empty(send, 204, (allowed, *shared, *self._cors.preflight(head, methods)))

    async def _unary(self, exchange: Exchange) -> None:
        expected = _expected(exchange)
        key = headers.idempotency_key(exchange.head)
        raw = exchange.endpoint.reader.read(
            values_of(exchange.match),
            exchange.scope["query_string"],
            await self._body(exchange),
            request_id=key,
            etag=expected,
            last_event_id=exchange.head.get(b"last-event-id"),
        )
        call = self._call(exchange)
        with Interruption() as interruption:
            interruption.watch(exchange.receive)
            try:
                told = await self._backend.unary(call, raw)
            except Failed as failed:
                if expected and etags.mismatch(failed.status):
                    failed.http = 412
                if not key and exchange.endpoint.reader.takes_key:
                    idempotency.suggest(failed.status)
                raise
        await _reply(exchange, exchange.endpoint.writer.write(told))

    async def end_streams(self, seconds: float) -> None:
        """End what would never end by itself, within so many seconds: the process stops."""
        await self.slots.end_all(seconds)

    async def _stream(self, exchange: Exchange) -> None:
        streams_back = exchange.endpoint.binding.rpc.server_streaming
        sink = sink_for(exchange.head, exchange.endpoint.writer, exchange.send, exchange.shared)
        # Before there is a place for it: a body may take its time.
        raw = None if exchange.endpoint.client_streams else self._reader(exchange)(await self._body(exchange))
        told, scope = b"", exchange.scope
        try:
            with self.slots.taken(callers_of(scope, exchange.head), address_of(scope)) as place:
                activity = Activity()
                if raw is None:
                    requests = self._lines(exchange, place, activity)
                else:
                    requests = one(raw)
                    place.watch(exchange.receive)
                stream = self._backend.stream(self._call(exchange, place.admitted), requests)
                if streams_back:
                    await pump(stream, sink, self._errors, self._limits, activity)
                else:
                    told = await only(stream)
        except Refused as refused:
            if not sink.begun:
                raise
            await sink.end(self._errors.of(refused))
            return
        if not streams_back:
            await _reply(exchange, exchange.endpoint.writer.write(told))

    def _reader(self, exchange: Exchange) -> Callable[[Any], bytes]:
        """From the JSON of a message of a stream to the message."""
        values, query = values_of(exchange.match), exchange.scope["query_string"]
        request_id = headers.idempotency_key(exchange.head)
        event_id = exchange.head.get(b"last-event-id")

        def read(body: Any) -> bytes:
            return exchange.endpoint.reader.read(
                values, query, body, request_id=request_id, last_event_id=event_id
            )

        return read

    def _lines(self, exchange: Exchange, place: Place, activity: Activity) -> AsyncIterator[bytes]:
        """What a client that streams sends: a message for each line of NDJSON."""
        read, depth = self._reader(exchange), self._limits.depth
        headers.check_type(exchange.head, LINES)
        lines = Lines(
            exchange.receive,
            lambda line: read(bodies.parse(line, depth)),
            self._limits,
            place.strike,
            activity,
        )
        return aiter(lines)

    async def _body(self, exchange: Exchange) -> Any:
        """The JSON of the body, ABSENT if there is none. Raises Refused and Disconnected."""
        head = exchange.head
        raw = await bodies.read(exchange.receive, headers.length(head), self._limits.body)
        if exchange.endpoint.reader.takes_bytes:
            return bodies.as_http_body(raw, head.get(b"content-type"))
        if not raw:
            return ABSENT
        headers.check_type(head, JSON_TYPES)
        return bodies.parse(raw, self._limits.depth)

    def _call(self, exchange: Exchange, admitted: Callable[[], None] = nothing) -> Call:
        return Call(
            exchange.endpoint.path,
            tuple(exchange.head.metadata),
            headers.timeout(exchange.head, self._limits.max_deadline),
            peer_of(exchange.scope),
            admitted,
        )


def _expected(exchange: Exchange) -> str:
    """The etag that If-Match asks for, "" if it asks for none. Raises Refused for what can't be held."""
    head = exchange.head
    if exchange.method in {"GET", "HEAD"}:
        return ""
    if head.get(b"if-none-match"):
        raise wrong("if-none-match", "is for GET and HEAD")
    asked = head.get(b"if-match")
    if not asked:
        return ""
    if not exchange.endpoint.reader.takes_etag:
        raise wrong("if-match", "nothing here has an entity tag")
    return etags.expected(asked)


async def _reply(exchange: Exchange, reply: Reply) -> None:
    sent: Headers = (PRIVATE, *exchange.shared)
    reads = exchange.method in {"GET", "HEAD"}
    if reply.etag:
        sent += ((b"etag", etags.show(reply.etag).encode()),)
        wanted = exchange.head.get(b"if-none-match")
        if wanted and reads and etags.matches(wanted, reply.etag):
            await empty(exchange.send, 304, sent)
            return
    await answer(
        exchange.send, 200, reply.body, sent, media_type=reply.media_type, head=exchange.method == "HEAD"
    )


async def _lifespan(receive: Receive, send: Send) -> None:
    """For servers that ask: there is nothing to start or stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
