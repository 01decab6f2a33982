"""Histories whose steps meet: in waves, through two committers over one PostgreSQL, each with its clock.

Whatever order the two found, the ledger shows it: ids are given under the locks, so of two commands that
touch one wallet the one with the lower id came first. In that order the naive model does the same.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from server.domain.commands import Command, Outcome
from server.domain.errors import Refused
from server.domain.household_commands import Dissolve, Invite
from server.domain.program import Program
from server.operations.committer import Committer
from server.operations.programs import Programs
from server.secrets import Keyring
from server.store.database import Database
from tests.server.model.commands import Known, command
from tests.server.model.database import Clock
from tests.server.model.histories import NAMES, START, Step, in_points
from tests.server.model.naive import Naive
from tests.server.model.naive.households import sitting
from tests.server.model.runs import Told, ids_from, in_plain_words

OF_THE_SEATED = ("contribute", "change", "leave")
WITH_OWNERS = ("capture", "void", "return", "refund", "invite", "dissolve")


@dataclass
class Sent:
    """A command that one of the two was given; ``now`` is that one's clock."""

    place: int
    step: Step
    command: Command
    now: datetime
    told: Told


class Pair:
    """Two committers whose clocks differ, with small batches: up to six are under way at once."""

    def __init__(self, keys: Keyring, databases: Sequence[Database], base: int, batch_size: int) -> None:
        self.clocks = Clock(), Clock()
        new_id = ids_from(base)
        self.committers = [
            Committer(database, Programs(), keys, clock, new_id, batch_size)
            for database, clock in zip(databases, self.clocks, strict=True)
        ]

    async def close(self) -> None:
        """End them."""
        for committer in self.committers:
            await committer.close()

    async def submit(self, which: int, wanted: Command) -> Told:
        """What one of them answers."""
        deadline = asyncio.get_running_loop().time() + 30
        try:
            return await self.committers[which].submit(wanted, deadline)
        except Refused as refusal:
            return refusal


@dataclass
class Race:
    """A history in waves, and the naive model in the order of the ledger."""

    program: Program
    naive: Naive
    pair: Pair
    steps: list[Step] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    outcomes: list[Outcome | None] = field(default_factory=list)
    invitations: dict[int, UUID] = field(default_factory=dict)
    pools: dict[UUID, int] = field(default_factory=dict)
    now: datetime = START
    told: list[str] = field(default_factory=list)  # for reading

    async def wave(self, steps: Sequence[Step]) -> list[Sent]:
        """All of them at once, to the one committer and the other by turns; some to both."""
        self.now += timedelta(hours=steps[0].wait)
        behind = self.now - timedelta(minutes=steps[0].behind)
        self.pair.clocks[0].now, self.pair.clocks[1].now = self.now, behind
        places = [self._placed(step, n % 2) for n, step in enumerate(steps)]
        tries = [(place, n % 2) for n, place in enumerate(places)]
        tries += [(place, 1 - n % 2) for n, place in enumerate(places) if n % 3 == 0]
        commands = [
            replace(self.commands[place], received_at=self.pair.clocks[which].now) for place, which in tries
        ]
        told = await asyncio.gather(
            *(self.pair.submit(which, wanted) for (_, which), wanted in zip(tries, commands, strict=True))
        )
        return [
            Sent(place, self.steps[place], wanted, self.pair.clocks[which].now, answer)
            for (place, which), wanted, answer in zip(tries, commands, told, strict=True)
        ]

    async def all_again(self) -> list[Told]:
        """Everything that was accepted once more, to whichever of the two."""
        accepted = [place for place, outcome in enumerate(self.outcomes) if outcome is not None]
        tries = (self.pair.submit(place % 2, self.commands[place]) for place in accepted)
        return list(await asyncio.gather(*tries))

    def _placed(self, step: Step, which: int) -> int:
        """Where the step stands: as a new one, or as the one that it tries again."""
        step = self._settled(step)
        if step.what == "again":
            return step.of
        place, now = len(self.steps), self.pair.clocks[which].now
        known = Known([*self.outcomes], self.invitations, self._sitting)
        self.commands.append(command(self.program, step, place, now, known))
        self.steps.append(step)
        self.outcomes.append(None)
        return place

    def _settled(self, step: Step) -> Step:
        """With what it is about, whose that is, and how much it asks for, as things stand before the wave."""
        books = self.naive.books
        if step.about:
            known = [p for p in self.naive.told if self.steps[p].what in step.about]
            if step.what in ("approve", "reject"):
                known = list(books.asked)
            of = known[-1 - step.back] if step.back < len(known) else -1
            if of < 0 and step.what == "again":
                return replace(step, what="visit")
            step = replace(step, of=of)
            if of >= 0 and step.what in WITH_OWNERS and not step.stranger:
                step = replace(step, who=self.steps[of].who)
        seated = list(books.seats)
        if (step.shared or step.what in OF_THE_SEATED) and seated and not step.stranger:
            who = step.who if step.who in seated else seated[step.wait % len(seated)]
            step = replace(step, who=who)
        wallet = books.wallets.get(books.lead(step.who), {}).get(step.wallet or "points")
        return in_points(step, wallet.balance if wallet else 0)

    def _sitting(self, household_id: UUID) -> list[UUID]:
        home = self.pools.get(household_id)
        return [] if home is None else sitting(self.naive.books, home)

    def replayed(self, sent: Sequence[Sent], recorded: Mapping[str, datetime]) -> list[tuple[Any, Any]]:
        """What was said and what should have been, of all that was accepted, in the order of the ledger.

        ``recorded``: when each was, by the clock of whoever did it. Of each refusal whether there was any
        moment in the wave at which it was right.
        """
        accepted = {
            s.place: s for s in sent if isinstance(s.told, Outcome) and s.place not in self.naive.told
        }
        refused = [s for s in sent if isinstance(s.told, Refused)]
        reasons = [self._reasons(s) for s in refused]
        pairs: list[tuple[Any, Any]] = []
        for one in sorted(accepted.values(), key=lambda s: s.told.event_id):  # type: ignore[union-attr]
            assert isinstance(one.told, Outcome)
            self._remember(one.place, one.told)
            now = recorded[f"r{one.place}"]
            said = self.commands[one.place].received_at
            should = self.naive.would(one.place, one.step, now, said)
            if not isinstance(should, str):
                self.naive.do(one.place, one.step, now, said)
            pairs.append((self.plain(one.told), _in_order(should)))
            self.told.append(f"#{one.place:<3} {now:%d %H:%M} {NAMES[one.step.who]:6} {one.step} -> {should}")
            for known, other in zip(reasons, refused, strict=True):
                known.update(self._reasons(other))
        for one, reason in zip(refused, reasons, strict=True):
            assert isinstance(one.told, Refused)
            pairs.append(
                (one.told.reason, one.told.reason if one.told.reason in reason else (one.step, reason))
            )
        for one in sent:
            if one.place in self.naive.told and isinstance(one.told, Outcome):
                pairs.append((one.told, self.outcomes[one.place]))
        return pairs

    def _reasons(self, one: Sent) -> set[str]:
        """Why it would be refused at this point."""
        books, reasons = self.naive.books, set[str]()
        if one.place in self.naive.told:
            return reasons
        if isinstance(one.command, Dissolve) and set(sitting(books, one.step.of)) != set(one.command.sitting):
            reasons.add("HOUSEHOLD_CHANGED")
        would = self.naive.would(one.place, one.step, one.now, self.commands[one.place].received_at)
        return reasons | ({would} if isinstance(would, str) else set())

    def remember_invitations(self, ids: Mapping[bytes, UUID]) -> None:
        """What the wave's invitations are, by the hash of their token."""
        for place, wanted in enumerate(self.commands):
            if isinstance(wanted, Invite) and wanted.token_hash in ids:
                self.invitations[place] = ids[wanted.token_hash]

    def _remember(self, place: int, told: Outcome) -> None:
        self.outcomes[place] = told
        if self.steps[place].what == "form":
            assert told.household_id is not None
            self.pools[told.household_id] = place

    def plain(self, told: Outcome) -> Any:
        """An answer as the naive model gives it."""
        places = {o.event_id: place for place, o in enumerate(self.outcomes) if o is not None}
        return in_plain_words(told, places, {place: s.what for place, s in enumerate(self.steps)})


def _in_order(told: Any) -> Any:
    return told if isinstance(told, str) else told | {"awards": sorted(told["awards"], key=lambda a: a[0])}
