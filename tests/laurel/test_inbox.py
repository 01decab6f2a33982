"""`laurel members inbox`: what a member was told, and that it was read."""

import asyncio
import json
from functools import partial

from tests.support import processes
from tests.support.mailbox import Reader, join
from tests.support.servers import Laurel


async def test_messages_are_shown_and_marked_as_read(laurel: Laurel) -> None:
    member_id = await join(laurel, "inbox")
    await Reader(laurel).tell()

    async def inbox(*options: str, key: str = laurel.service.key) -> str:
        settings = {"LAUREL_ADDRESS": laurel.address, "LAUREL_API_KEY": key}
        run = partial(processes.run, "members", "inbox", member_id, *options, **settings)
        done = await asyncio.to_thread(run)
        return done.stdout if done.returncode == 0 else f"refused: {done.stderr}"

    shown = await inbox("--unread", key=laurel.staff.key)
    assert f"Welcome to {laurel.program.name}" in shown
    assert shown.endswith("1 unread\n")
    assert (await inbox("--mark-read", key=laurel.staff.key)).startswith("refused: ")
    (message,) = json.loads(await inbox("--mark-read", "--json"))
    assert "readTime" not in message  # it was not, until now
    assert (await inbox("--unread", "--mark-read")).endswith("0 unread\n")
    (message,) = json.loads(await inbox("--json"))
    assert message["readTime"]
