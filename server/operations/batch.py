"""One batch against the database: locks, what is loaded, what is saved. Posting decides in between.

Four round trips, however many commands there are: BEGIN with the locks, one query for
everything that deciding looks at, one statement for everything that changes, COMMIT. A fifth
where somebody sits in a household, for what is in its pool.
"""

from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from server.domain.books import Books, Decision, MemberState, Prepared, Terms
from server.domain.books import Remembered as RememberedOutcome
from server.domain.commands import Command
from server.domain.points import prepare
from server.domain.reviews import ApproveReview, PutAside
from server.operations.matching import latest_purchases, sought
from server.operations.outcomes import outcome_from, outcome_text
from server.operations.programs import Programs, Snapshot
from server.operations.wanted import Questions, of_pools, questions, request_key, sent_under
from server.secrets import Keyring
from server.store import adjustments, events, households, keys, ledger, locks, merges, reviews
from server.store import programs as program_store
from server.store.database import Connection
from server.store.keys import Remembered, RequestKey
from server.store.ledger import MemberOf
from server.store.locks import Needs
from server.store.together import Write, ask

Ledger = dict[UUID, tuple[Books, Terms]]  # by program


def prepared(commands: Iterable[Command], snapshots: Mapping[UUID, Snapshot]) -> list[Prepared]:
    """Each command with what follows from it and its program."""
    return [prepare(c, snapshots[c.actor.program_id].program) for c in commands]


def needs(batch: Iterable[Prepared], sharing: Collection[UUID]) -> Needs:
    """The locks that the commands need.

    Only in programs ``sharing`` pools somebody may lead to one.
    """
    programs: set[UUID] = set()
    members: set[int] = set()
    seated: set[MemberOf] = set()
    named: set[int] = set()
    for command, _, key, *_ in batch:
        program_id = command.actor.program_id
        programs.add(program_id)
        members.update(map(locks.member_lock, command.members))
        if program_id in sharing:
            seated.update((program_id, member_id) for member_id in command.seated)
        named.add(locks.request_lock(request_key(command)))
        if key is not None:
            named.add(locks.order_lock(program_id, key))
        match command:
            case PutAside():  # no more than so many of one credential, whoever counts them
                named.add(locks.reviews_lock(command.actor.credential_id))
            case ApproveReview():
                named.add(locks.request_lock(sent_under(command)))
    return Needs({locks.program_lock(program_id) for program_id in programs}, members, seated, named)


def sharing(ledger: Ledger) -> set[UUID]:
    """The programs in which somebody whom the batch names sits in a household."""
    return {program_id for program_id, (books, _) in ledger.items() if books.seats}


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
    revisions, found = await _ask(connection, known, questions(batch, snapshots, now))
    if revisions != known:
        # Rules were published since: counters and event types may be others.
        snapshots = await programs.all_current(connection, set(known))
        batch = prepared([p.command for p in batch], snapshots)
        _, found = await _ask(connection, known, questions(batch, snapshots, now))
    if found.get("seats"):
        pools = of_pools(batch, snapshots, found["seats"], now)
        if pools:
            _add(found, dict(zip(pools, await ask(connection, *pools.values()), strict=True)))
    ledger = _ledger(snapshots, found, now, new_id, ledger_keys)
    for owner, wanted in sought(batch).items():
        books = ledger[owner[0]][0]
        books.returning.add(owner[1])
        skew = timedelta(seconds=snapshots[owner[0]].program.clock_skew_seconds)
        books.purchases |= await latest_purchases(connection, owner, wanted, skew)
    return batch, ledger


async def _ask(
    connection: Connection, known: Mapping[UUID, int], asked: Questions
) -> tuple[dict[UUID, int], dict[str, Any]]:
    revisions, *answers = await ask(connection, program_store.revisions_of(list(known)), *asked.values())
    return revisions, dict(zip(asked, answers, strict=True))


def _add(found: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Answers about pools to the others: the same of whom both tell, and more of it."""
    for name, answer in more.items():
        known = found.setdefault(name, {})
        for key, said in answer.items():
            before = known.get(key)
            known[key] = {**before, **said} if isinstance(before, dict) else said


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
    _share(result, found)
    for (program_id, member_id), consents in found.get("consents", {}).items():
        result[program_id][0].consents[member_id] = consents
    for (program_id, adjustment_id), adjustment in found.get("adjustments", {}).items():
        result[program_id][0].adjustments[adjustment_id] = adjustment
    _add_reviews(result, found)
    return result


def _share(result: Ledger, found: Mapping[str, Any]) -> None:
    """What the batch knows of households: who sits there, and whose gifts their lots are."""
    for (program_id, _), gifts in found.get("whence", {}).items():
        books = result[program_id][0]
        books.origins.update((lot_id, gift.origin) for lot_id, gift in gifts.items())
        books.givers.update((lot_id, gift.giver) for lot_id, gift in gifts.items() if gift.giver)
    for (program_id, member_id), seat in found.get("seats", {}).items():
        result[program_id][0].seats[member_id] = seat
    for (program_id, household_id), household in found.get("households", {}).items():
        result[program_id][0].households[household_id] = household
    for (program_id, invitation_id), invitation in found.get("invitations", {}).items():
        result[program_id][0].invitations[invitation_id] = invitation


def _add_reviews(ledger: Ledger, found: Mapping[str, Any]) -> None:
    for (program_id, review_id), review in found.get("reviews", {}).items():
        ledger[program_id][0].reviews[review_id] = review
    for key, review in found.get("put aside", {}).items():
        ledger[key.program_id][0].put_aside[key.source_system, key.request_id] = review
    for (program_id, credential_id), count in found.get("pending", {}).items():
        ledger[program_id][0].pending_reviews[credential_id] = count


def _complete(state: MemberState, owner: MemberOf, found: Mapping[str, Any]) -> MemberState:
    """The member with its lots and holds, as far as anybody asked for them."""
    own = [found[name][owner] for name in ("lots", "spendable", "drawn") if owner in found.get(name, ())]
    if own:
        state = state._replace(lots=own[0] if len(own) == 1 else dict(ChainMap(*own)))
    if owner in found["holds"]:
        state = state._replace(holds=found["holds"][owner])
    return state


def changes(decisions: Sequence[tuple[UUID, Decision]], now: datetime) -> list[Write | None]:
    """What was decided, to be written together."""
    orders = [((p, d.order[0]), d.order[1]) for p, d in decisions if d.order is not None]
    requests = [
        (RequestKey(program_id, *request), Remembered(digest, outcome_text(d.outcome)))
        for program_id, d in decisions
        for request, digest in d.requests()
    ]
    return [
        *ledger.save(decisions),
        adjustments.save(decisions),
        reviews.save(decisions),
        *merges.save(decisions),
        *households.save(decisions),
        keys.record_orders(orders),
        keys.remember_requests(requests, now),
        events.append([event for _, d in decisions for event in d.events]),
    ]
