"""Whether two smaller batches take turns, where one would hold all who call.

Those whose commands share a batch wait for the database together, and meanwhile nobody is left to work
for: this process idles. With half of them in each of two batches it decides one while the other is
written. But a command costs more CPU in a smaller batch, here and in the database. So batches take turns
only where this process was found idle in between: a database that is far away, slow to flush, or has to
fetch what it is asked for.
"""

import math
import time
from collections.abc import Callable

# In a smaller batch than so a command costs too much.
FEWEST = 20
# The share of the time that this process has to have had nothing to do.
IDLE = 0.25
# So many batches tell.
LOOKS = 8
# For so long the answer counts. Then batches are whole for as long as it takes to look again.
SECONDS = 5.0


class Alternating:
    """Looks now and then at how idle the calling thread is while batches are whole.

    ``clock``: seconds that pass; ``busy``: seconds that the thread has worked.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, busy: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = clock
        self._busy = busy
        self._until = -math.inf
        # When the first of the batches that are looked at began, what had been worked by then, and how many.
        self._first = (0.0, 0.0)
        self._looks = 0

    def most(self, waiting: int) -> int:
        """How many of those who wait the batch that begins now takes, with no other under way."""
        now = self._clock()
        if waiting >= FEWEST and now >= self._until:
            self._look(now)
        return -(-waiting // 2) if now < self._until and waiting >= 2 * FEWEST else waiting

    def enough(self, before: int) -> int | None:
        """How many have to wait for another batch to begin behind one of so many; None where none is to."""
        return max(before, FEWEST) if self._clock() < self._until else None

    def stop(self) -> None:
        """Those who wait can't go on beside the others, so it was no use."""
        self._until = -math.inf

    def _look(self, now: float) -> None:
        busy = self._busy()
        if self._looks == LOOKS:
            self._looks = 0
            passed, worked = now - self._first[0], busy - self._first[1]
            if worked < (1 - IDLE) * passed:
                self._until = now + SECONDS
                return
        if self._looks == 0:
            self._first = (now, busy)
        self._looks += 1
