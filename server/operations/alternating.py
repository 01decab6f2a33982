"""Whether two smaller batches take turns, where one would hold all who call.

Those whose commands share a batch wait for the database together, and meanwhile nobody is left to work
for: this process idles. With half of them in each of two batches it decides one while the other is
written. But a command costs more CPU in a smaller batch, and its share of a slow flush is larger. So
batches take turns only where this process was found idle in between, and only while that brings more.
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
# For so long batches take turns. Then they are whole for as long as it takes to look again.
SECONDS = 5.0
# For so long they are left whole when taking turns has brought less.
REST_SECONDS = 60.0


class Alternating:
    """Looks now and then at how idle the calling thread is while batches are whole, and what comes of turns.

    ``clock``: seconds that pass; ``busy``: seconds that the thread has worked.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, busy: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = clock
        self._busy = busy
        # Until when batches take turns, and until when they don't.
        self._until = -math.inf
        self._rests_until = -math.inf
        # Whole batches that were looked at, when the first and the last of them began, and what had been
        # worked by the first.
        self._looks = 0
        self._since = self._last = 0.0
        self._worked = 0.0
        # Commands begun since then, or since batches take turns; and, until those are looked at, how many a
        # second whole ones brought.
        self._begun = 0
        self._whole = 0.0

    def most(self, waiting: int) -> int:
        """How many of those who wait the batch that begins now takes, with no other under way."""
        now = self._clock()
        if waiting >= FEWEST and now >= self._until:
            self._look(now)
        return -(-waiting // 2) if now < self._until and waiting >= 2 * FEWEST else waiting

    def enough(self, before: int) -> int | None:
        """How many have to wait for another batch to begin behind one of so many; None where none is to."""
        return max(before, FEWEST) if self._clock() < self._until else None

    def begun(self, commands: int) -> None:
        """A batch of so many has begun."""
        self._begun += commands

    def stop(self) -> None:
        """Those who wait can't go on beside the others, so it was no use."""
        self._until = -math.inf

    def _look(self, now: float) -> None:
        whole, self._whole = self._whole, 0.0
        # Later it would tell of a pause in which nobody called.
        if now < self._until + SECONDS and self._begun < whole * (now - self._since):
            self._rests_until = now + REST_SECONDS
        if now < self._rests_until:
            return
        if now - self._last > SECONDS:
            self._looks = 0  # nobody called meanwhile, which is no idleness
        busy = self._busy()
        if self._looks == LOOKS:
            self._looks = 0
            passed = now - self._since
            if busy - self._worked < (1 - IDLE) * passed:
                self._whole, self._until = self._begun / passed, now + SECONDS
                self._since, self._begun = now, 0
                return
        if self._looks == 0:
            self._since, self._worked, self._begun = now, busy, 0
        self._last = now
        self._looks += 1
