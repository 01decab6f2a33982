"""How much memory and log the embedded PostgreSQL gets: little, and more at each start as its data has grown.

A purchase touches a dozen pages, and of a large ledger they lie all over its indexes. What of these isn't in
``shared_buffers`` is read again and again, and written out in between. The first change of a page after
a checkpoint puts the page into the log whole; where ``max_wal_size`` is small beside the data, that log
brings about the next checkpoint, and every change is the first.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

MB, GB = 2**20, 2**30
LEAST_BUFFERS = 256 * MB
LEAST_LOG = 2 * GB
# What a crash leaves to be done again at the next start: some minutes of it.
MOST_LOG = 32 * GB
# Docker and the like: how much of the machine's memory is ours.
CONTAINER = Path("/sys/fs/cgroup/memory.max")


def sized(data: int, memory: int, free: int) -> Mapping[str, str]:
    """Settings by the bytes of its data, of memory, and of what its disk has for the log.

    A quarter of the data is what purchases touch of it, with some to spare.
    """
    buffers = max(LEAST_BUFFERS, min(data // 4, memory // 3))
    log = max(LEAST_LOG, min(data, free // 3, MOST_LOG))
    return {"shared_buffers": f"{buffers // MB}MB", "max_wal_size": f"{log // MB}MB"}


def of_this_machine(data: Path) -> Mapping[str, str]:
    """The same for what lies in the folder ``data``, here and now."""
    return sized(size(data / "base"), _memory(), shutil.disk_usage(data).free + size(data / "pg_wal"))


def size(folder: Path) -> int:
    """Bytes of the files in it and below; those that go meanwhile don't count."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _memory() -> int:
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(own, int(CONTAINER.read_text()))
    except (OSError, ValueError):  # not in one, or without a limit
        return own
