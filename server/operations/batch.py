"""One batch against the database: lock, load, save. The committer decides in between.

Four round trips, however many commands there are: BEGIN with the locks, one query for
everything that deciding looks at, one statement for everything that changes, COMMIT.
"""

from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from server.domain.books import Books, Decision, MemberState, OrderKey, Prepared, Terms, recorded
from server.domain.books import Remembered as RememberedOutcome
from server.domain.commands import (
    Adjust,
    ApproveAdjustment,
    CaptureHold,
    Command,
    Earn,
    Merge,
    PlaceHold,
    Redeem,
    Refund,
    RejectAdjustment,
    Return,
    Transfer,
    VoidHold,
)
from server.domain.points import prepare
from server.domain.rules.compile import RuleSet
from server.domain.rules.evaluate import cap_keys
from server.domain.rules.evaluation import CapKey
from server.operations.matching import latest_purchases, sought
from server.operations.outcomes import outcome_from, outcome_text
from server.operations.programs import Programs, Snapshot
from server.secrets import Keyring
from server.store import adjustments, events, keys, ledger, locks, merges, past
from server.store import programs as program_store
from server.store.database import Connection
from server.store.keys import Remembered, RequestKey
from server.store.ledger import MemberOf, WalletOf
from server.store.together import Question, ask, write

Ledger = dict[UUID, tuple[Books, Terms]]  # by program


def request_key(command: Command) -> RequestKey:
    """The command's key in the store."""
    return RequestKey(command.actor.program_id, command.actor.source_system, command.request_id)


def prepared(commands: Iterable[Command], snapshots: Mapping[UUID, Snapshot]) -> list[Prepared]:
    """Each command with what follows from it and its program."""
    return [prepare(c, snapshots[c.actor.program_id].program) for c in commands]


def locking(batch: Sequence[Prepared]) -> str:
    """SQL that takes every lock that the commands need, in the one order."""
    programs: set[int] = set()
    members: set[int] = set()
    named: set[int] = set()
    for command, _, key, *_ in batch:
        programs.add(locks.program_lock(command.actor.program_id))
        members.update(locks.member_lock(member_id) for member_id in command.members)
        named.add(locks.request_lock(request_key(command)))
        if key is not None:
            named.add(locks.order_lock(command.actor.program_id, key))
    return locks.taking([*sorted(members), *sorted(named)], shared=sorted(programs))


async def load(
    connection: Connection,
    programs: Programs,
    snapshots: Mapping[UUID, Snapshot],
    batch: list[Prepared],
    now: datetime,
    new_id: Callable[[], UUID],
    ledger_keys: Keyring,
) -> tuple[list[Prepared], Ledger]:
    """The batch and everything that deciding it will look at, by the rules in force under its locks."""
    known = {p: s.revision for p, s in snapshots.items()}
    revisions, found = await _ask(connection, known, _questions(batch, snapshots, now))
    if revisions != known:
        # Rules were published since: counters and event types may be others.
        snapshots = await programs.all_current(connection, set(known))
        batch = prepared([p.command for p in batch], snapshots)
        _, found = await _ask(connection, known, _questions(batch, snapshots, now))
    ledger = _ledger(snapshots, found, now, new_id, ledger_keys)
    for owner, wanted in sought(batch).items():
        books = ledger[owner[0]][0]
        books.returning.add(owner[1])
        skew = timedelta(seconds=snapshots[owner[0]].program.clock_skew_seconds)
        books.purchases |= await latest_purchases(connection, owner, wanted, skew)
    return batch, ledger


async def _ask(
    connection: Connection, known: Mapping[UUID, int], questions: Mapping[str, Question[Any]]
) -> tuple[dict[UUID, int], dict[str, Any]]:
    revisions, *answers = await ask(connection, program_store.revisions_of(list(known)), *questions.values())
    return revisions, dict(zip(questions, answers, strict=True))


def _questions(
    batch: Sequence[Prepared], snapshots: Mapping[UUID, Snapshot], now: datetime
) -> dict[str, Question[Any]]:
    """What the batch needs to know; what only a few kinds of command need is asked for their sake alone."""
    wanted = Wanted()
    main = {p: s.program.main_point_type for p, s in snapshots.items()}
    for prepared in batch:
        program_id = prepared.command.actor.program_id
        wanted.add(prepared, snapshots[program_id].rules, main[program_id])
    return {
        "members": ledger.members_known(list(wanted.members), main),
        "lots": ledger.lots_open(wanted.members, wanted.awaited, now),
        "spendable": ledger.lots_to_spend(wanted.spends),
        "holds": ledger.holds_open(wanted.members, wanted.holds, now),
        "usage": ledger.cap_usage(wanted.counters),
        "requests": keys.requests_known(wanted.requests),
        "orders": keys.orders_known(wanted.orders),
        **({"purchases": past.purchases_named(wanted.purchases)} if wanted.purchases else {}),
        **(
            {"spent": past.spent(wanted.spent), "drawn": past.lots_drawn(wanted.spent)}
            if wanted.spent
            else {}
        ),
        **({"origins": merges.origins(wanted.origins)} if wanted.origins else {}),
        **({"consents": merges.consents_in_force(wanted.consents)} if wanted.consents else {}),
        **({"adjustments": adjustments.named(wanted.adjustments)} if wanted.adjustments else {}),
    }


class Wanted:
    """What the commands of a batch need to know, of all programs together."""

    def __init__(self) -> None:
        self.members: dict[MemberOf, bool] = {}  # whether all open lots are needed
        self.awaited: dict[MemberOf, str] = {}
        self.spends: Counter[WalletOf] = Counter()
        self.holds: list[UUID] = []
        self.counters: set[tuple[UUID, UUID, CapKey]] = set()
        self.requests: list[RequestKey] = []
        self.orders: list[tuple[UUID, OrderKey]] = []
        self.purchases: list[tuple[UUID, UUID, UUID]] = []
        self.spent: list[tuple[UUID, UUID, UUID]] = []
        self.adjustments: list[tuple[UUID, UUID]] = []
        self.origins: set[MemberOf] = set()
        self.consents: set[MemberOf] = set()

    def add(self, prepared: Prepared, rules: RuleSet, main_point_type: str) -> None:
        """Count a command's needs in."""
        command, _, key, what, _ = prepared
        program_id = command.actor.program_id
        for member_id in command.members:
            self.members.setdefault((program_id, member_id), False)
        self.requests.append(request_key(command))
        if key is not None:
            self.orders.append((program_id, key))
        if what is None:
            return
        owner = (program_id, command.member_id)
        match command:
            case Earn():
                # Two events of one member in a batch: all of its lots are more than both await.
                if self.awaited.setdefault(owner, command.event_type) != command.event_type:
                    self.members[owner] = True
                self.counters.update((*owner, counter) for counter in cap_keys(rules, what))
            case Redeem() | PlaceHold() | Transfer():
                self.spends[*owner, command.point_type or main_point_type] += command.points
            case Adjust() if command.points < 0:
                self.spends[*owner, command.point_type or main_point_type] -= command.points
            case _:
                self._add_earlier(command, owner)

    def _add_earlier(self, command: Command, owner: MemberOf) -> None:
        """What commands go back to: holds, purchases, redemptions, adjustments."""
        match command:
            case CaptureHold() | VoidHold():
                self.members[owner] = True
                self.holds.append(command.hold_id)
            case ApproveAdjustment() | RejectAdjustment():
                self.members[owner] = True
                self.adjustments.append((owner[0], command.adjustment_id))
            case Merge():
                both = [(owner[0], member_id) for member_id in command.members]
                self.members.update(dict.fromkeys(both, True))
                self.origins.update(both)
                self.consents.update(both)
            case Return():
                self.members[owner] = True
                self.origins.add(owner)
                if command.event_id is not None:
                    self.purchases.append((*owner, command.event_id))
            case Refund():
                self.spent.append((*owner, command.transaction_id))


def _ledger(
    snapshots: Mapping[UUID, Snapshot],
    found: Mapping[str, Any],
    now: datetime,
    new_id: Callable[[], UUID],
    ledger_keys: Keyring,
) -> Ledger:
    result: Ledger = {}
    for program_id, snapshot in snapshots.items():
        terms = Terms(
            snapshot.program,
            snapshot.rules,
            snapshot.revision,
            now,
            new_id,
            ledger_keys.current,
            ledger_keys.key,
        )
        result[program_id] = (Books(), terms)
    for owner, state in found["members"].items():
        result[owner[0]][0].members[owner[1]] = _complete(state, owner, found)
    for request, known in found["requests"].items():
        outcome = RememberedOutcome(known.request_hash, outcome_from(known.reply))
        result[request.program_id][0].requests[request.source_system, request.request_id] = outcome
    for (program_id, key), order in found["orders"].items():
        result[program_id][0].orders[key] = order
    for (program_id, member_id), counters in found["usage"].items():
        result[program_id][0].cap_usage[member_id] = counters
    for (program_id, event_id), purchase in found.get("purchases", {}).items():
        result[program_id][0].purchases[event_id] = purchase
    for (program_id, transaction_id), spent in found.get("spent", {}).items():
        result[program_id][0].spent[transaction_id] = spent
    for program_id, origins in found.get("origins", {}).items():
        result[program_id][0].origins = origins
    for (program_id, member_id), consents in found.get("consents", {}).items():
        result[program_id][0].consents[member_id] = consents
    for (program_id, adjustment_id), adjustment in found.get("adjustments", {}).items():
        result[program_id][0].adjustments[adjustment_id] = adjustment
    return result


def _complete(state: MemberState, owner: MemberOf, found: Mapping[str, Any]) -> MemberState:
    """The member with its lots and holds, as far as anybody asked for them."""
    own = [found[name][owner] for name in ("lots", "spendable", "drawn") if owner in found.get(name, ())]
    if own:
        state = state._replace(lots=own[0] if len(own) == 1 else dict(ChainMap(*own)))
    if owner in found["holds"]:
        state = state._replace(holds=found["holds"][owner])
    return state


async def save(connection: Connection, decisions: Sequence[tuple[UUID, Decision]], now: datetime) -> None:
    """Write what was decided."""
    orders = [((p, d.order_key), recorded(d)) for p, d in decisions if d.order_key is not None]
    requests = [(request_key(d.command), Remembered(d.digest, outcome_text(d.outcome))) for _, d in decisions]
    await write(
        connection,
        *ledger.save(decisions),
        adjustments.save(decisions),
        *merges.save(decisions),
        keys.record_orders(orders),
        keys.remember_requests(requests, now),
        events.append([event for _, d in decisions for event in d.events]),
    )
