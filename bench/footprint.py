"""What a server process takes before anybody calls it."""

import statistics
import sys
import time
from pathlib import Path

from bench.stack import Stack

IDLE_SECONDS = 3.0


def measure(stack: Stack, rounds: int) -> tuple[float, float]:
    """Seconds from the start of a process until it serves, and MB resident once it has idled; medians."""
    starts, sizes = [], []
    for _ in range(rounds):
        started = time.monotonic()
        with stack.server() as target:
            starts.append(time.monotonic() - started)
            time.sleep(IDLE_SECONDS)
            sizes.append(resident_megabytes(target.server[0]))
    return statistics.median(starts), statistics.median(sizes)


def resident_megabytes(pid: int) -> float:
    """VmRSS of a process; 0 where /proc isn't."""
    if sys.platform != "linux":
        return 0.0
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6
