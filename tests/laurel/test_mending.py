"""What the local stack does for a process of its own that can't go on."""

import os
import signal
import sys
import time
from pathlib import Path

from laurel.stack.servers import ServerProcess, reserve
from laurel.stack.supervisor import Watched
from server.settings import Settings

# A server whose committer ends by SIGUSR1, as by a fault of ours.
FAULTY = """
import asyncio, signal, sys
from laurel.process.__main__ import main

def fail(*_):
    [lane] = [task for task in asyncio.all_tasks() if task.get_name() == "committer"]
    lane.cancel()

signal.signal(signal.SIGUSR1, fail)
sys.exit(main())
"""


def test_a_server_whose_committer_broke_ends_and_is_started_again(settings: Settings, tmp_path: Path) -> None:
    with reserve("127.0.0.1", 0) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        environment = {
            **os.environ,
            "LAUREL_DATABASE_URL": settings.database_url.get_secret_value(),
            "LAUREL_REDIS_URL": settings.redis_url.get_secret_value(),
            "LAUREL_SECRETS_FILE": str(settings.secrets_file),
            "LAUREL_PORT": address.rpartition(":")[2],
            "LAUREL_HTTP_PORT": "0",
            "LAUREL_OPS_PORT": "0",
        }
        log = tmp_path / "server.log"
        server = ServerProcess(environment, log, 1.0, (sys.executable, "-c", FAULTY))
        watched = Watched("the server", server)
        said: list[str] = []
        try:
            server.start()
            server.wait_until_serving(address)
            first = server.pid
            os.kill(first, signal.SIGUSR1)
            deadline = time.monotonic() + 30
            while not watched.mend(said.append):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            server.wait_until_serving(address)
        finally:
            server.stop()
    assert said == [
        f"the server died (ended with code 1; see {log}); it starts again in 0.25 s",
        "the server was started again",
    ]
    told = log.read_text()
    assert "committer_broken" in told
    assert "laurel: a part of it ended by itself; the log says why" in told
    assert server.pid != first
