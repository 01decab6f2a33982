"""Histories, carried out: at the blackboard, and by the pure domain over a dictionary."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from server.domain.activity import MemberFacts
from server.domain.books import Books, Decision, MemberState, Terms
from server.domain.commands import Command, Merge, Outcome, Refund
from server.domain.due import as_due
from server.domain.errors import Refused
from server.domain.ledger import Kind, Movement, Transaction
from server.domain.points import decide, prepare
from server.domain.program import Program
from server.domain.rules.compile import RuleSet
from server.operations.outcomes import outcome_from, outcome_text
from server.secrets import Keyring
from tests.server.model.commands import Known, command
from tests.server.model.histories import (
    MEMBERS,
    NAMES,
    RULES,
    START,
    SUE,
    Step,
    in_points,
    table,
)
from tests.server.model.naive import TOLD_ALL, Naive
from tests.server.model.naive.books import Books as NaiveBooks
from tests.server.model.naive.books import Refusal
from tests.server.model.naive.wallets import Owner
from tests.support.desk import spent_by
from tests.support.idleness import Merged, idle

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
    history: list[Transaction | Merged] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    refunded: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    returned: dict[tuple[UUID, str], int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        self.books.members.update(newcomers())
        self.books.returning.update(MEMBERS)
        self.merged: dict[UUID, UUID] = {}
        self.pools: dict[UUID, int] = {}  # by household the step that formed it
        self.seen = self._now = START
        self._rules = RuleSet.compile(self.program, RULES)
        self._new_id = ids_from(self.ids)
        self._outcomes: list[Outcome | None] = []
        self._invitations: dict[int, UUID] = {}

    def do(self, step: Step) -> Sent:
        """One step more."""
        self._now += timedelta(hours=step.wait)
        self.seen = self._now - timedelta(minutes=step.behind)
        step = self._settled(step)
        if step.what == "again":
            original = next(s for s in self.sent if s.place == step.of)
            wanted = replace(original.command, received_at=self.seen)
            sent = replace(original, command=wanted, now=self.seen, shown=step)
        else:
            place = len(self._outcomes)
            known = Known(self._outcomes, self._invitations, self._sitting)
            wanted = command(self.program, step, place, self.seen, known)
            sent = Sent(wanted, place, step, step, self.seen, self.seen)
        sent.told = self._decided(wanted, sent.place)
        self._outcomes.append(None)
        if isinstance(sent.told, Outcome):
            self._outcomes[sent.place] = sent.told
        self.sent.append(sent)
        return sent

    def _settled(self, step: Step) -> Step:
        """The step with what it is about, who is concerned, and how much it asks for."""
        while step.about:
            known = [s.place for s in self.sent if s.step.what in step.about and self._stands(s, step)]
            if known or step.back == 99:
                break
            # Nothing to be about yet: let there be something.
            points = 50 if step.about == ("adjust",) else 0
            step = replace(step, what=step.about[0], percent=0 if points else 60, points=points, shared=False)
        if step.about:
            of = known[-1 - step.back] if step.back < len(known) else -1
            if of < 0 and step.what == "again":
                return replace(step, what="void")
            step = replace(step, of=of, who=step.who if step.stranger else self._whose(step, of))
        elif (step.shared or step.what == "contribute") and not step.stranger:
            step = replace(step, who=self._seated(step, list(self.books.seats)))
        return in_points(step, self._available(step))

    def _whose(self, step: Step, of: int) -> UUID:
        """Whose the matter is that a step is about."""
        about = self._outcomes[of] if of >= 0 else None
        if about is None or step.what == "join":
            return step.who
        if about.household_id is not None and step.what in ("change", "leave"):
            return self._seated(step, self._sitting(about.household_id))
        return next(s.step.who for s in self.sent if s.place == of)

    @staticmethod
    def _seated(step: Step, there: Sequence[UUID]) -> UUID:
        return step.who if step.who in there or not there else there[step.wait % len(there)]

    def _sitting(self, household_id: UUID) -> list[UUID]:
        return [s.member_id for s in self.books.seats.values() if s.household_id == household_id]

    def _stands(self, sent: Sent, step: Step) -> bool:
        """Whether it can still be spoken of: it did something; a hold, a household, an invitation is open."""
        told = self._outcomes[sent.place]
        if told is None:
            return False
        match sent.step.what:
            case "hold" if told.hold is not None and step.what in ("capture", "void"):
                return bool(self.books.members[told.member_id].holds[told.hold.hold_id].open_points)
            case "adjust" if step.what in ("approve", "reject"):
                return told.adjustment_id is not None
            case "form" if told.household_id is not None and step.back < 2:
                return self.books.households[told.household_id].dissolved_at is None
            case "invite" if step.back < 2:
                return self.books.invitations[self._invitations[sent.place]].accepted_by is None
        return True

    def _available(self, step: Step) -> int:
        """What the percentage of a step is of."""
        owner = self.merged.get(step.who, step.who)
        if step.shared and owner in self.books.seats:
            owner = self.books.seats[owner].household_id
        about = self._outcomes[step.of] if step.of >= 0 else None
        if step.what == "capture" and about is not None:
            owner = about.member_id
        member = self.books.members[owner]
        member = as_due(owner, member, self.program, self.seen)
        if step.what != "capture" or about is None:
            return member.wallet(step.wallet or self.program.main_point_type).balance
        hold = member.holds.get(about.hold.hold_id) if about.hold else None
        return hold.open_points if hold else 0

    def _decided(self, wanted: Command, place: int) -> Told:
        terms = Terms(self.program, self._rules, 1, self.seen, self._new_id, self.keys.current, self.keys.key)
        if not isinstance(wanted, Merge):
            wanted = wanted.following(self.merged)
        if isinstance(wanted, Refund) and wanted.transaction_id in self.books.spent:
            spent = self.books.spent[wanted.transaction_id]
            lived = spent._replace(idle=idle(spent.transaction_id, self.history, self.seen))
            self.books.spent[spent.transaction_id] = lived
        try:
            decided = decide(self.books, prepare(wanted, self.program), terms)
        except Refused as refusal:
            return refusal
        if isinstance(decided, Outcome):
            return decided
        self.books.apply(decided)
        self.decisions.append(decided)
        self.movements += decided.movements
        self._remember(decided, place)
        assert outcome_from(outcome_text(decided.outcome)) == decided.outcome
        return decided.outcome

    def _remember(self, decided: Decision, place: int) -> None:
        """What PostgreSQL would have to say about it later."""
        changes = decided.changes
        for movement in decided.movements:
            row = movement.transaction
            self.history.append(row)
            if row.kind in (Kind.REDEEM, Kind.CAPTURE):
                lots = self.books.members[row.member_id].lots
                self.books.spent[row.transaction_id] = spent_by(movement, lots)
        for (_, transaction_id), points in changes.refunded.items():
            self.refunded[transaction_id] += points
        for (_, event_id, line_id), units in changes.returned.items():
            self.returned[event_id, line_id] += units
        for household_id in changes.households:
            self.pools.setdefault(household_id, place)
        for invitation_id in changes.invitations:
            self._invitations.setdefault(place, invitation_id)
        for merged_id, survivor_id in changes.merged.items():
            self._lead(merged_id, survivor_id)

    def _lead(self, merged_id: UUID, survivor_id: UUID) -> None:
        """Whatever was the one's is the other's."""
        books = self.books
        for before in [who for who, led in self.merged.items() if led == merged_id]:
            # One step leads to who lives on, never two.
            self.merged[before] = survivor_id
            books.members[before] = books.members[before]._replace(version=books.members[before].version + 1)
        self.merged[merged_id] = survivor_id
        self.history.append(Merged(merged_id, survivor_id, self.seen))
        for event_id, purchase in books.purchases.items():
            if purchase.member_id == merged_id:
                books.purchases[event_id] = purchase._replace(
                    member_id=survivor_id, buyer_id=purchase.buyer_id or merged_id
                )
        for transaction_id, spent in books.spent.items():
            if spent.member_id == merged_id:
                books.spent[transaction_id] = spent._replace(
                    member_id=survivor_id, spender_id=spent.spender_id or merged_id
                )
        one, other = books.members[survivor_id], books.members[merged_id]
        books.members[survivor_id] = one._replace(lots={**other.lots, **one.lots})
        used = books.cap_usage.setdefault(survivor_id, {})
        for counter, points in books.cap_usage.get(merged_id, {}).items():
            used[counter] = used.get(counter, 0) + points

    def in_plain_words(self, told: Told | None) -> Any:
        """What the blackboard can say about it too."""
        assert told is not None
        places = {s.told.event_id: s.place for s in reversed(self.sent) if isinstance(s.told, Outcome)}
        kinds = {s.place: s.step.what for s in self.sent}
        return in_plain_words(told, places, kinds)

    def table(self) -> str:
        """The history so far, for reading."""
        return table([s.shown for s in self.sent], [self.in_plain_words(s.told) for s in self.sent])

    def wallets(self) -> dict[str, Any]:
        """All figures and all lots, as the blackboard has them."""
        return shown(self.books.members, self.pools, self.program, self.seen)


def shown(
    members: Mapping[UUID, MemberState], pools: Mapping[UUID, int], program: Program, now: datetime
) -> dict[str, Any]:
    """What all of them have for whoever reads it now."""
    wallets: dict[str, Any] = {}
    for who, stored in members.items():
        member = as_due(who, stored, program, now)
        for name in program.point_types:
            w = member.wallet(name)
            lots = sorted((x for x in member.lots.values() if x.point_type == name), key=lambda x: x.lot_id)
            wallets[_whose(pools.get(who, who), name)] = (
                (w.balance, w.pending, w.held, w.debt, w.lifetime),
                [_lot(x) for x in lots if x.remaining],
            )
    return wallets


def in_plain_words(told: Told, places: Mapping[UUID, int], kinds: Mapping[int, str]) -> Any:
    """An answer with places instead of ids. ``places``: of what happened; ``kinds``: of steps, by place."""
    if isinstance(told, Refused):
        return told.reason
    what = kinds[places[told.event_id]]
    said: dict[str, Any] = {
        "wallet": told.point_type,
        "points": told.points,
        "awards": in_order((a.point_type, a.points) for a in told.awards),
        "balance": told.balance,
        "tier": told.tier,
    }
    if what in TOLD_ALL:
        said |= {"pending": told.pending, "debt": told.debt}
    if what in ("purchase", "visit", "contribute"):
        said["shared"] = told.shared
    if what == "contribute":
        said["pool"] = told.pool_balance
    if told.hold is not None:
        said["hold"] = told.hold.open_points
    if what in ("return", "match"):
        said["shortfall"] = told.shortfall
        said["lines"] = sorted((places[x.event_id], x.line_id, x.quantity) for x in told.lines)
        said["unmatched"] = sorted(i.sku for i in told.unmatched for _ in range(i.quantity))
    return said


def in_order(awards: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Rows by wallet: which wallet comes first means nothing."""
    return sorted(awards, key=lambda award: award[0])


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
    seen: datetime = START

    def do(self, sent: Sent) -> Any:
        """What the sender of this should have been told."""
        self.seen = sent.now
        try:
            told = self.naive.told.get(sent.place) or self.naive.do(
                sent.place, sent.step, sent.now, sent.first
            )
        except Refusal as refusal:
            return str(refusal)
        return told | {"awards": in_order(told["awards"])}

    def wallets(self) -> dict[str, Any]:
        """All figures and all lots."""
        return on_the_board(self.naive.seen(self.seen))


def on_the_board(books: NaiveBooks) -> dict[str, Any]:
    """What all of them have."""
    return {
        _whose(owner, name): (
            (w.balance, w.pending, w.held, w.debt, w.lifetime),
            [_lot(lot) for lot in w.lots if lot.remaining],
        )
        for owner, wallets in books.wallets.items()
        for name, w in wallets.items()
    }


def _whose(owner: Owner, name: str) -> str:
    return f"{f'home #{owner}' if isinstance(owner, int) else NAMES[owner]}'s {name}"
