"""How a process serves: it tells that it is ready, and goes on until it is asked to stop or can't."""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from server import heap
from server.ending import ended


class StartError(Exception):
    """The process can't start; the message says why and what to do, and holds no secret."""


class Broken(Exception):  # noqa: N818 - says what it is
    """The process can't go on for a fault of ours, and should be started anew."""


async def until_asked(places: dict[str, object], broken: Coroutine[Any, Any, object] | None = None) -> None:
    """Tell on standard output where somebody listens, and wait for SIGTERM or SIGINT.

    Raises Broken when ``broken`` returns before.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    heap.settle()
    print(json.dumps({"event": "ready", **places}), file=sys.stdout, flush=True)
    ends = [asyncio.create_task(end) for end in (asked.wait(), broken) if end is not None]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await ended(ends)
    if not asked.is_set():
        raise Broken("a part of it ended by itself; the log says why")
