"""Commands that take effect in the order in which they stand in line, as those of a journal do.

Everything about them goes on at once, so that one batch commits many; only the place in
the committer's queue is taken in turn. After a command that failed for a passing reason
none of its line is begun any more: whoever sends that one again, and those after it, finds
them in the same order.
"""

import asyncio

from server.domain.errors import DeadlineExceeded, Refused, Retryable, Unauthenticated

PASSING = (Retryable, DeadlineExceeded, Unauthenticated)


class Line:
    """The turns of one journal. ``patient``: its commands wait where others are refused for a limit."""

    __slots__ = ("_fault", "_faulty", "_front", "_gone", "_joined", "_waiting", "patient")

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self._joined = 0
        # The first place whose turn is not over, and those behind it whose is.
        self._front = 0
        self._gone: set[int] = set()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        # The first place that failed for a passing reason, and why.
        self._faulty = 0
        self._fault: Refused | None = None

    def join(self) -> "Turn":
        """The place behind all others."""
        turn = Turn(self, self._joined)
        self._joined += 1
        return turn

    async def come(self, place: int) -> None:
        """Wait until it is that place's turn. Raises why the line has ended before it."""
        if place != self._front:
            self._waiting[place] = turn = asyncio.get_running_loop().create_future()
            await turn
        fault = self.fault_before(place)
        if fault is not None:
            raise fault

    def leave(self, place: int) -> None:
        """That place's turn is over; the next one's comes."""
        if place < self._front:
            return
        self._gone.add(place)
        while self._front in self._gone:
            self._gone.discard(self._front)
            self._front += 1
        turn = self._waiting.pop(self._front, None)
        if turn is not None and not turn.done():
            turn.set_result(None)

    def failed(self, place: int, why: BaseException) -> None:
        """That place failed; if it was for a passing reason, no later one is begun any more."""
        if isinstance(why, PASSING) and (self._fault is None or place < self._faulty):
            self._faulty, self._fault = place, why

    def fault_before(self, place: int) -> Refused | None:
        """Why that place is not begun any more; None if it may be."""
        return self._fault if place > self._faulty else None


class Turn:
    """A command's place in a line. ``replayed`` tells afterwards whether it was on record before."""

    __slots__ = ("_line", "_place", "replayed")

    def __init__(self, line: Line, place: int) -> None:
        self._line = line
        self._place = place
        self.replayed = False

    @property
    def line(self) -> Line:
        """Where it stands."""
        return self._line

    @property
    def patient(self) -> bool:
        """Whether to wait where others are refused for being too many."""
        return self._line.patient

    @property
    def fault(self) -> Refused | None:
        """Why the line has ended before this place; None if it hasn't."""
        return self._line.fault_before(self._place)

    async def come(self) -> None:
        """Wait for the turn. Raises why the line has ended before it."""
        await self._line.come(self._place)

    def leave(self) -> None:
        """The turn is over, used or not; again does nothing."""
        self._line.leave(self._place)

    def failed(self, why: BaseException) -> None:
        """The command was refused, before or after its turn."""
        self._line.failed(self._place, why)
