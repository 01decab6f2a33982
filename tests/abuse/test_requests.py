"""What is too deep, too large, too long or nobody's, sent to a process of Laurel itself.

The numbers in the names are those of the list of abuse cases that Laurel is held to. What else
no honest client sends is tried on the shim alone, in tests/gateway/test_hostile.py.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway.settings import GatewaySettings
from laurel.process.main import Process, running
from server.domain.actor import CallerKind
from server.settings import Settings
from server.store import locks
from server.store.database import Database
from tests.support.programs import new_key, new_program

STREAMS = 4
DEADLINE_SECONDS = 3.0
LARGE = 50 << 20
PIECE = b" " * (1 << 20)


class Place:
    """A process, and a client with a service's key."""

    def __init__(self, process: Process, client: httpx.AsyncClient) -> None:
        self.process, self.client = process, client

    @property
    def port(self) -> int:
        return self.process.rest.port

    async def member(self) -> str:
        body = {"requestId": uuid4().hex, "member": {"email": f"{uuid4().hex}@example.com"}}
        answer = await self.client.post("/members/register", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["member"]["memberId"])


@pytest.fixture(scope="module")
async def place(settings: Settings, database: Database) -> AsyncIterator[Place]:
    key = await new_key(database, await new_program(database), CallerKind.SERVICE)
    strict = settings.model_copy(update={"max_deadline_seconds": DEADLINE_SECONDS})
    http = GatewaySettings(http_port=0, http_streams=STREAMS, max_deadline_seconds=DEADLINE_SECONDS)
    async with (
        running(strict, http) as process,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{process.rest.port}",
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,
        ) as client,
    ):
        yield Place(process, client)


def reason(answer: httpx.Response) -> str:
    return str(answer.json()["details"][0]["reason"])


@pytest.mark.parametrize("opening", ["[", '{"member":', '{"definition":{"a":['])
@pytest.mark.parametrize("path", ["/members/register", "/rules"])
async def test_14_json_10_000_deep_is_400(place: Place, path: str, opening: str) -> None:
    headers = {"content-type": "application/json"}
    answer = await place.client.post(path, content=opening * 10_000, headers=headers)
    assert (answer.status_code, reason(answer)) == (400, "BODY_NOT_JSON")


@pytest.mark.parametrize("size", [b"Content-Length: %d" % LARGE, b"Transfer-Encoding: chunked"])
async def test_14_fifty_megabytes_are_413_before_they_are_here(place: Place, size: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(b"POST /members/register HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % size)
    chunked = b"chunked" in size
    async with asyncio.timeout(30):
        first = asyncio.ensure_future(reader.readline())
        sent = 0
        while not first.done() and sent < LARGE:
            writer.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE)
            sent += len(PIECE)
            await asyncio.wait((first,), timeout=0.02)
        assert b" 413 " in await first
    writer.transport.abort()
    assert sent < LARGE, "it was read to its end"


@pytest.mark.parametrize("header", [("x-request-timeout", "99999999"), ("grpc-timeout", "99999999H")])
async def test_14_an_absurd_deadline_is_cut(
    place: Place, database: Database, header: tuple[str, str]
) -> None:
    member_id = await place.member()
    body = {"requestId": uuid4().hex, "memberId": member_id, "points": "1"}
    async with database.transaction() as connection, asyncio.timeout(30):
        await locks.take(connection, [locks.member_lock(UUID(member_id))])
        answer = await place.client.post("/transactions/redeem", json=body, headers=dict([header]))
    assert (answer.status_code, reason(answer)) == (504, "DEADLINE_EXCEEDED")


async def test_strangers_hold_no_place_for_a_stream(place: Place) -> None:
    watch = f"/members/{await place.member()}:watch"
    head = "GET {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 5\r\n\r\n"
    held = []
    for number in range(2 * STREAMS):
        _, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(head.format(watch, f"invented-{number}").encode())
        held.append(writer)
    for number in range(2 * STREAMS):
        for path in (watch, "/journals:upload"):
            assert await turned_away(place, path, number) == 4401
    async with place.client.stream("GET", watch) as answer:
        assert answer.status_code == 200
        assert "result" in await anext(answer.aiter_lines())
    for writer in held:
        writer.transport.abort()


async def turned_away(place: Place, path: str, number: int) -> int:
    """How a WebSocket ends of somebody who invents a token and says nothing."""
    headers = {"authorization": f"Bearer invented-{number}"}
    url = f"ws://127.0.0.1:{place.port}{path}"
    async with asyncio.timeout(30), connect(url, proxy=None, additional_headers=headers) as ws:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await ws.recv()
        return ws.close_code or 0
