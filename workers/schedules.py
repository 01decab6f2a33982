"""What is done by the clock: a literal map from names to how often and what."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from server.domain.schedules import DAY
from server.operations.birthdays import Birthdays
from server.operations.checkpoints import take
from server.operations.runs import Done, Runs
from server.store.checkpoint_file import CheckpointWriter
from server.store.database import Database
from server.store.schedules import Turn
from workers.scheduler import OFF, Schedule

NOTHING = "nothing to do"


@dataclass(frozen=True, slots=True)
class Jobs:
    """What is done, with what it takes. ``checkpoints`` is None where nobody wants them."""

    database: Database
    runs: Runs
    birthdays: Birthdays
    checkpoints: CheckpointWriter | None
    clock: Callable[[], datetime]
    new_id: Callable[[], UUID]

    async def due(self, turn: Turn) -> str:
        """Activate, release and expire what has fallen due, in the order of its moments."""
        return in_words(await followed(self.runs.catch_up(turn.program_id)))

    async def warnings(self, turn: Turn) -> str:
        """Tell members of points that will expire."""
        return in_words(await followed(self.runs.warn(turn.program_id)))

    async def tiers(self, turn: Turn) -> str:
        """Put members into the tier that their lifetime reaches by the terms of now."""
        return in_words(await followed(self.runs.review(turn.program_id)))

    async def birthday(self, turn: Turn) -> str:
        """Tell the log whose birthday it is."""
        told = 0
        async with aclosing(self.birthdays.tell(turn.program_id, turn.since)) as steps:
            async for step in steps:
                told += len(step.told)
        return f"{told:,} members" if told else NOTHING

    async def checkpoint(self, turn: Turn) -> str:
        """Write down where the chains end. Raises CheckpointError, and OSError if it can't be written."""
        assert self.checkpoints is not None
        taken = await take(self.database, self.checkpoints, self.clock, self.new_id)
        if taken.busy:
            return "somebody took one by hand"
        if taken.last is None or not taken.heads:
            return NOTHING
        return f"number {taken.last.checkpoint.number}, {taken.heads:,} wallets"


def schedules(jobs: Jobs, due_seconds: float, checkpoint_seconds: float) -> Mapping[str, Schedule]:
    """Everything that is done by the clock, by the name that it is shown and remembered by."""
    due = timedelta(seconds=due_seconds)
    return {
        "due": Schedule(due, jobs.due),
        "warnings": Schedule(DAY if due else OFF, jobs.warnings),
        "birthday": Schedule(DAY, jobs.birthday),
        "tiers": Schedule(DAY, jobs.tiers),
        "checkpoint": Schedule(
            timedelta(seconds=checkpoint_seconds) if jobs.checkpoints else OFF,
            jobs.checkpoint,
            of_program=False,
        ),
    }


async def followed(steps: AsyncGenerator[Done, None]) -> Done:
    """All of a run, which rests after each batch for as long as it took: it can wait, and others can't."""
    total, clock = Done(), asyncio.get_running_loop().time
    async with aclosing(steps):
        began = clock()
        async for done in steps:
            total.add(done)
            await asyncio.sleep(clock() - began)
            began = clock()
    return total


def in_words(done: Done) -> str:
    """What a run did, without a word of whom it concerned."""
    parts = [
        f"{points:,} {wallet} {movement} of {done.members[wallet, movement]:,} members"
        for (wallet, movement), points in sorted(done.points.items())
    ]
    parts += [
        f"{members:,} members to {tier}"
        for (tier, movement), members in sorted(done.members.items())
        if movement == "tier"
    ]
    if done.failed:
        parts.append(f"{len(done.failed):,} members failed")
    return "; ".join(parts) or NOTHING
