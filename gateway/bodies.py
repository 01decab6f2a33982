"""Request bodies: read within limits, then as JSON."""

import asyncio
import base64
import json
import math
import re
from collections.abc import Awaitable, Callable
from itertools import accumulate
from typing import Any, NoReturn

from google.rpc import code_pb2

from gateway.statuses import Refused, invalid

Receive = Callable[[], Awaitable[Any]]
# For a body to arrive.
READ_SECONDS = 60.0
# Each costs some microseconds before anybody knows whether the caller is one. A basket of
# 1,000 lines with all that a line may have holds about 30,000.
MOST_VALUES = 50_000
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


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large for a number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise TwiceNamed
    return found


class TwiceNamed(ValueError):  # noqa: N818 - reads as the sentence it is
    """An object has two values of one name; readers differ in which of them counts."""


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_number)


async def read(receive: Receive, length: int | None, limit: int) -> bytes:
    """The whole body. ``length`` is what the client announced, if it did.

    Raises Refused for more than ``limit`` bytes without reading on and for a body that
    doesn't come to its end, and Disconnected.
    """
    if length is not None and length > limit:
        raise too_large(limit)
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await _whole(receive, limit)
    except TimeoutError:
        raise Refused(
            408, code_pb2.DEADLINE_EXCEEDED, "BODY_TOO_SLOW", "the body took too long", headers=CLOSE
        ) from None


async def _whole(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    more = True
    while more:
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
    if larger(body, MOST_VALUES):
        raise invalid(f"the body has more than {MOST_VALUES:,} values", reason="BODY_NOT_JSON")
    if deeper(body, depth):
        raise invalid(f"the body is nested more than {depth} deep", reason="BODY_NOT_JSON")
    try:
        return _decoder.decode(body.decode("utf-8"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise invalid(f"the body is no JSON: {error.msg} ({place})", reason="BODY_NOT_JSON") from None
    except UnicodeDecodeError:
        raise invalid("the body is not UTF-8", reason="BODY_NOT_JSON") from None
    except TwiceNamed:
        raise invalid("the body has an object that names a field twice", reason="BODY_NOT_JSON") from None
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


def larger(body: bytes, values: int) -> bool:
    """Whether there are more values than so many, counted by what parts and holds them.

    Of a body that looks ten times as large it is not found out how much of that is text.
    """
    parts = _parts(body)
    return parts > values and (parts > 10 * values or _parts(_STRING.sub(b"", body)) > values)


def _parts(text: bytes) -> int:
    return text.count(b",") + text.count(b"{") + text.count(b"[")


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
