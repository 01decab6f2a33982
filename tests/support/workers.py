"""Worker processes to be killed: their leases are short, so that others take over soon."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from server.settings import Settings
from tests.support.processes import ROOT, environment
from tests.support.programs import worker_settings_for

HASTY = """
import asyncio
from workers.deliveries import Pace
from workers.main import work
from workers.settings import WorkerSettings
pace = Pace(poll_seconds=0.1, lease_seconds=3.0, send_seconds=1.5, waits=(0.5,) * 60)
asyncio.run(work(WorkerSettings(), pace=pace))
"""


async def hasty_worker(settings: Settings, folder: Path) -> asyncio.subprocess.Process:
    """A worker in a process of its own; what it says goes to ``worker.log`` in the folder."""
    said = worker_settings_for(settings)
    values: dict[str, Any] = {
        "LAUREL_DATABASE_URL": said.database_url.get_secret_value(),
        "LAUREL_REDIS_URL": said.redis_url.get_secret_value(),
        "LAUREL_SECRETS_FILE": str(said.secrets_file),
        "LAUREL_WEBHOOK_LOOPBACK": "true",
        "LAUREL_WORKER_LEASE_SECONDS": "2",
        "LAUREL_WORKER_OPS_PORT": "",
    }
    with (folder / "worker.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", HASTY, env=environment(**values), stdout=log, stderr=log, cwd=ROOT
        )


async def ended(worker: asyncio.subprocess.Process) -> None:
    """Kill it, if it still runs."""
    if worker.returncode is None:
        worker.kill()
        await worker.wait()
