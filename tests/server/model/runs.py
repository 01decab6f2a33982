"""Histories, carried out: at the blackboard, over a dictionary, and in PostgreSQL."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from server.domain.activity import MemberFacts
from server.domain.books import Books, Decision, MemberState, Terms
from server.domain.commands import Command, Outcome
from server.domain.due import as_due
from server.domain.errors import Refused
from server.domain.ledger import Kind, Movement
from server.domain.points import decide, prepare
from server.domain.program import Program
from server.domain.proof import Finding
from server.domain.rules.compile import RuleSet
from server.operations.committer import Committer
from server.operations.outcomes import outcome_from, outcome_text
from server.operations.programs import Programs
from server.operations.verify import Result, verify
from server.secrets import Keyring
from server.store import ledger, programs
from server.store.database import Database
from server.store.together import ask
from tests.server.model.histories import (
    ABOUT,
    MEMBERS,
    NAMES,
    RULES,
    START,
    SUE,
    VISIT,
    Step,
    command,
    in_points,
    table,
)
from tests.server.model.naive import Naive, Refusal
from tests.support.desk import spent_by

Told = Outcome | Refused


@dataclass
class Sent:
    """A command as it was sent, when, and what its caller was told.

    ``place``: of the step that it carried out ``first``; ``shown``: how the table says it.
    """

    command: Command
    place: int
    step: Step
    shown: Step
    first: datetime
    now: datetime
    told: Told | None = None


@dataclass
class Domain:
    """A history decided over nothing but a dictionary. ``ids``: where new ids count from."""

    program: Program
    keys: Keyring
    ids: int
    books: Books = field(default_factory=Books)
    movements: list[Movement] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    refunded: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    returned: dict[tuple[UUID, str], int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.books.members.update(newcomers())
        self.books.returning.update(MEMBERS)
        self._rules = RuleSet.compile(self.program, RULES)
        self._new_id = ids_from(self.ids)
        self._outcomes: list[Outcome | None] = []
        self._now = START

    def do(self, step: Step) -> Sent:
        """One step more."""
        self._now += timedelta(hours=step.wait)
        step = self._settled(step)
        if step.what == "again":
            original = next(s for s in self.sent if s.place == step.of)
            wanted = replace(original.command, received_at=self._now)
            sent = replace(original, command=wanted, now=self._now, shown=step)
        else:
            place = len(self._outcomes)
            wanted = command(self.program, step, place, self._now, self._outcomes)
            sent = Sent(wanted, place, step, step, self._now, self._now)
        sent.told = self._decided(wanted)
        self._outcomes.append(None)
        if isinstance(sent.told, Outcome):
            self._outcomes[sent.place] = sent.told
        self.sent.append(sent)
        return sent

    def _settled(self, step: Step) -> Step:
        """The step with what it is about, and how much it asks for."""
        if step.what in ABOUT:
            wanted = ABOUT[step.what]
            known = [s.place for s in self.sent if s.step.what in wanted and self._stands(s)]
            if not known and step.back < 99:
                # Nothing to be about yet: let there be something.
                return in_points(replace(step, what=wanted[0], percent=60), self._available(step))
            of = known[-1 - step.back] if step.back < len(known) else -1
            if of < 0 and step.what == "again":
                return replace(step, what="void")
            owner = next((s.step.who for s in self.sent if s.place == of and not step.stranger), step.who)
            step = replace(step, of=of, who=owner)
        return in_points(step, self._available(step))

    def _stands(self, sent: Sent) -> bool:
        """Whether it can still be spoken of: it did something; a hold is open."""
        told = self._outcomes[sent.place]
        if told is not None and told.hold is not None and sent.step.what == "hold":
            return bool(self.books.members[told.member_id].holds[told.hold.hold_id].open_points)
        return told is not None

    def _available(self, step: Step) -> int:
        """What the percentage of a step is of."""
        member = self.books.members[step.who]
        member = as_due(step.who, member, self.program, self._now)
        if step.what != "capture" or step.of < 0:
            return member.wallet(step.wallet or self.program.main_point_type).balance
        about = self._outcomes[step.of]
        hold = member.holds.get(about.hold.hold_id) if about and about.hold else None
        return hold.open_points if hold else 0

    def _decided(self, wanted: Command) -> Told:
        terms = Terms(self.program, self._rules, 1, self._now, self._new_id, self.keys.current, self.keys.key)
        try:
            decided = decide(self.books, prepare(wanted, self.program), terms)
        except Refused as refusal:
            return refusal
        if isinstance(decided, Outcome):
            return decided
        self.books.apply(decided)
        self.decisions.append(decided)
        self.movements += decided.movements
        for movement in decided.movements:
            row = movement.transaction
            if row.kind in (Kind.REDEEM, Kind.CAPTURE):
                lots = self.books.members[row.member_id].lots
                self.books.spent[row.transaction_id] = spent_by(movement, lots)
        for (_, row), points in decided.changes.refunded.items():
            self.refunded[row] += points
        for (_, event_id, line_id), units in decided.changes.returned.items():
            self.returned[event_id, line_id] += units
        assert outcome_from(outcome_text(decided.outcome)) == decided.outcome
        return decided.outcome

    def in_plain_words(self, told: Told | None) -> Any:
        """What the blackboard can say about it too: places instead of ids."""
        assert told is not None
        if isinstance(told, Refused):
            return told.reason
        said: dict[str, Any] = {
            "wallet": told.point_type,
            "points": told.points,
            "awards": [(a.point_type, a.points) for a in told.awards],
            "balance": told.balance,
            "tier": told.tier,
        }
        place = next(
            s.place for s in self.sent if isinstance(s.told, Outcome) and s.told.event_id == told.event_id
        )
        what = next(s.step.what for s in self.sent if s.place == place)
        if what in ("purchase", "visit", "return", "match"):
            said |= {"pending": told.pending, "debt": told.debt}
        if told.hold is not None:
            said["hold"] = told.hold.open_points
        if what in ("return", "match"):
            places = {s.told.event_id: s.place for s in self.sent if isinstance(s.told, Outcome)}
            said["shortfall"] = told.shortfall
            said["lines"] = sorted((places[x.event_id], x.line_id, x.quantity) for x in told.lines)
            said["unmatched"] = sorted(i.sku for i in told.unmatched for _ in range(i.quantity))
        return said

    def table(self) -> str:
        """The history so far, for reading."""
        return table([s.shown for s in self.sent], [self.in_plain_words(s.told) for s in self.sent])

    def wallets(self) -> dict[str, Any]:
        """All figures and all lots, as the blackboard has them."""
        shown: dict[str, Any] = {}
        for who, stored in self.books.members.items():
            member = as_due(who, stored, self.program, self._now)
            for name in self.program.point_types:
                w = member.wallet(name)
                lots = sorted(
                    (x for x in member.lots.values() if x.point_type == name), key=lambda x: x.lot_id
                )
                shown[f"{NAMES[who]}'s {name}"] = (
                    (w.balance, w.pending, w.held, w.debt, w.lifetime),
                    [_lot(x) for x in lots if x.remaining],
                )
        return shown


def _lot(lot: Any) -> tuple[Any, ...]:
    return (
        lot.points,
        lot.remaining,
        lot.held,
        lot.active,
        None if lot.active else lot.activates_at,
        lot.activates_on,
        lot.expires_at,
        lot.rolling_days,
    )


def ids_from(base: int) -> Callable[[], UUID]:
    """Ids in order."""
    numbers = count(base)
    return lambda: UUID(int=next(numbers))


def newcomers() -> dict[UUID, MemberState]:
    """The members, Sue suspended."""
    facts = MemberFacts("bronze", START - timedelta(days=400))
    return {who: MemberState("suspended" if who == SUE else "active", facts, 1) for who in MEMBERS}


@dataclass
class Blackboard:
    """The same, by the naive model."""

    naive: Naive

    def do(self, sent: Sent) -> Any:
        """What the sender of this should have been told."""
        if sent.place in self.naive.told:
            self.naive.go_on(sent.now)
            return self.naive.told[sent.place]
        try:
            return self.naive.do(sent.place, sent.step, sent.now, sent.first)
        except Refusal as refusal:
            return str(refusal)

    def wallets(self) -> dict[str, Any]:
        """All figures and all lots."""
        return {
            f"{NAMES[who]}'s {name}": (
                (w.balance, w.pending, w.held, w.debt, w.lifetime),
                [_lot(lot) for lot in w.lots if lot.remaining],
            )
            for who, wallets in self.naive.wallets.items()
            for name, w in wallets.items()
        }


class Clock:
    """The time of the tests."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Saved:
    """What PostgreSQL has in the end, whole."""

    members: dict[UUID, MemberState]
    cap_usage: dict[UUID, dict[Any, int]]
    refunded: dict[UUID, int]
    returned: dict[tuple[UUID, str], int]
    events: list[tuple[str, str]]


class InDatabase:
    """Histories through a committer, in batches."""

    def __init__(self, database: Database, keys: Keyring) -> None:
        self._database = database
        self._keys = keys

    async def told(self, domain: Domain, sizes: Sequence[int]) -> list[Told]:
        """The same commands in batches of these sizes, fewer where the clock or an id must be waited for."""
        await _found(self._database, domain.program)
        clock, told = Clock(), []
        committer = Committer(self._database, Programs(), self._keys, clock, ids_from(domain.ids))
        try:
            for batch in _batches(domain.sent, sizes):
                clock.now = batch[0].now
                deadline = asyncio.get_running_loop().time() + 30
                told += await asyncio.gather(
                    *(committer.submit(sent.command, deadline) for sent in batch), return_exceptions=True
                )
        finally:
            await committer.close()
        return told  # type: ignore[return-value]

    async def found_wrong(self, program: Program) -> list[Finding]:
        """What `laurel verify` has to say of the program."""
        steps = verify(self._database, self._keys.keys, program.program_id)
        return [f async for step in steps if isinstance(step, Result) for f in step.findings]

    async def saved(self, program: Program) -> Saved:
        """What there is of the program."""
        program_id = program.program_id
        whole = {(program_id, who): True for who in MEMBERS}
        async with self._database.connection() as connection:
            states, open_lots = await ask(
                connection,
                ledger.members_known(list(whole), {program_id: program.main_point_type}),
                ledger.lots_open(whole, {}, START),
            )
            holds = ledger._holds(
                [
                    row[0]
                    for row in await connection.fetch(
                        """SELECT ROW(program_id, member_id, hold_id, point_type, points, open_points,
                                      captured, status, expires_at, shares, spender_id)
                             FROM hold WHERE program_id = $1""",
                        program_id,
                    )
                ]
            )
            usage: dict[UUID, dict[Any, int]] = {}
            for r in await connection.fetch("SELECT * FROM cap_usage WHERE program_id = $1", program_id):
                usage.setdefault(r["member_id"], {})[r["rule"], r["period"]] = r["points"]
            refunded = await connection.fetch("SELECT * FROM refund WHERE program_id = $1", program_id)
            returned = await connection.fetch("SELECT * FROM returned_line WHERE program_id = $1", program_id)
            events = await connection.fetch(
                "SELECT event_type, payload FROM event_log WHERE program_id = $1 ORDER BY position",
                program_id,
            )
        return Saved(
            {
                who: state._replace(lots=open_lots.get((p, who), {}), holds=holds.get((p, who), {}))
                for (p, who), state in states.items()
            },
            usage,
            {r["transaction_id"]: r["points"] for r in refunded},
            {(r["event_id"], r["line_id"]): r["quantity"] for r in returned},
            [(r["event_type"], json.loads(r["payload"])) for r in events],
        )


def expected(domain: Domain) -> Saved:
    """What PostgreSQL should have in the end."""
    return Saved(
        {
            who: member._replace(lots={i: lot for i, lot in member.lots.items() if lot.remaining})
            for who, member in domain.books.members.items()
        },
        {who: dict(usage) for who, usage in domain.books.cap_usage.items()},
        dict(domain.refunded),
        dict(domain.returned),
        [
            (e.event_type, json.loads(json.dumps(e.payload())))
            for decision in domain.decisions
            for e in decision.events
        ],
    )


def _batches(sent: Sequence[Sent], sizes: Sequence[int]) -> list[list[Sent]]:
    batches: list[list[Sent]] = []
    wanted = iter(sizes)
    size = 0
    for one in sent:
        current = batches[-1] if batches else []
        unknown = one.step.of >= 0 and any(other.place == one.step.of for other in current)
        if len(current) >= size or unknown or current[0].now != one.now:
            batches.append([])
            size = next(wanted)
        batches[-1].append(one)
    return batches


async def _found(database: Database, program: Program) -> None:
    """The program, its members and its rules, as an operator would have left them."""
    program_id = program.program_id
    async with database.transaction() as connection:
        await programs.create(connection, program)
        await connection.execute(
            "INSERT INTO event_type (program_id, name, attributes, description) VALUES ($1, $2, '{}', '')",
            program_id,
            VISIT,
        )
        await connection.executemany(
            "INSERT INTO rule (program_id, name, version, definition, actor) VALUES ($1, $2, $3, $4, '')",
            [(program_id, rule["rule"], version, json.dumps(rule)) for version, rule in RULES],
        )
        await connection.execute(
            "INSERT INTO rule_set (program_id, revision, rules, actor) VALUES ($1, 1, $2, '')",
            program_id,
            json.dumps({rule["rule"]: version for version, rule in RULES}),
        )
        await connection.execute("UPDATE program SET rules_revision = 1 WHERE program_id = $1", program_id)
        await connection.executemany(
            """INSERT INTO member (program_id, member_id, status, tier, joined_at)
               VALUES ($1, $2, $3, $4, $5)""",
            [(program_id, who, m.status, m.facts.tier, m.facts.joined_at) for who, m in newcomers().items()],
        )
