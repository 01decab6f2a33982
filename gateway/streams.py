"""Streams over plain HTTP: NDJSON or server-sent events out, NDJSON in."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from google.rpc import code_pb2

from gateway.backend import Failed
from gateway.bodies import Disconnected, Receive, too_large
from gateway.headers import Head
from gateway.limits import Limits
from gateway.replies import ReplyWriter
from gateway.responses import Send, respond
from gateway.statuses import ErrorResponse, Errors, Headers, Refused, internal

NDJSON = b"application/x-ndjson"
EVENTS = b"text/event-stream"
LINES = frozenset({"", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"})
# A stream that fails at once fails as any call does; one that is silent so long begins.
START_SECONDS = 0.5
END = object()


class Sink(Protocol):
    """Where the messages of a stream go."""

    begun: bool
    """Whether something was sent, so that an error can only be the stream's end."""

    async def begin(self) -> None:
        """Tell the client that the stream is there; called once, before the first message."""

    async def message(self, raw: bytes) -> None:
        """Send one message; returns when there is room for the next."""

    async def keep_alive(self) -> None:
        """Tell the client, and what stands between, that the stream is still there."""

    async def end(self, error: ErrorResponse | None) -> None:
        """Nothing follows, because of an error if there is one."""


class Activity:
    """When something was last said on a stream, by either side."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()

    def seen(self) -> None:
        """Something was said now."""
        self._last = self._loop.time()

    def silent(self) -> float:
        """For how many seconds nothing was said."""
        return self._loop.time() - self._last


async def pump(
    stream: AsyncIterator[bytes], sink: Sink, errors: Errors, limits: Limits, activity: Activity
) -> None:
    """Send everything of a stream. Raises Failed or Refused only as long as nothing was sent.

    The next message is asked for when the one before it is on its way: a slow client
    slows the server down.
    """
    coming = asyncio.ensure_future(_next(stream))
    try:
        while True:
            patience = min(limits.keep_alive_seconds, limits.idle_seconds) if sink.begun else START_SECONDS
            done, _ = await asyncio.wait((coming,), timeout=patience)
            if not sink.begun:
                if done and (error := coming.exception()) is not None:
                    raise error
                await sink.begin()
            if not done:
                if activity.silent() > limits.idle_seconds:
                    await sink.end(errors.of(_idle(limits.idle_seconds)))
                    return
                await sink.keep_alive()
                continue
            try:
                message = coming.result()
            except (Failed, Refused) as error:
                await sink.end(errors.of(error))
                return
            if message is END:
                await sink.end(None)
                return
            activity.seen()
            try:
                await sink.message(message)
            except Refused as error:
                await sink.end(errors.of(error))
                return
            coming = asyncio.ensure_future(_next(stream))
    finally:
        await _close(coming, stream)


async def one(message: bytes) -> AsyncIterator[bytes]:
    """A stream of one message."""
    yield message


async def only(stream: AsyncIterator[bytes]) -> bytes:
    """The one message of a stream. Raises Failed, and Refused if there is none."""
    found = await anext(stream, END)
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()
    if not isinstance(found, bytes):
        raise internal("the server ended the call without a reply")
    return found


async def _next(stream: AsyncIterator[bytes]) -> Any:
    return await anext(stream, END)


def _idle(seconds: float) -> Refused:
    return Refused(
        408,
        code_pb2.DEADLINE_EXCEEDED,
        "STREAM_IDLE",
        f"nothing was said for {seconds:g} seconds",
        metadata={"limit_seconds": f"{seconds:g}"},
    )


async def _close(coming: "asyncio.Future[Any]", stream: AsyncIterator[bytes]) -> None:
    coming.cancel()
    await asyncio.wait((coming,))
    if not coming.cancelled():
        coming.exception()  # so that nobody reports it as never looked at
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()


class Ndjson:
    """Each message a line ``{"result": ...}``; an error is the last line, ``{"error": ...}``."""

    def __init__(self, writer: ReplyWriter, send: Send, headers: Headers) -> None:
        self.begun = False
        self._writer = writer
        self._send = send
        self._headers = headers

    async def begin(self) -> None:
        """Send the headers."""
        self.begun = True
        await _begin(self._send, NDJSON, self._headers)

    async def message(self, raw: bytes) -> None:
        """Send a line."""
        await _more(self._send, b'{"result":%b}\n' % self._writer.write(raw).body)

    async def keep_alive(self) -> None:
        """Nothing: every line is a message."""

    async def end(self, error: ErrorResponse | None) -> None:
        """Send the error, if there is one, and the end."""
        last = b"" if error is None else b'{"error":%b}\n' % error.body
        await self._send({"type": "http.response.body", "body": last, "more_body": False})


class ServerSentEvents:
    """Each message an event; at the end comes an event ``end`` or ``error``, so that clients don't return."""

    def __init__(self, writer: ReplyWriter, send: Send, headers: Headers) -> None:
        self.begun = False
        self._writer = writer
        self._send = send
        self._headers = headers

    async def begin(self) -> None:
        """Send the headers, and a comment that makes them leave."""
        self.begun = True
        await _begin(self._send, EVENTS, (*self._headers, (b"x-accel-buffering", b"no")))
        await self.keep_alive()

    async def message(self, raw: bytes) -> None:
        """Send an event, with the message's own id if it has one."""
        reply = self._writer.write(raw)
        number = _event_id(reply.event_id)
        await _more(self._send, b"%bdata: %b\n\n" % (number, reply.body))

    async def keep_alive(self) -> None:
        """Send a comment."""
        await _more(self._send, b":\n\n")

    async def end(self, error: ErrorResponse | None) -> None:
        """Send the last event, and the end."""
        last = b"event: end\ndata: {}\n\n" if error is None else b"event: error\ndata: %b\n\n" % error.body
        await self._send({"type": "http.response.body", "body": last, "more_body": False})


class Chunks:
    """The bytes of google.api.HttpBody messages, one after the other; the first says of which type."""

    def __init__(self, writer: ReplyWriter, send: Send, headers: Headers) -> None:
        self.begun = False
        self._writer = writer
        self._send = send
        self._headers = headers

    async def begin(self) -> None:
        """Nothing yet: the type comes with the first message."""

    async def message(self, raw: bytes) -> None:
        """Send a piece."""
        reply = self._writer.write(raw)
        if not self.begun:
            await _begin(self._send, reply.media_type, self._headers)
            self.begun = True
        await _more(self._send, reply.body)

    async def keep_alive(self) -> None:
        """Nothing: every byte belongs to the file."""

    async def end(self, error: ErrorResponse | None) -> None:
        """The end; with an error the connection breaks, for nothing else shows that the file isn't whole."""
        if error is not None and self.begun:
            raise Disconnected
        if error is not None:
            await respond(self._send, error, self._headers)
            return
        if not self.begun:
            await _begin(self._send, b"application/octet-stream", self._headers)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def sink_for(head: Head, writer: ReplyWriter, send: Send, headers: Headers) -> Sink:
    """By what the client accepts: server-sent events if it asks for them, else NDJSON."""
    if writer.raw:
        return Chunks(writer, send, headers)
    if prefers_events(head.get(b"accept")):
        return ServerSentEvents(writer, send, headers)
    return Ndjson(writer, send, headers)


def prefers_events(accept: str) -> bool:
    """Whether server-sent events are named, and before NDJSON and JSON if these are too."""
    named = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    wanted = [kind for kind in named if kind == EVENTS.decode() or kind in LINES - {""}]
    return bool(wanted) and wanted[0] == EVENTS.decode()


class Lines:
    """The lines of a body, as the backend asks for them.

    What is wrong with one is given to ``strike``, because an iterator of requests has no
    way to refuse.
    """

    def __init__(
        self,
        receive: Receive,
        read: Callable[[bytes], bytes],
        limits: Limits,
        strike: Callable[[Exception], None],
        activity: Activity,
    ) -> None:
        self._receive = receive
        self._read = read
        self._limits = limits
        self._strike = strike
        self._activity = activity

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            number = 0
            async for line in self._lines():
                number += 1
                # Blank ones don't count, but to who looks for a mistake.
                if line.strip():
                    self._activity.seen()
                    yield self._read_at(number, line)
        except (Refused, Disconnected) as cause:
            self._strike(cause)
            await asyncio.Event().wait()

    def _read_at(self, number: int, line: bytes) -> bytes:
        try:
            return self._read(line)
        except Refused as refused:
            raise replace(refused, message=f"line {number}: {refused.message}") from None

    async def _lines(self) -> AsyncIterator[bytes]:
        rest = bytearray()
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise Disconnected
            more = message.get("more_body", False)
            rest += message.get("body", b"")
            for line in _taken(rest):
                yield line
            if len(rest) > self._limits.body:
                raise too_large(self._limits.body)
        if rest:
            yield bytes(rest)


def _taken(rest: bytearray) -> Iterable[bytes]:
    """The whole lines at the beginning, which are removed."""
    end = rest.rfind(b"\n")
    if end < 0:
        return []
    lines = [bytes(line) for line in rest[:end].split(b"\n")]
    del rest[: end + 1]
    return lines


def _event_id(text: str) -> bytes:
    """The line with an event's id; none for an id that would break the line."""
    if not text or any(sign in text for sign in "\r\n\0"):
        return b""
    return b"id: %b\n" % text.encode()


async def _begin(send: Send, media_type: bytes, headers: Headers) -> None:
    sent = [(b"content-type", media_type), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": sent})


async def _more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
