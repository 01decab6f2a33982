"""What a process says about itself: memory, CPU, open files, and how late its event loop is."""

import asyncio
import contextlib
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from telemetry.metrics import Labels, Metrics

TICK_SECONDS = 0.25
LATE = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
KIBIBYTE = 1024


def describe(metrics: Metrics, version: str) -> None:
    """Add the figures of this process. What the system doesn't tell is left out."""
    started = time.time()
    metrics.gauge(
        "process.memory.usage",
        "By",
        "Resident memory.",
        _memory,
        prometheus="process_resident_memory_bytes",
    )
    metrics.gauge(
        "process.cpu.time",
        "s",
        "CPU time used, by all threads.",
        lambda: {(): time.process_time()},
        kind="counter",
        prometheus="process_cpu_seconds",
    )
    metrics.gauge(
        "process.open_file_descriptor.count",
        "{file_descriptor}",
        "Open files and connections.",
        _files,
        prometheus="process_open_fds",
    )
    metrics.gauge(
        "process.open_file_descriptor.limit",
        "{file_descriptor}",
        "As many files and connections may be open.",
        lambda: {(): resource.getrlimit(resource.RLIMIT_NOFILE)[0]},
        prometheus="process_max_fds",
    )
    metrics.gauge(
        "process.start_time",
        "s",
        "When the process started, in seconds since 1970.",
        lambda: {(): started},
        prometheus="process_start_time_seconds",
    )
    build = (version, platform.python_version())
    metrics.gauge("laurel.build.info", "1", "1, by versions.", lambda: {build: 1}, ("version", "python"))


class Pulse:
    """Measures how late the event loop runs what is due. Needs a running loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._late = metrics.histogram(
            "laurel.event_loop.lag", "s", "How late the event loop runs what is due.", bounds=LATE
        ).of()
        self._task = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """Stop measuring."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self._late.observe(max(0.0, loop.time() - due))


def _memory() -> Mapping[Labels, float]:
    try:
        return {(): int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES}
    except OSError:  # not Linux: the most it ever was
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {(): most if sys.platform == "darwin" else most * KIBIBYTE}


def _files() -> Mapping[Labels, float]:
    try:
        return {(): len(os.listdir("/proc/self/fd"))}
    except OSError:
        return {}
