"""Children of a process in which gRPC is at work."""

import asyncio
import signal
from pathlib import Path
from subprocess import Popen

from loyalty.v1 import points_pb2

from laurel.stack.processes import spawn
from tests.support.servers import Laurel

CHILDREN = 30


async def test_children_start_however_busy_grpc_is(laurel: Laurel, tmp_path: Path) -> None:
    member_id = await laurel.register()
    enough = asyncio.Event()

    async def ask() -> None:
        while not enough.is_set():
            await laurel.service.points.GetBalance(points_pb2.GetBalanceRequest(member_id=member_id))

    def start() -> list[Popen[bytes]]:
        with (tmp_path / "log").open("wb") as log:
            command = ["/bin/sh", "-c", "exit 7"]
            return [spawn(command, log=log, dies_by=signal.SIGKILL) for _ in range(CHILDREN)]

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    children = await asyncio.to_thread(start)
    ends = [await asyncio.to_thread(child.wait, 60) for child in children]
    enough.set()
    await asyncio.gather(*asking)
    assert set(ends) == {7}
    assert (tmp_path / "log").read_text() == ""
