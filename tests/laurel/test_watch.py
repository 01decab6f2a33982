"""WatchMember as its users meet it: server-sent events, WebSocket, and `laurel members watch`."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway.settings import GatewaySettings
from laurel.process.main import Process, running
from server.settings import Settings
from server.store.database import Database
from tests.support.processes import LAUREL, Foreground
from tests.support.published import publish
from tests.support.servers import Laurel, started
from tests.support.streams import events, frames
from tests.support.watching import PATIENCE_SECONDS, buy

BASE = {"rule": "base", "then": [{"earn": {"points": 1, "per": "1.00"}}]}
UNAVAILABLE = 14


@pytest.fixture(scope="module")
async def shop(settings: Settings, database: Database) -> AsyncIterator[Laurel]:
    """A point a rupee, at a till that is served by a process without REST."""
    async with started(settings, database) as laurel:
        await publish(laurel, BASE)
        yield laurel


@contextmanager
def foreground(command: list[str], folder: Path, settings: dict[str, str]) -> Iterator[Foreground]:
    """A command that is ended with the block."""
    child = Foreground(command, folder, settings)
    try:
        yield child
    finally:
        if child.process.poll() is None:
            child.end(signal.SIGTERM)
        assert child.process.stdout is not None
        child.process.stdout.close()


def place(process: Process) -> str:
    return f"127.0.0.1:{process.rest.port}"


@pytest.mark.parametrize("opened", [events, frames])
async def test_a_stream_goes_on_elsewhere_where_it_ended(
    shop: Laurel, settings: Settings, opened: Callable[..., Any]
) -> None:
    member_id, key = await shop.register(), shop.terminal.key
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(running(settings, GatewaySettings(http_port=0)))
        async with opened(place(process), key, member_id, "") as stream, asyncio.timeout(PATIENCE_SECONDS):
            last, begun = await stream.read()
            assert begun["standing"]["status"] == "MEMBER_STATUS_ACTIVE"
            assert last == begun["eventId"]
            await buy(shop.terminal, member_id, 1)
            last, update = await stream.read()
            assert update["points"]["message"] == "You've earned 1 point"
            assert update["points"]["moved"][0]["wallet"]["balance"] == "1"
            stopping = asyncio.create_task(process.stop())
            _, ended = await stream.read()
            assert ended["error"]["code"] == UNAVAILABLE
        await stopping
    for rupees in (2, 3):
        await buy(shop.terminal, member_id, rupees)
    async with (
        running(settings, GatewaySettings(http_port=0)) as process,
        opened(place(process), key, member_id, last) as stream,
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        for rupees in (2, 3):
            _, update = await stream.read()
            assert update["points"]["moved"][0]["points"] == str(rupees)
        await buy(shop.terminal, member_id, 4)
        _, update = await stream.read()
        assert update["points"]["moved"][0]["points"] == "4"


@pytest.mark.parametrize(("last", "status"), [("nonsense", 400), ("", 404)])
async def test_what_is_refused_is_refused_before_a_stream_begins(
    shop: Laurel, settings: Settings, last: str, status: int
) -> None:
    async with (
        running(settings, GatewaySettings(http_port=0)) as process,
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client,
    ):
        answer = await client.get(
            f"http://127.0.0.1:{process.rest.port}/members/{uuid4()}:watch",
            headers={"authorization": f"Bearer {shop.terminal.key}", "last-event-id": last},
        )
    assert answer.status_code == status


async def test_the_command_prints_what_happens_until_it_is_ended(
    shop: Laurel, settings: Settings, database: Database, tmp_path: Path
) -> None:
    card = str(uuid4().int)[:12]
    member_id = await shop.register(card_numbers=[card])
    with ExitStack() as commands:
        async with started(settings, database, shop.program) as laurel:
            port = laurel.server.port
            watching = commands.enter_context(
                foreground(
                    [LAUREL, "members", "watch", card],
                    tmp_path,
                    {"LAUREL_ADDRESS": laurel.address, "LAUREL_API_KEY": shop.terminal.key},
                )
            )
            await asyncio.to_thread(watching.wait_for, "active, bronze: 0 points")
            await buy(shop.terminal, member_id, 1500)
            line = await asyncio.to_thread(watching.wait_for, "You've earned 1,500 points")
            assert line.endswith("mumbai-1): 1,500 points")
            await asyncio.to_thread(watching.wait_for, "You've unlocked Silver")
        # The server is gone; another one comes in its place.
        await asyncio.to_thread(watching.wait_for, "the connection is lost")
        await buy(shop.terminal, member_id, 7)
        async with started(settings.model_copy(update={"port": port}), database, shop.program):
            await asyncio.to_thread(watching.wait_for, "connected again")
            await asyncio.to_thread(watching.wait_for, "You've earned 7 points")
            assert await asyncio.to_thread(watching.end) == 0
    assert watching.text.count("You've earned") == 2
    assert "Traceback" not in watching.text
