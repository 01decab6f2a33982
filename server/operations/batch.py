"""One batch against the database: lock, load, save. The committer decides in between."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from server.domain.books import Books, Decision, OrderKey, Terms, recorded
from server.domain.books import Remembered as RememberedOutcome
from server.domain.commands import Award, Command, Earn, Outcome, Redeem
from server.domain.errors import Refused
from server.domain.points import activity, order_key
from server.domain.program import Program
from server.domain.rules.evaluate import cap_keys
from server.domain.rules.evaluation import CapKey
from server.operations.programs import Programs, Snapshot
from server.secrets import Keyring
from server.store import events, keys, ledger, locks
from server.store.database import Connection
from server.store.keys import OrderOf, Remembered, RequestKey

Ledger = dict[UUID, tuple[Books, Terms]]  # by program


def request_key(command: Command) -> RequestKey:
    """The command's key in the store."""
    return RequestKey(command.actor.program_id, command.actor.source_system, command.request_id)


async def lock(
    connection: Connection, programs: Programs, commands: Sequence[Command]
) -> dict[UUID, Snapshot]:
    """Take every lock that the commands need, in the one order; the programs as they are locked."""
    program_ids = sorted({c.actor.program_id for c in commands})
    terms = {p: programs.known(p) for p in program_ids}
    if None in terms.values():
        terms.update(await programs.all_current(connection, set(program_ids)))
    members = sorted({locks.member_lock(c.member_id) for c in commands})
    requests = {locks.request_lock(request_key(c)) for c in commands}
    orders = set()
    for command in commands:
        snapshot = terms[command.actor.program_id]
        assert snapshot is not None
        key = _order_key(command, snapshot.program)
        if key is not None:
            orders.add(locks.order_lock(command.actor.program_id, key))
    shared = [locks.program_lock(p) for p in program_ids]
    await locks.take(connection, [*members, *sorted(requests | orders)], shared)
    return await programs.all_current(connection, set(program_ids))


async def load(
    connection: Connection,
    snapshots: dict[UUID, Snapshot],
    commands: Sequence[Command],
    now: datetime,
    new_id: Callable[[], UUID],
    ledger_keys: Keyring,
) -> Ledger:
    """Everything that deciding the commands will look at."""
    members = {(c.actor.program_id, c.member_id) for c in commands}
    spenders = {(c.actor.program_id, c.member_id) for c in commands if isinstance(c, Redeem)}
    main = {p: s.program.main_point_type for p, s in snapshots.items()}
    states = await ledger.load_members(connection, list(members), main)
    lots = await ledger.load_open_lots(connection, list(spenders))
    remembered = await keys.find_requests(connection, [request_key(c) for c in commands])
    orders = await keys.find_orders(connection, _orders(commands, snapshots))
    usage = await ledger.load_cap_usage(connection, _counters(commands, snapshots))

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
        result[program_id][0].members[member_id] = state if own is None else replace(state, lots=own)
    for request, found in remembered.items():
        known = RememberedOutcome(found.request_hash, outcome_from(found.reply))
        result[request.program_id][0].requests[request.source_system, request.request_id] = known
    for (program_id, key), order in orders.items():
        result[program_id][0].orders[key] = order
    for (program_id, member_id), counters in usage.items():
        result[program_id][0].cap_usage[member_id] = counters
    return result


async def save(connection: Connection, decisions: Sequence[tuple[UUID, Decision]], now: datetime) -> None:
    """Write what was decided."""
    await ledger.save(connection, decisions)
    await keys.record_orders(
        connection, [((p, d.order_key), recorded(d)) for p, d in decisions if d.order_key is not None]
    )
    await keys.remember_requests(
        connection,
        [(request_key(d.command), Remembered(d.digest, outcome_text(d.outcome))) for _, d in decisions],
        now,
    )
    await events.append(connection, [event for _, d in decisions for event in d.events])


def outcome_text(outcome: Outcome) -> str:
    """The outcome as it is remembered: JSON, no personal data."""
    return json.dumps(
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
        },
        separators=(",", ":"),
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


def _order_key(command: Command, program: Program) -> OrderKey | None:
    # What can't be dated is refused when it is decided; it needs no lock.
    try:
        return order_key(command, program)
    except Refused:
        return None


def _orders(commands: Sequence[Command], snapshots: dict[UUID, Snapshot]) -> list[OrderOf]:
    return [
        (c.actor.program_id, key)
        for c in commands
        if (key := _order_key(c, snapshots[c.actor.program_id].program)) is not None
    ]


def _counters(
    commands: Sequence[Command], snapshots: dict[UUID, Snapshot]
) -> list[tuple[UUID, UUID, CapKey]]:
    wanted: set[tuple[UUID, UUID, CapKey]] = set()
    for command in commands:
        if not isinstance(command, Earn):
            continue
        snapshot = snapshots[command.actor.program_id]
        try:
            what = activity(command, snapshot.program)
        except Refused:
            continue  # refused again, and answered, when it is decided
        for key in cap_keys(snapshot.rules, what):
            wanted.add((command.actor.program_id, command.member_id, key))
    return sorted(wanted)
