"""Thousands of WebSockets that say nothing: those over the quota are refused and cost the shim nothing."""

import asyncio
import json
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from gateway.limits import Limits
from tests.faults.test_cancel import open_files, resident
from tests.support.processes import ROOT, environment
from tests.support.waiting import eventually

pytestmark = pytest.mark.faults

SOCKETS = 5_000
CALLERS = 40
AT_ONCE = 50
FILL_SECONDS = 60.0
PAUSE_SECONDS = 0.1
STREAMS = Limits().streams
# What a first use keeps open.
SPARE_FILES = 10
# Refusals cost the heap some at first, then nothing more; 4,000 that were kept would take many times this.
MOST_GROWTH_KIB = 16 * 1024
SHIM = """
import asyncio, json
from gateway.contract import Contract
from tests.gateway.world import compiled, opened

async def serve():
    async with opened(Contract(compiled())) as world:
        print(json.dumps({"port": world.port}), flush=True)
        await asyncio.Event().wait()

asyncio.run(serve())
"""


@pytest.fixture
def shim() -> Iterator[tuple[int, int]]:
    """Process and port of a shim in front of a contract that streams."""
    child = subprocess.Popen(
        [sys.executable, "-c", SHIM],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        yield child.pid, json.loads(child.stdout.readline())["port"]
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=30)


class Crowd:
    """Clients that open WebSockets and keep those that they get."""

    def __init__(self, port: int) -> None:
        self.kept: list[ClientConnection] = []
        self.ended: Counter[int] = Counter()
        self._url = f"ws://127.0.0.1:{port}/v1/chat/room"

    async def open(self, number: int) -> None:
        """One more, of one of the callers."""
        headers = {"authorization": f"Bearer {number % CALLERS}"}
        try:
            ws = await connect(
                self._url, proxy=None, additional_headers=headers, ping_interval=None, open_timeout=30
            )
            self.kept.append(ws)
            self.ended[101] += 1
        except InvalidStatus as refused:
            told = "retry-after" in refused.response.headers
            self.ended[refused.response.status_code if told else 0] += 1

    async def come(self, times: int) -> None:
        """So many, not all at the same moment."""
        numbers = iter(range(times))

        async def one_after_another() -> None:
            for number in numbers:
                await self.open(number)

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))

    async def fill(self, places: int) -> None:
        """Take all; who comes faster than the server lets others in is told to come back, and does."""
        async with asyncio.timeout(FILL_SECONDS):
            while self.ended.pop(429, 0) or len(self.kept) < places:
                await self.come(places - len(self.kept))
                await asyncio.sleep(PAUSE_SECONDS)
        assert self.ended == {101: places}

    async def leave(self) -> None:
        """Close all."""
        async with AsyncExitStack() as leaving:
            for ws in self.kept:
                leaving.push_async_callback(ws.close)


async def test_5_000_idle_websockets_meet_the_quota_and_memory_stays(
    shim: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 3 * STREAMS:
        pytest.skip(f"this machine lets a process have {most} files; {3 * STREAMS} are needed")
    pid, port = shim
    idle, crowd = open_files(pid), Crowd(port)
    if files < 3 * STREAMS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 * STREAMS, most))
    await crowd.fill(STREAMS)
    before = resident(pid)
    await crowd.come(SOCKETS - STREAMS)
    after = resident(pid)
    with capsys.disabled():
        print(f"\n{dict(crowd.ended)}; {before:,} KiB with {STREAMS} open, {after:,} KiB after the others")
    assert crowd.ended == {101: STREAMS, 429: SOCKETS - STREAMS}
    assert after - before < MOST_GROWTH_KIB
    # Whoever wants no stream is served, and so is the next that does once they have left.
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        assert (await http.get(f"http://127.0.0.1:{port}/v1/things/t")).status_code == 200
    await crowd.leave()

    async def is_idle() -> bool:
        return open_files(pid) <= idle + SPARE_FILES

    await eventually(is_idle, 60)
    last = Crowd(port)
    await last.come(1)
    assert last.ended == {101: 1}
    await last.leave()
