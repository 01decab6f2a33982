"""Responses that are sent in one piece."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.statuses import ErrorResponse, Headers

Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]
JSON = b"application/json"
# Of a body that is refused, in bytes and seconds; whoever sends more finds the connection closed.
MOST_THROWN_AWAY = 32 * 1024 * 1024
LINGER_SECONDS = 5.0


async def answer(
    send: Send, status: int, body: bytes, headers: Headers, *, media_type: bytes = JSON, head: bool = False
) -> None:
    """Send a response; for HEAD without its body."""
    fields = [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": b"" if head else body})


async def empty(send: Send, status: int, headers: Headers) -> None:
    """Send a response that has no body."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": b""})


async def respond(send: Send, error: ErrorResponse, headers: Headers, *, head: bool = False) -> None:
    """Send what went wrong."""
    await answer(send, error.http, error.body, (*error.headers, *headers), head=head)


async def respond_early(send: Send, error: ErrorResponse, headers: Headers, receive: Receive) -> None:
    """Send what went wrong while the body still comes, and throw the rest away for a while.

    If the connection closed at once, most clients would lose the response: they send
    everything before they read.
    """
    fields = [
        (b"content-type", JSON),
        (b"content-length", b"%d" % len(error.body)),
        *error.headers,
        *headers,
    ]
    await send({"type": "http.response.start", "status": error.http, "headers": fields})
    await send({"type": "http.response.body", "body": error.body, "more_body": True})
    left = MOST_THROWN_AWAY
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            more = True
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message.get("more_body", False)
    await send({"type": "http.response.body", "body": b""})
