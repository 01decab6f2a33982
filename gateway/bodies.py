"""Request bodies: read within limits, then as JSON."""

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable
from itertools import accumulate
from typing import Any, NoReturn

from google.rpc import code_pb2

from gateway.statuses import Refused, invalid

Receive = Callable[[], Awaitable[Any]]
# For a body to arrive, whose first part is there.
READ_SECONDS = 60.0
CLOSE = ((b"connection", b"close"),)
# JSON by which there is no body at all.
ABSENT = object()

# A whole string, or the rest of the text if it has no end. Possessive: each byte is looked at once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKETS = b"{}[]"
_OTHERS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_STEPS = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}


class Disconnected(Exception):  # noqa: N818 - reads as the sentence it is
    """The client went away."""


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_no_number)


async def read(receive: Receive, length: int | None, limit: int) -> bytes:
    """The whole body. ``length`` is what the client announced, if it did.

    Raises Refused for more than ``limit`` bytes without reading on and for a body that
    doesn't come to its end, and Disconnected.
    """
    if length is not None and length > limit:
        raise too_large(limit)
    message = await receive()
    if message["type"] != "http.request":
        raise Disconnected
    if not message.get("more_body"):
        whole: bytes = message.get("body", b"")
        if len(whole) > limit:
            raise too_large(limit)
        return whole
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await _rest(receive, bytearray(message.get("body", b"")), limit)
    except TimeoutError:
        raise Refused(
            408, code_pb2.DEADLINE_EXCEEDED, "BODY_TOO_SLOW", "the body took too long", headers=CLOSE
        ) from None


async def _rest(receive: Receive, body: bytearray, limit: int) -> bytes:
    more = True
    while more:
        if len(body) > limit:
            raise too_large(limit)
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if len(body) > limit:
        raise too_large(limit)
    return bytes(body)


def parse(body: bytes, depth: int) -> Any:
    """The JSON of a body; ABSENT if it is empty or blank. Raises Refused for what is no JSON."""
    if not body or body.isspace():
        return ABSENT
    if deeper(body, depth):
        raise invalid(f"the body is nested more than {depth} deep", reason="BODY_NOT_JSON")
    try:
        return _decoder.decode(body.decode("utf-8"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise invalid(f"the body is no JSON: {error.msg} ({place})", reason="BODY_NOT_JSON") from None
    except UnicodeDecodeError:
        raise invalid("the body is not UTF-8", reason="BODY_NOT_JSON") from None
    except (ValueError, RecursionError):
        raise invalid("the body is no JSON", reason="BODY_NOT_JSON") from None


def as_http_body(body: bytes, media_type: str) -> dict[str, str]:
    """The JSON of a google.api.HttpBody with these bytes."""
    return {"contentType": media_type, "data": base64.b64encode(body).decode()}


def deeper(body: bytes, depth: int) -> bool:
    """Whether objects and arrays are more than ``depth`` deep within each other."""
    if body.count(b"{") + body.count(b"[") <= depth:
        return False
    brackets = _STRING.sub(b"", body).translate(None, _OTHERS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > depth


def too_large(limit: int) -> Refused:
    """413. The connection closes, because the rest of the body is not read."""
    return Refused(
        413,
        code_pb2.RESOURCE_EXHAUSTED,
        "MESSAGE_TOO_LARGE",
        f"a body has at most {limit:,} bytes",
        metadata={"limit_bytes": str(limit)},
        headers=CLOSE,
        unread=True,
    )
