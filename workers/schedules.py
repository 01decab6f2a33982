"""What is done by the clock: a literal map from names to how often and what."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from server.domain.schedules import DAY
from server.ids import new_id
from server.operations.birthdays import Birthdays
from server.operations.checkpoints import take
from server.operations.hints import Hints
from server.operations.messages import Messages
from server.operations.programs import Programs
from server.operations.runs import Done, Runs
from server.operations.watch import Commits
from server.operations.webhooks import Webhooks
from server.secrets import Secrets, SecretsError
from server.store.checkpoint_file import CheckpointWriter
from server.store.database import Database
from server.store.schedules import Turn
from server.store.sealing import Sealer
from workers.projections import rebuild
from workers.projections.rebuild import Build
from workers.scheduler import OFF, Schedule
from workers.settings import WorkerSettings

NOTHING = "nothing to do"
SWEEP_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Chores:
    """What is done, with what it takes. ``checkpoints`` is None where nobody wants them.

    ``projections``: what can forget the generations of each.
    """

    database: Database
    runs: Runs
    birthdays: Birthdays
    webhooks: Webhooks
    messages: Messages
    projections: Sequence[Build]
    checkpoints: CheckpointWriter | None
    clock: Callable[[], datetime]

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

    async def webhook_log(self, turn: Turn) -> str:
        """Forget what endpoints took long ago."""
        dropped = await self.webhooks.forget(turn.program_id)
        return f"{dropped:,} deliveries forgotten" if dropped else NOTHING

    async def message_log(self, turn: Turn) -> str:
        """Forget messages of long ago and what was sent of them, and give up what no channel takes."""
        cleared = await self.messages.clear(turn.program_id)
        parts = [
            f"{cleared.messages:,} messages and {cleared.deliveries:,} deliveries forgotten",
            f"{cleared.lapsed:,} deliveries given up",
        ]
        return "; ".join(parts) if any(cleared) else NOTHING

    async def generations(self, _: Turn) -> str:
        """Remove what is left of read models that were made again, or never to the end."""
        swept = [await rebuild.sweep(self.database, build) for build in self.projections]
        return f"{sum(swept):,} generations removed" if any(swept) else NOTHING

    async def checkpoint(self, turn: Turn) -> str:
        """Write down where the chains end. Raises CheckpointError, and OSError if it can't be written."""
        assert self.checkpoints is not None
        taken = await take(self.database, self.checkpoints, self.clock, new_id)
        if taken.busy:
            return "somebody took one by hand"
        if taken.last is None or not taken.heads:
            return NOTHING
        wallets = "1 wallet" if taken.heads == 1 else f"{taken.heads:,} wallets"
        return f"number {taken.last.checkpoint.number}, {wallets}"


def open_schedules(
    settings: WorkerSettings,
    keys: Secrets,
    database: Database,
    hints: Hints,
    commits: Commits,
    clock: Callable[[], datetime],
    projections: Sequence[Build],
) -> Mapping[str, Schedule]:
    """What a worker with these settings does by the clock. Raises SecretsError."""
    programs, file = Programs(), None
    if settings.checkpoint_file:
        if keys.checkpoint is None:
            raise SecretsError(
                f"LAUREL_CHECKPOINT_FILE is set, and {settings.secrets_file} has no key to sign with; "
                "`laurel checkpoint key --new` adds one"
            )
        file = CheckpointWriter(Path(settings.checkpoint_file), keys.checkpoint)
    chores = Chores(
        database,
        Runs(database, programs, keys.ledger, clock, new_id, watch=commits, hints=hints),
        Birthdays(database, Sealer(keys), programs, clock, new_id),
        Webhooks(database, Sealer(keys), clock),
        Messages(database, Sealer(keys), clock),
        projections,
        file,
        clock,
    )
    return schedules(chores, settings.due_seconds, settings.checkpoint_seconds)


def schedules(chores: Chores, due_seconds: float, checkpoint_seconds: float) -> Mapping[str, Schedule]:
    """Everything that is done by the clock, by the name that it is shown and remembered by."""
    due = timedelta(seconds=due_seconds)
    return {
        "due": Schedule(due, chores.due),
        "warnings": Schedule(DAY if due else OFF, chores.warnings),
        "birthday": Schedule(DAY, chores.birthday),
        "tiers": Schedule(DAY, chores.tiers),
        "webhook_log": Schedule(DAY, chores.webhook_log),
        "message_log": Schedule(DAY, chores.message_log),
        "generations": Schedule(SWEEP_EVERY, chores.generations, of_program=False),
        "checkpoint": Schedule(
            timedelta(seconds=checkpoint_seconds) if chores.checkpoints else OFF,
            chores.checkpoint,
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
