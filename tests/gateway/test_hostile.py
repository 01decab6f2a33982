"""What no honest client sends: the shim refuses it, or takes it for what it is, and goes on."""

import asyncio
import contextlib
import re
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import bodies, server
from gateway.contract import Contract
from gateway.limits import Limits
from tests.gateway.world import World, opened

HOST = b"Host: x\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
PUT = b"PUT /v1/things/t HTTP/1.1\r\n" + HOST
GET = b"GET /v1/things/t HTTP/1.1\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAAB\r\n"


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answers(world: World, sent: bytes) -> list[int]:
    """The status of every response on a connection, up to the answer to ``END`` or until it is closed."""
    async with connected(world) as (reader, writer):
        writer.write(sent)
        got = b""
        async with asyncio.timeout(10):
            while not LAST.search(got) and (piece := await reader.read(1 << 16)):
                got += piece
        return [int(status) for status in STATUS.findall(got)]


# After what is complete, so that the answer to it is the last.
STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})")
LAST = re.compile(rb"HTTP/1\.1 404 .*ROUTE_UNKNOWN", re.DOTALL)
END = b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        PUT + b"Content-Length: 6\r\n" + CHUNKED + b"\r\n0\r\n\r\nG",
        PUT + CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\nGET /v1/things/smuggled HTTP/1.1\r\n\r\n",
        PUT + b"Content-Length: 2\r\nContent-Length: 30\r\n\r\n{}",
        PUT + b"Content-Length: 2, 2\r\n\r\n{}",
        PUT + b"Content-Length: -1\r\n\r\n{}",
        PUT + b"Content-Length: +2\r\n\r\n{}",
        PUT + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        PUT + b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        PUT + b"Transfer-Encoding: identity\r\n" + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n",
        PUT + b"Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        PUT + b"Connection: Upgrade\r\nUpgrade: irc\r\nContent-Length: 2\r\n\r\n{}",
        PUT + CHUNKED + b"\r\nffffffffffffffff1\r\n{}",
        PUT + CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n",
        GET + HOST + b"X-Foo: a\r\n b\r\n\r\n",
        GET + HOST + b"X-Api-Key: a\0b\r\n\r\n",
        GET + b"Host: x\rX-Y: z\r\n\r\n",
        GET + b"\r\n",
        GET + HOST + HOST + b"\r\n",
        b"GET /v1/things/\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"get /v1/things/t HTTP/1.1\r\n" + HOST + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(range(256)),
    ],
    ids=lambda sent: repr(sent[25:70]),
)
async def test_what_can_be_read_in_two_ways_is_read_in_none(world: World, sent: bytes) -> None:
    seen = len(world.server.seen)
    assert await answers(world, sent) == [400]
    assert len(world.server.seen) == seen


async def test_what_only_looks_odd_is_answered_in_order(world: World) -> None:
    for odd in (
        PUT + CHUNKED + b"\r\n2;x=y\r\n{}\r\n0\r\n\r\n",
        PUT + CHUNKED + b"\r\n2\r\n{}\r\n0\r\nX-Api-Key: trailer\r\n\r\n",
        GET + HOST + b"Content-Length: 2\r\n\r\n{}",
        GET
        + HOST
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAAB\r\n\r\n",
        b"GET http://evil.example/v1/things/t HTTP/1.1\r\n" + HOST + b"\r\n",
    ):
        assert await answers(world, odd + END) == [200, 404], odd
        # A header that comes after the body is none.
        assert "x-api-key" not in world.last.metadata
    assert await answers(world, (GET + HOST + b"\r\n") * 20 + END) == [200] * 20 + [404]


async def test_an_offer_to_speak_http_2_costs_no_body(world: World) -> None:
    for size in (b"Content-Length: 15\r\n\r\n%b", CHUNKED + b"\r\nf\r\n%b\r\n0\r\n\r\n"):
        sent = PUT + H2C + size % b'{"text":"here"}'
        assert await answers(world, sent + END) == [200, 404]
        assert world.last.request.text == "here"


@pytest.mark.parametrize(
    "path",
    [
        "//v1/things/t",
        "/v1/things/../things/t",
        "/v1/./things/t",
        "/v1/things/t/",
        "/v1/things/",
        "/v1\\things\\t",
        "/v1/things%2Ft",
        "/" + "a/" * 20_000,
    ],
    ids=lambda path: path[:24],
)
async def test_a_path_is_what_it_says(world: World, path: str) -> None:
    sent = f"GET {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n"
    assert await answers(world, sent) == [404]


@pytest.mark.parametrize("name", ["%ff", "%c0%af", "%ed%a0%80", "%zz", "%u0041", "%"])
async def test_a_name_that_is_no_text_is_refused(world: World, name: str) -> None:
    sent = f"GET /v1/things/{name} HTTP/1.1\r\n".encode() + HOST + b"\r\n"
    assert await answers(world, sent + END) == [400, 404]


async def test_a_name_may_hold_anything_that_is_text(world: World) -> None:
    for name, text in (
        ("a%2Fb", "a/b"),
        ("a%00b", "a\0b"),
        ("%2E%2E", ".."),
        ("a%3Fb%23c", "a?b#c"),
        (";a=b", ";a=b"),
    ):
        assert await answers(
            world, f"GET /v1/things/{name} HTTP/1.1\r\n".encode() + HOST + b"\r\n" + END
        ) == [200, 404]
        assert world.last.request.name == text


@pytest.mark.parametrize(
    "query",
    [
        "int64=99999999999999999999",
        "double=1e999",
        "double=1_0",
        "double=%D9%A1",
        "int64=%D9%A1",
        "int64=1e3",
        "text=%ff",
        "text=a&text=b",
        "requestId=a&request_id=b",
        "name=u",
        "__class__.x=1",
        "=x",
        "child." * 2000 + "text=x",
        "child." * 200 + "text=x",
        "&".join(["names=x"] * 2000),
    ],
    ids=lambda query: query[:24],
)
async def test_a_parameter_that_can_not_be_meant_is_refused(world: World, query: str) -> None:
    assert (await world.http.get(f"/v1/things/t?{query}")).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"int32":1,"int32":2}',
        b'{"child":{"text":"a","text":"b"}}',
        b'{"double":NaN}',
        b'{"double":-Infinity}',
        b'{"double":1e400}',
        b'{"struct":{"a":1e400}}',
        b'{"struct":{"a":' + b"9" * 400 + b"}}",
        b'{"int64":"' + b"9" * 5000 + b'"}',
        b'{"int64":' + b"9" * 5000 + b"}",
        b'\xef\xbb\xbf{}',
        '{"text":"a"}'.encode("utf-16"),
        b'{"text":"\xff"}',
        b'{"text":"\\ud800"}',
        b'{"\\ud800":1}',
        b'{"child":{"\\udfff":1}}',
        b'{"struct":{"\\ud800":1}}',
        b'{"text":"\x01"}',
        b"{} {}",
        b"/**/{}",
        b"{'text':'x'}",
        b'{"int32":1,}',
        b"null",
        b"[]",
        b'{"":1}',
        b'{"__proto__":{}}',
        b'{"[foo.bar]":1}',
        b'{"any":{"@type":"x/y.Z","a":1}}',
        b'{"any":' * 60 + b"{}" + b"}" * 60,
        b'{"child":' * 64 + b"{}" + b"}" * 64,
        b"{" + b",".join(b'"k%d":1' % number for number in range(100_000)) + b"}",
        b'{"things":[' + b",".join([b"{}"] * 300_000) + b"]}",
        b'{"struct":{"a":[' + b",".join([b"1"] * 1_000_000) + b"]}}",
        b'{"names":[' + b",".join([b'",,,"'] * 49_000) + b',1]}',
    ],
    ids=lambda body: repr(body[:24]),
)  # fmt: skip
async def test_a_body_that_can_not_be_meant_is_refused_whole(world: World, body: bytes) -> None:
    seen = len(world.server.seen)
    response = await world.http.put(
        "/v1/things/t", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 400
    assert response.json()["code"] == 3
    assert len(world.server.seen) == seen


async def test_text_may_hold_as_many_commas_as_it_likes(world: World) -> None:
    body = {"text": "," * 200_000, "names": ["x"] * 40_000}
    assert (await world.http.put("/v1/things/t", json=body)).status_code == 200


async def test_a_method_that_nobody_knows_is_refused(world: World) -> None:
    for method in ("TRACE", "M-SEARCH", "PROPFIND"):
        sent = f"{method} /v1/things/t HTTP/1.1\r\n".encode() + HOST + EMPTY
        assert await answers(world, sent + END) == [405, 404]


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Big: " + b"x" * 70_000 + b"\r\n\r\n",
        b"".join(b"X-%d: %b\r\n" % (number, b"x" * 60) for number in range(2_000)) + b"\r\n",
        b"X-Endless: " + b"x" * 4_000_000,
    ],
    ids=["one", "many", "endless"],
)
async def test_a_head_has_a_size(world: World, headers: bytes) -> None:
    seen = len(world.server.seen)
    async with connected(world) as (reader, writer), asyncio.timeout(server.HEAD_SECONDS / 2):
        writer.write(GET + HOST + headers)
        # What was on its way when the connection was closed may cost the client the answer.
        with contextlib.suppress(ConnectionError):
            assert b" 400 " in await reader.read() or await closed(reader)
    assert len(world.server.seen) == seen
    assert (await world.http.get("/v1/things/t")).status_code == 200


async def test_a_head_that_does_not_come_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    for sent in (b"", b"G", GET, GET + HOST + b"X-Slow: ", (GET + HOST + b"\r\n") + b"G"):
        async with connected(world) as (reader, writer), asyncio.timeout(10):
            writer.write(sent)
            rest = await reader.read()
            while more := await reader.read():
                rest += more
            assert rest.count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")


@pytest.mark.parametrize("rest", [b"5\r\nthing\r\n", b"0\r\n\r\n"], ids=["more", "the end"])
async def test_what_is_answered_before_it_is_all_there_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    async with connected(world) as (reader, writer), asyncio.timeout(10):
        writer.write(b"POST /nowhere HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n5\r\nthing\r\n")
        assert b" 404 " in await reader.readline()
        writer.write(rest)
        while await reader.read(1 << 16):
            pass


async def test_a_body_that_does_not_come_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.2)
    for sent in (b"Content-Length: 10\r\n\r\n", b"Content-Length: 10\r\n\r\n{", CHUNKED + b"\r\n1\r\n{\r\n"):
        assert await answers(world, PUT + sent) == [408]
    async with connected(world) as (reader, writer), asyncio.timeout(10):

        async def trickle() -> None:
            writer.write(PUT + b"Content-Length: 1000\r\n\r\n")
            for _ in range(1000):
                writer.write(b" ")
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        assert b" 408 " in await reader.readline()
        trickling.cancel()


async def test_connections_have_a_bound(contract: Contract, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(server, "CONNECTIONS_SHARE", 3.5 / files)
    async with opened(contract) as world, asyncio.timeout(10):
        kept = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(3)]
        async with connected(world) as (reader, _):
            assert await closed(reader)
        for reader, writer in kept:
            writer.write(GET + HOST + b"\r\n")
            assert b" 200 " in await reader.readline()
            writer.close()


async def closed(reader: asyncio.StreamReader) -> bool:
    """Whether the other side ends the connection without a word, politely or not."""
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def test_fifty_megabytes_are_refused_and_kept_nowhere(world: World) -> None:
    before = resident()
    for head, pieces in (
        (b"Content-Length: %d\r\n\r\n" % (50 << 20), [b" " * (1 << 20)] * 50),
        (CHUNKED + b"\r\n", [b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))] * 50),
    ):
        async with connected(world) as (reader, writer), asyncio.timeout(20):
            first = asyncio.ensure_future(reader.readline())
            writer.write(PUT + head)
            for piece in pieces:
                writer.write(piece)
                await asyncio.wait((first,), timeout=0.01)
                if first.done():
                    break
            assert b" 413 " in await first
            writer.transport.abort()
    # Client and shim share the process; what both have in their hands is far less than was to be sent.
    assert resident() - before < 25 << 20


def resident() -> int:
    """Bytes of memory that the process uses."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_an_absurd_deadline_is_cut(world: World) -> None:
    for headers in ({"x-request-timeout": "99999999"}, {"grpc-timeout": "99999999H"}):
        await world.http.get("/v1/things/t", headers=headers)
        assert world.last.seconds is not None
        assert world.last.seconds <= Limits().max_deadline + 1  # gRPC rounds up
