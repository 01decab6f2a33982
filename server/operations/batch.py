"""One batch against the database: lock, load, save. The committer decides in between.

Four round trips, however many commands there are: BEGIN with the locks, one query for
everything that deciding looks at, one statement for everything that changes, COMMIT.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from server.domain.books import Books, Decision, Prepared, Terms, recorded
from server.domain.books import Remembered as RememberedOutcome
from server.domain.commands import Award, Command, Outcome, Redeem
from server.domain.points import prepare
from server.domain.rules.evaluate import cap_keys
from server.operations.programs import Programs, Snapshot
from server.secrets import Keyring
from server.store import events, keys, ledger, locks
from server.store import programs as program_store
from server.store.database import Connection
from server.store.keys import Remembered, RequestKey
from server.store.ledger import WalletOf
from server.store.together import Question, ask, write

_json = json.JSONEncoder(separators=(",", ":")).encode

Ledger = dict[UUID, tuple[Books, Terms]]  # by program


def request_key(command: Command) -> RequestKey:
    """The command's key in the store."""
    return RequestKey(command.actor.program_id, command.actor.source_system, command.request_id)


def prepared(commands: Iterable[Command], snapshots: Mapping[UUID, Snapshot]) -> list[Prepared]:
    """Each command with what follows from it and its program."""
    return [prepare(c, snapshots[c.actor.program_id].program) for c in commands]


def locking(batch: Sequence[Prepared]) -> str:
    """SQL that takes every lock that the commands need, in the one order."""
    programs, members, named = set(), set(), set()
    for command, _, key, *_ in batch:
        programs.add(locks.program_lock(command.actor.program_id))
        members.add(locks.member_lock(command.member_id))
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
    revisions, *found = await ask(
        connection, program_store.revisions_of(list(known)), *_questions(batch, snapshots)
    )
    if revisions != known:
        # Rules were published since: counters and event types may be others.
        snapshots = await programs.all_current(connection, set(known))
        batch = prepared([p.command for p in batch], snapshots)
        found = await ask(connection, *_questions(batch, snapshots))
    return batch, _ledger(snapshots, found, now, new_id, ledger_keys)


def _questions(batch: Sequence[Prepared], snapshots: Mapping[UUID, Snapshot]) -> list[Question[Any]]:
    members, spent, requests, orders, counters = set(), Counter[WalletOf](), [], [], set()
    main = {p: s.program.main_point_type for p, s in snapshots.items()}
    for command, _, key, what, _ in batch:
        program_id = command.actor.program_id
        owner = (program_id, command.member_id)
        members.add(owner)
        requests.append(request_key(command))
        if key is not None:
            orders.append((program_id, key))
        if what is None:
            continue
        if isinstance(command, Redeem):
            spent[*owner, command.point_type or main[program_id]] += command.points
        else:
            for counter in cap_keys(snapshots[program_id].rules, what):
                counters.add((*owner, counter))
    return [
        ledger.members_known(members, main),
        ledger.lots_to_spend(spent),
        ledger.cap_usage(counters),
        keys.requests_known(requests),
        keys.orders_known(orders),
    ]


def _ledger(
    snapshots: Mapping[UUID, Snapshot],
    found: Sequence[Any],
    now: datetime,
    new_id: Callable[[], UUID],
    ledger_keys: Keyring,
) -> Ledger:
    states, lots, usage, remembered, orders = found
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
    for (program_id, member_id), state in states.items():
        own = lots.get((program_id, member_id))
        result[program_id][0].members[member_id] = state if own is None else state._replace(lots=own)
    for request, known in remembered.items():
        outcome = RememberedOutcome(known.request_hash, outcome_from(known.reply))
        result[request.program_id][0].requests[request.source_system, request.request_id] = outcome
    for (program_id, key), order in orders.items():
        result[program_id][0].orders[key] = order
    for (program_id, member_id), counters in usage.items():
        result[program_id][0].cap_usage[member_id] = counters
    return result


async def save(connection: Connection, decisions: Sequence[tuple[UUID, Decision]], now: datetime) -> None:
    """Write what was decided."""
    orders = [((p, d.order_key), recorded(d)) for p, d in decisions if d.order_key is not None]
    requests = [(request_key(d.command), Remembered(d.digest, outcome_text(d.outcome))) for _, d in decisions]
    await write(
        connection,
        *ledger.save(decisions),
        keys.record_orders(orders),
        keys.remember_requests(requests, now),
        events.append([event for _, d in decisions for event in d.events]),
    )


def outcome_text(outcome: Outcome) -> str:
    """The outcome as it is remembered: JSON, no personal data."""
    return _json(
        {
            "event_id": outcome.event_id.hex,
            "member_id": outcome.member_id.hex,
            "awards": [[a.transaction_id.hex, a.point_type, a.points] for a in outcome.awards],
            "point_type": outcome.point_type,
            "points": outcome.points,
            "balance": outcome.balance,
            "tier": outcome.tier,
            "tier_raised": outcome.tier_raised,
            "version": outcome.version,
            "value": None if outcome.value is None else str(outcome.value),
            "currency": outcome.currency,
        }
    )


def outcome_from(text: str) -> Outcome:
    """The outcome that was remembered."""
    said = json.loads(text)
    return Outcome(
        event_id=UUID(said["event_id"]),
        member_id=UUID(said["member_id"]),
        awards=tuple(Award(UUID(i), point_type, points) for i, point_type, points in said["awards"]),
        point_type=said["point_type"],
        points=said["points"],
        balance=said["balance"],
        tier=said["tier"],
        tier_raised=said["tier_raised"],
        version=said["version"],
        value=None if said["value"] is None else Decimal(said["value"]),
        currency=said["currency"],
    )
