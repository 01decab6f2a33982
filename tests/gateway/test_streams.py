"""Streams as NDJSON, server-sent events and WebSocket, by real clients."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.contract import Contract
from gateway.limits import Limits
from gateway.streams import prefers_events
from tests.gateway.world import ORIGIN, STRANGER, World, opened
from tests.support.waiting import eventually

LINES = {"content-type": "application/x-ndjson"}
EVENTS = {"accept": "text/event-stream"}


def lines(text: str) -> list[dict[str, Any]]:
    """NDJSON."""
    return [json.loads(line) for line in text.splitlines()]


def events(text: str) -> list[dict[str, str]]:
    """Server-sent events, each as its fields; comments left out."""
    found = []
    for block in text.split("\n\n"):
        fields = [line.partition(": ") for line in block.splitlines() if not line.startswith(":")]
        if fields:
            found.append({name: value for name, _, value in fields})
    return found


@asynccontextmanager
async def socket(world: World, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A WebSocket."""
    async with connect(f"ws://127.0.0.1:{world.port}{path}", proxy=None, **options) as opened_socket:
        yield opened_socket


async def heard(ws: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """All frames up to the end, and the close code."""
    frames = [json.loads(frame) async for frame in _frames(ws)]
    return frames, ws.close_code or 0


async def _frames(ws: ClientConnection) -> AsyncIterator[str | bytes]:
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield await ws.recv()


async def emptied(semaphore: asyncio.Semaphore) -> asyncio.Semaphore:
    """The same, with nothing left of earlier tests."""
    while not semaphore.locked():
        await semaphore.acquire()
    return semaphore


async def test_a_server_stream_is_lines_of_json(world: World) -> None:
    for accept in ("*/*", "application/x-ndjson", "application/json", "text/html"):
        response = await world.http.get("/v1/things:watch?count=3", headers={"accept": accept})
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        assert [line["result"]["int32"] for line in lines(response.text)] == [1, 2, 3]
    assert (await world.http.get("/v1/things:watch")).text == ""


async def test_a_server_stream_is_events_if_these_are_asked_for(world: World) -> None:
    response = await world.http.get("/v1/things:watch?count=2", headers=EVENTS)
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-store"
    first, second, end = events(response.text)
    assert (first["id"], json.loads(first["data"])["int32"]) == ("1", 1)
    assert (second["id"], json.loads(second["data"])["int32"]) == ("2", 2)
    assert end == {"event": "end", "data": "{}"}


async def test_a_client_that_returns_goes_on_after_its_last_event(world: World) -> None:
    response = await world.http.get("/v1/things:watch?count=4", headers={**EVENTS, "last-event-id": "2"})
    assert [event.get("id") for event in events(response.text)] == ["3", "4", None]


def test_what_a_client_accepts() -> None:
    assert prefers_events("text/event-stream")
    assert prefers_events("text/event-stream;q=0.9, application/json")
    assert not prefers_events("application/json, text/event-stream")
    assert not prefers_events("*/*")
    assert not prefers_events("")


async def test_a_stream_that_fails_at_once_fails_as_any_call_does(world: World) -> None:
    failure = {"count": 0, "failure": {"code": 5, "message": "no"}}
    response = await world.http.post("/v1/things:watch", json=failure)
    assert (response.status_code, response.json()["message"]) == (404, "no")
    for wrong in ({"nope": 1}, {"count": "x"}, []):
        assert (await world.http.post("/v1/things:watch", json=wrong)).status_code == 400
    assert (await world.http.get("/v1/things:watch?nope=1")).status_code == 400


async def test_an_error_amid_a_stream_is_its_last_message(world: World) -> None:
    failure = {"count": 1, "failure": {"code": 9, "message": "no"}}
    told = lines((await world.http.post("/v1/things:watch", json=failure)).text)
    assert told[0]["result"]["int32"] == 1
    assert (told[1]["error"]["code"], told[1]["error"]["message"]) == (9, "no")
    told = events((await world.http.post("/v1/things:watch", json=failure, headers=EVENTS)).text)
    assert told[1]["event"] == "error"
    assert json.loads(told[1]["data"])["code"] == 9


async def test_a_client_streams_lines(world: World) -> None:
    body = b'{"name":"a"}\n\n  \r\n{"name":"b"}\n{"name":"c"}'
    response = await world.http.post("/v1/collect/x", content=body, headers=LINES)
    assert response.status_code == 200, response.text
    assert response.json()["name"] == "x"
    assert [thing["name"] for thing in response.json()["things"]] == ["a", "b", "c"]

    async def pieces() -> AsyncIterator[bytes]:
        for place in range(0, len(body), 5):
            yield body[place : place + 5]

    response = await world.http.post("/v1/collect/x", content=pieces(), headers=LINES)
    assert [thing["name"] for thing in response.json()["things"]] == ["a", "b", "c"]
    assert (await world.http.post("/v1/collect/x", content=b"", headers=LINES)).json()["things"] == []


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"name":"a"}\n{"nope":1}\n', LINES, 400),
        (b'{"name":"a"}\n{', LINES, 400),
        (b"[" * 100, LINES, 400),
        (b'{"name":"a"}\n', {"content-type": "text/plain"}, 415),
        (b'{"name":"' + b"a" * (5 << 20), LINES, 413),
    ],
)
async def test_a_wrong_line_is_refused(
    world: World, body: bytes, headers: dict[str, str], status: int
) -> None:
    response = await world.http.post("/v1/collect/x", content=body, headers=headers)
    assert response.status_code == status


async def test_both_sides_stream_over_plain_http(world: World) -> None:
    response = await world.http.post("/v1/chat/r", content=b'{"text":"a"}\n{"text":"b"}\n', headers=LINES)
    assert [(line["result"]["name"], line["result"]["text"]) for line in lines(response.text)] == [
        ("r", "a"),
        ("r", "b"),
    ]
    told = lines(
        (await world.http.post("/v1/chat/r", content=b'{"text":"a"}\n{"text":"fail"}\n', headers=LINES)).text
    )
    assert told[-1]["error"]["code"] == 9


async def test_a_file_comes_in_pieces(world: World) -> None:
    response = await world.http.get("/v1/pieces")
    assert (response.headers["content-type"], response.text) == ("text/csv", "a,b\n1,2\n")


async def test_a_server_stream_over_websocket(world: World) -> None:
    async with socket(world, "/v1/things:watch?count=2") as ws:
        frames, code = await heard(ws)
    assert [frame["result"]["int32"] for frame in frames] == [1, 2]
    assert code == 1000


async def test_a_websocket_says_in_its_first_frame_what_would_be_the_body(world: World) -> None:
    async with socket(world, "/v1/things:tell") as ws:
        for frame in ('{"count":2}', *["ignored"] * 40):
            await ws.send(frame)
        frames, code = await heard(ws)
    assert [frame["result"]["int32"] for frame in frames] == [1, 2]
    assert code == 1000
    for frame, code in (("", 1000), ("{", 4400), ('{"nope":1}', 4400)):
        async with socket(world, "/v1/things:tell") as ws:
            await ws.send(frame)
            assert (await heard(ws))[1] == code


async def test_both_sides_stream_over_websocket(world: World) -> None:
    async with socket(world, "/v1/chat/room") as ws:
        for text in ("a", "b"):
            await ws.send(json.dumps({"text": text}))
            told = json.loads(await ws.recv())["result"]
            assert (told["name"], told["text"]) == ("room", text)
        await ws.send("")
        assert await heard(ws) == ([], 1000)
    async with socket(world, "/v1/collect/x") as ws:
        await ws.send('{"name":"a"}')
        await ws.send('{"name":"b"}')
        await ws.send("")
        frames, code = await heard(ws)
    assert [thing["name"] for thing in frames[0]["result"]["things"]] == ["a", "b"]
    assert code == 1000


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", 4400),
        ('{"nope":1}', 4400),
        ("[]", 4400),
        (b"{}", 4415),
        ("[" * 100, 4400),
        ('{"text":"fail"}', 4400),
    ],
)
async def test_a_wrong_frame_ends_a_websocket(world: World, frame: str | bytes, code: int) -> None:
    async with socket(world, "/v1/chat/room") as ws:
        await ws.send(frame)
        frames, closed = await heard(ws)
    assert "error" in frames[-1]
    assert closed == code


async def test_a_frame_has_a_size(world: World) -> None:
    async with socket(world, "/v1/chat/room", max_size=None) as ws:
        with contextlib.suppress(ConnectionClosed):
            await ws.send(json.dumps({"text": "a" * (5 << 20)}))
        assert (await heard(ws))[1] == 1009


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/v1/nothing/here", {}, 404),
        ("/v1/touch", {}, 400),
        ("/v1/chat/room", {"origin": "https://evil.example"}, 403),
        ("/v1/chat/room", {"additional_headers": {"x-request-timeout": "x"}}, 400),
    ],
)
async def test_a_handshake_that_leads_nowhere_is_refused(
    world: World, path: str, options: dict[str, Any], status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket(world, path, **options):
            pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"{}")["details"]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_pages_that_are_let_in_open_websockets(world: World) -> None:
    for origin in (ORIGIN, f"http://127.0.0.1:{world.port}"):
        async with socket(world, "/v1/chat/room", origin=origin) as ws:
            await ws.send("")
            assert (await heard(ws))[1] == 1000


async def test_a_browser_sends_its_token_as_a_subprotocol(world: World) -> None:
    async with socket(world, "/v1/chat/room", subprotocols=["bearer", "abc"]) as ws:
        assert ws.subprotocol == "bearer"
        await ws.send("")
        await heard(ws)
    assert world.last.metadata["authorization"] == "Bearer abc"


async def test_a_client_that_leaves_has_cancelled_its_stream(world: World) -> None:
    given_up, waiting = await emptied(world.server.given_up), await emptied(world.server.waiting)
    async with asyncio.timeout(15):
        async with world.http.stream("GET", "/v1/things:watch?count=1&silence=3600s") as response:
            assert "result" in await anext(response.aiter_lines())
        await given_up.acquire()
        await emptied(waiting)
        async with socket(world, "/v1/things:watch?count=1&silence=3600s") as ws:
            await ws.recv()
        await given_up.acquire()
        await emptied(waiting)
        async with socket(world, "/v1/chat/room"):
            await waiting.acquire()
        await given_up.acquire()
        while world.gateway.slots.open:  # noqa: ASYNC110 - nobody tells when a slot is free
            await asyncio.sleep(0.01)


async def test_a_slow_client_slows_the_server_down(world: World) -> None:
    count = 2000
    url = f"/v1/things:watch?count={count}&size=50000"
    async with asyncio.timeout(20), world.http.stream("GET", url) as response:
        rows = response.aiter_lines()
        assert "result" in await anext(rows)
        sent = -1
        while sent != world.server.sent:  # until nothing moves any more
            sent = world.server.sent
            await asyncio.sleep(0.3)
        assert sent < count / 2


@asynccontextmanager
async def chat(world: World, token: str) -> AsyncIterator[ClientConnection]:
    """A WebSocket whose caller the server has let in or, if it is a stranger, not yet."""
    async with socket(
        world, "/v1/chat/r", additional_headers={"authorization": token} if token else {}
    ) as ws:
        await world.server.waiting.acquire()

        async def let_in() -> bool:
            return not world.gateway.slots.unknown

        if not token.startswith(STRANGER):
            await eventually(let_in)
        yield ws


async def test_streams_have_a_quota(contract: Contract) -> None:
    limits = Limits(streams=5, streams_per_caller=2)
    async with opened(contract, limits) as world, asyncio.timeout(30):
        async with chat(world, "a"), chat(world, "a"), chat(world, ""), chat(world, ""):
            for token in ("a", ""):
                with pytest.raises(InvalidStatus) as refused:
                    async with chat(world, token):
                        pass
                assert refused.value.response.status_code == 429
                assert refused.value.response.headers["retry-after"]
            async with chat(world, "b"):
                for client in ("c", "d"):
                    response = await world.http.get(
                        "/v1/things:watch?count=1", headers={"authorization": client}
                    )
                    assert response.status_code == 429
            assert (await world.http.get("/v1/things/t")).status_code == 200
        async with chat(world, "a") as ws:
            await ws.send("")
            await heard(ws)
        response = await world.http.get("/v1/things:watch?count=1")
        assert response.status_code == 200


async def test_invented_credentials_of_one_address_never_fill_a_process(contract: Contract) -> None:
    async with opened(contract, Limits(streams=8)) as world, asyncio.timeout(30), AsyncExitStack() as stack:
        for token in ("a", "b", "", *(f"{STRANGER} {number}" for number in range(4))):
            await stack.enter_async_context(chat(world, token))
        with pytest.raises(InvalidStatus) as refused:
            async with chat(world, f"{STRANGER} 4"):
                pass
        assert refused.value.response.status_code == 429
        assert "let in" in json.loads(refused.value.response.body or b"")["message"]
        assert (world.gateway.slots.open, world.gateway.slots.unknown) == (7, 4)
        await stack.aclose()

        async def all_gone() -> bool:
            return not world.gateway.slots.open

        await eventually(all_gone)
        assert world.gateway.slots.unknown == 0
        assert (await world.http.get("/v1/things:watch?count=1")).status_code == 200


async def test_a_body_that_does_not_come_holds_no_place(contract: Contract) -> None:
    async with opened(contract, Limits(streams=1)) as world, asyncio.timeout(30):
        head = b"POST /v1/things:tell HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n"
        waiting = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(3)]
        for _, writer in waiting:
            writer.write(head)
        assert (await world.http.get("/v1/things:watch?count=1")).status_code == 200
        assert world.gateway.slots.open == 0
        for reader, writer in waiting:
            writer.write(b'{"count":1}')
            assert b" 200 " in await reader.readline()
            await reader.readuntil(b"0\r\n\r\n")
            writer.close()


async def test_thousands_of_idle_websockets_are_refused_and_leave_nothing(contract: Contract) -> None:
    async with opened(contract, Limits(streams_per_caller=10)) as world, asyncio.timeout(60):
        tasks = len(asyncio.all_tasks())
        refused = 0
        async with socket(world, "/v1/chat/r"):
            for _ in range(300):
                try:
                    ws = await connect(f"ws://127.0.0.1:{world.port}/v1/chat/r", proxy=None)
                except InvalidStatus:
                    refused += 1
                else:
                    await ws.send("{}")
        assert refused >= 290
        assert world.gateway.slots.open <= 10
        assert len(asyncio.all_tasks()) < tasks + 200


async def test_a_silent_stream_says_that_it_is_there_and_ends_in_the_end(contract: Contract) -> None:
    limits = Limits(idle_seconds=0.6, keep_alive_seconds=0.1)
    async with opened(contract, limits) as world, asyncio.timeout(30):
        url = "/v1/things:watch?count=1&silence=3600s"
        text = (await world.http.get(url, headers=EVENTS)).text
        assert text.count(":\n\n") >= 2
        assert json.loads(events(text)[-1]["data"])["details"][0]["reason"] == "STREAM_IDLE"
        assert lines((await world.http.get(url)).text)[-1]["error"]["code"] == 4
        for path in ("/v1/chat/r", "/v1/things:tell"):
            async with socket(world, path) as ws:
                assert (await heard(ws))[1] == 4408
        await world.server.given_up.acquire()


async def test_streams_end_when_the_process_stops(contract: Contract) -> None:
    async with opened(contract) as world, asyncio.timeout(30):
        async with socket(world, "/v1/chat/r") as ws:
            await world.server.waiting.acquire()
            await world.gateway.end_streams(10)
            frames, code = await heard(ws)
            assert (frames[-1]["error"]["code"], code) == (14, 4503)
        response = await world.http.get("/v1/things:watch?count=1")
        assert response.status_code == 503
        assert (await world.http.get("/v1/things/t")).status_code == 200


async def test_a_stream_has_a_deadline_if_it_is_given_one(world: World) -> None:
    headers = {"x-request-timeout": "0.3"}
    told = lines((await world.http.get("/v1/things:watch?count=1&silence=3600s", headers=headers)).text)
    assert told[-1]["error"]["code"] == 4
    with pytest.raises(httpx.HTTPStatusError):
        (await world.http.get("/v1/things:watch?silence=3600s", headers=headers)).raise_for_status()
