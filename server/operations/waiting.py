"""A command on its way through the committer: who waits for it, until when, and behind whom."""

import asyncio
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from server.domain.commands import Command, Outcome
from server.domain.errors import DeadlineExceeded
from server.operations.lines import Turn
from telemetry.traces import Trace


class Replayed(NamedTuple):
    """The outcome of a request that was on record before."""

    outcome: Outcome


Result = Outcome | Replayed | BaseException


@dataclass(slots=True, eq=False)
class Waiting:
    """A command, until when it is worth deciding (event-loop time), and who waits for it."""

    command: Command
    deadline: float
    reply: asyncio.Future[Outcome]
    turn: Turn | None = None
    trace: Trace | None = None
    # Set aside, or waited for its locks the last time (event-loop time).
    since: float = 0.0

    @property
    def members(self) -> set[Hashable]:
        """Whom the command is about."""
        program_id = self.command.actor.program_id
        return {(program_id, member_id) for member_id in self.command.members}

    @property
    def names(self) -> set[Hashable]:
        """What commands have in common that must not overtake one another: members, a line."""
        names = self.members
        if self.turn is not None:
            names.add(self.turn.line)
        return names

    def settle(self, result: Result) -> None:
        """Tell the caller, if there still is one, and the others in its line."""
        if isinstance(result, BaseException) and self.turn is not None:
            self.turn.failed(result)
        if self.reply.done():
            return
        if isinstance(result, BaseException):
            self.reply.set_exception(result)
            return
        if isinstance(result, Replayed):
            if self.turn is not None:
                self.turn.replayed = True
            result = result.outcome
        self.reply.set_result(result)

    def begins(self, now: float) -> bool:
        """Whether it is still to be begun; if not, whoever waits for it has been told why."""
        if self.reply.done():
            return False
        why = None if self.turn is None else self.turn.fault
        if self.deadline <= now:
            why = DeadlineExceeded("DEADLINE_EXCEEDED", "the call's time was over before the work began")
        if why is not None:
            self.settle(why)
        return why is None


def due(commands: Iterable[Waiting]) -> list[Waiting]:
    """Those that are still to be begun; whoever waits for the others has been told why."""
    now = asyncio.get_running_loop().time()
    return [waiting for waiting in commands if waiting.begins(now)]


def foremost(commands: Iterable[Waiting]) -> list[Waiting]:
    """Those that would overtake none of the others."""
    names: set[Hashable] = set()
    first: list[Waiting] = []
    for waiting in commands:
        own = waiting.names
        if names.isdisjoint(own):
            first.append(waiting)
        names |= own
    return first


def parted(
    commands: Sequence[Waiting], stays: Iterable[bool] | None = None, behind: Iterable[Waiting] = ()
) -> tuple[list[Waiting], list[Waiting]]:
    """Those that may go on, and those that stay: each that ``stays``, and all that would overtake one.

    ``behind``: others that stay, and stand before all of these.
    """
    names = set(chain.from_iterable(waiting.names for waiting in behind))
    going: list[Waiting] = []
    staying: list[Waiting] = []
    for waiting, stay in zip(commands, stays or [False] * len(commands), strict=True):
        own = waiting.names
        if stay or not names.isdisjoint(own):
            names |= own
            staying.append(waiting)
        else:
            going.append(waiting)
    return going, staying
