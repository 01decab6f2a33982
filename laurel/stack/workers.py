"""The worker processes of the local stack: `python -m workers`."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from laurel.stack.children import Child
from laurel.stack.processes import POLL_SECONDS, StackError, last_lines

READY_SECONDS = 60.0
COMMAND = (sys.executable, "-m", "workers")
# In the command line of every worker process, to know a stray by.
MARK = "-m workers"


class WorkerProcess(Child):
    """One worker process. ``ops`` is where it tells of itself, "" if nowhere."""

    def __init__(self, environment: Mapping[str, str], log: Path, drain_seconds: float, ops: str) -> None:
        super().__init__(COMMAND, environment, log, drain_seconds + 5.0)
        self.ops = ops

    def wait_until_at_work(self) -> None:
        """Wait until it says so, if it says anything. Raises StackError."""
        deadline = time.monotonic() + READY_SECONDS
        while self.ops and not self._is_ready():
            if not self.running:
                raise StackError(f"the worker {self.ending}; from {self.log}:\n{last_lines(self.log, 15)}")
            if time.monotonic() > deadline:
                raise StackError(f"the worker isn't ready after {READY_SECONDS:.0f} s; see {self.log}")
            time.sleep(POLL_SECONDS * 3)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://{self.ops}/readyz", timeout=1.0, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False
