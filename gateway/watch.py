"""What is told of every request: its count, its time, its trace.

A request is known by its method and the template of its path. The path itself, the
query, the client's address and its User-Agent may say who somebody is: they are in no
span and no metric.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from opentelemetry.trace import StatusCode

from gateway.bindings import Binding
from gateway.responses import Receive, Send
from gateway.scopes import Scope
from telemetry.metrics import Metrics, Series
from telemetry.traces import Trace, Tracing, current

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

# Where the shim leaves the binding that it found, for us to read.
BINDING = "laurel.binding"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Of a WebSocket that is accepted, and of one that is refused where no response can be sent.
STATUSES = {"websocket.accept": 101, "websocket.close": 403}
# Of a method that nobody knows, and of a path that no binding has.
OTHER = "_OTHER"
NOWHERE = ""
# The connection was gone before there was a response.
UNANSWERED = "none"
TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})


class Watched:
    """An ASGI application whose requests and WebSockets are watched.

    A stream is timed to the head of its response, a WebSocket to the end of its handshake:
    how long either goes on is the client's wish. Their spans last as long as they do.
    """

    def __init__(self, app: App, metrics: Metrics, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing
        self._durations = metrics.histogram(
            "http.server.request.duration",
            "s",
            "Time from a request's head to the end of its response, or to the head of a stream.",
            ("http_request_method", "http_route", "http_response_status_code"),
        )
        self._kept: dict[tuple[str, Binding | None, int], Series] = {}
        self._under_way = {"http": 0, "websocket": 0}
        metrics.gauge(
            "http.server.active_requests",
            "{request}",
            "Requests under way and WebSockets open.",
            lambda: {(kind,): number for kind, number in self._under_way.items()},
            ("kind",),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        kind: str = scope["type"]
        if kind not in self._under_way:
            await self._app(scope, receive, send)
            return
        self._under_way[kind] += 1
        try:
            await self._request(scope, receive, send)
        finally:
            self._under_way[kind] -= 1

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        trace = self._begin(scope)
        status = 0

        async def tell(message: Any) -> None:
            nonlocal status
            if not status and (status := _status(message)) and _goes_on(scope):
                self._series(scope, status).observe(time.perf_counter() - began)
            await send(message)

        token = current.set(trace)
        try:
            await self._app(scope, receive, tell)
        finally:
            current.reset(token)
            if not status or not _goes_on(scope):
                self._series(scope, status).observe(time.perf_counter() - began)
            if trace.span is not None:
                _end(trace, scope, status)

    def _begin(self, scope: Scope) -> Trace:
        trace = self._tracing.begin(method_of(scope), Sent(scope["headers"]), {})
        if self._tracing.tracer is not None:
            # What stands behind the shim goes by the same decision.
            others = [header for header in scope["headers"] if header[0] not in TRACE_HEADERS]
            scope["headers"] = [*others, (b"traceparent", trace.traceparent().encode())]
        return trace

    def _series(self, scope: Scope, status: int) -> Series:
        key = method_of(scope), scope.get(BINDING), status
        series = self._kept.get(key)
        if series is None:
            method, route = known(scope)
            series = self._durations.of(method, route, str(status or UNANSWERED))
            if method != OTHER:  # of these there are any number
                self._kept[key] = series
        return series


class Sent:
    """The headers of a request, for the trace that they name."""

    __slots__ = ("_headers",)

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def traceparent(self) -> str:
        """The W3C header, "" if there is none."""
        for name, value in self._headers:
            if name == b"traceparent":
                return value.decode("latin-1")
        return ""


def method_of(scope: Scope) -> str:
    """The HTTP method; a WebSocket begins with GET."""
    method: str = scope.get("method", "GET")
    return method


def known(scope: Scope) -> tuple[str, str]:
    """Method and template of the path, of which there are only so many."""
    method = method_of(scope)
    binding: Binding | None = scope.get(BINDING)
    route = NOWHERE if binding is None else str(binding.template)
    return (method if method in METHODS else OTHER), route


def _status(message: Any) -> int:
    """The HTTP status that the first message of a response is or comes to."""
    status: int = message.get("status") or STATUSES.get(message["type"], 0)
    return status


def _goes_on(scope: Scope) -> bool:
    """Whether what comes after the head of a response comes when the client or the world wills."""
    binding: Binding | None = scope.get(BINDING)
    return binding is not None and binding.streams


def _end(trace: Trace, scope: Scope, status: int) -> None:
    span = trace.span
    assert span is not None
    method, route = known(scope)
    span.update_name(f"{method} {route}".rstrip())
    span.set_attributes(
        {
            "http.request.method": method,
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", ""),
        }
    )
    if route:
        span.set_attribute("http.route", route)
    if status:
        span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)
    span.end()
