"""What can be done with rules: draft, publish, look up, try out; and event types.

Drafts and publications of one program wait for each other, not for purchases: a rule set
is read, checked and compiled under a lock that nobody who earns takes. Only putting it in
force takes the program's own lock, for as long as one INSERT.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.domain.actor import Actor
from server.domain.commands import Earn
from server.domain.errors import (
    Aborted,
    AlreadyExists,
    InvalidArgument,
    NotFound,
    Violation,
    invalid,
)
from server.domain.event_types import MAX_EVENT_TYPES, declaration_mistakes
from server.domain.events import EventTypeRegistered, RulesPublished
from server.domain.points import prepare
from server.domain.program import Program
from server.domain.rules.canonical import canonical
from server.domain.rules.compile import RuleSet
from server.domain.rules.evaluate import cap_keys, evaluate
from server.domain.rules.evaluation import Evaluation
from server.domain.rules.schema import parse
from server.ids import new_id
from server.operations.collisions import repeated
from server.operations.programs import Programs
from server.store import events, hints, ledger, locks
from server.store import rules as store
from server.store.database import Connection, Database
from server.store.rules import EventType, StoredRule
from server.store.together import ask, write

# What isn't about a member.
NOBODY = UUID(int=0)
# A draft has no version yet.
DRAFT = 0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Change:
    """What a publication asks for: versions to put in force, rules to take out of force.

    ``expected_revision`` is the revision that the caller looked at, 0 for any.
    """

    publish: Mapping[str, int]
    retire: frozenset[str]
    expected_revision: int = 0


@dataclass(frozen=True, slots=True)
class DryRun:
    """What an event would bring, by which revision (and drafts)."""

    evaluation: Evaluation
    revision: int


class Rules:
    """The rules of all programs. ``clock`` tells the time, aware, in UTC."""

    def __init__(
        self, database: Database, redis: Redis, programs: Programs, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._redis = redis
        self._programs = programs
        self._clock = clock

    @repeated
    async def create(self, actor: Actor, definition: Mapping[str, Any]) -> StoredRule:
        """Store the definition as the next version of its rule; the latest version if that says the same.

        Raises InvalidArgument (RULE_INVALID) with the path to every mistake.
        """
        async with self._database.transaction() as connection:
            await locks.take(connection, [locks.drafts_lock(actor.program_id)])
            program = (await self._programs.current(connection, actor.program_id)).program
            rule = parse(definition, program)
            latest = await store.get(connection, actor.program_id, rule.name)
            if latest is not None and canonical(latest.definition) == canonical(definition):
                return latest
            version = 1 if latest is None else latest.version + 1
            added = StoredRule(rule.name, version, definition, self._clock(), actor.label, active=False)
            await store.add_version(connection, actor.program_id, added)
            return added

    @repeated
    async def publish(self, actor: Actor, change: Change) -> tuple[int, bool]:
        """Put versions in force and take rules out; the revision in force, and whether this call made it.

        Raises NotFound (RULE_NOT_FOUND), Aborted (REVISION_MISMATCH), and InvalidArgument
        (RULE_INVALID) if the rules that would be in force don't go together.
        """
        program_id = actor.program_id
        async with self._database.transaction() as connection:
            await locks.take(connection, [locks.drafts_lock(program_id)])
            snapshot = await self._programs.current(connection, program_id)
            before = await store.in_force(connection, program_id)
            definitions = await self._named(connection, program_id, change)
            after = {n: v for n, v in {**before, **change.publish}.items() if n not in change.retire}
            if after == before:
                return snapshot.revision, False
            if change.expected_revision not in (0, snapshot.revision):
                raise Aborted(
                    "REVISION_MISMATCH",
                    "somebody else published since that revision was read",
                    {"revision": str(snapshot.revision)},
                )
            staying = [(n, v) for n, v in after.items() if n not in change.publish]
            definitions |= await store.versions(connection, program_id, staying)
            await _check_set(snapshot.program, [(v, definitions[n, v]) for n, v in after.items()])

            await locks.take(connection, [locks.program_lock(program_id)])
            now = self._clock()
            revision = await store.add_set(connection, program_id, after, now, actor.label)
            published = RulesPublished(
                **_of_program(program_id, now),
                revision=revision,
                published={n: v for n, v in sorted(after.items()) if before.get(n) != v},
                retired=tuple(sorted(set(before) - set(after))),
                actor=actor.label,
            )
            await write(connection, events.append([published]))
        await self._tell(program_id, revision)
        return revision, True

    async def get(self, program_id: UUID, name: str, version: int) -> StoredRule:
        """One version of a rule, the latest if 0. Raises NotFound (RULE_NOT_FOUND)."""
        async with self._database.connection() as connection:
            found = await store.get(connection, program_id, name, version)
        if found is None:
            raise _not_found(name)
        return found

    async def page(
        self, program_id: UUID, *, active_only: bool, after: str, size: int
    ) -> tuple[Sequence[StoredRule], bool, int]:
        """Rules by name from ``after`` on, whether more follow, and the revision in force."""
        async with self._reading() as connection:
            revision = (await self._programs.current(connection, program_id)).revision
            found = await store.page(
                connection, program_id, active_only=active_only, after=after, size=size + 1
            )
        return found[:size], len(found) > size, revision

    async def dry_run(self, command: Earn, drafts: Sequence[Mapping[str, Any]], drafts_only: bool) -> DryRun:
        """What the command would bring with the drafts in place of rules of the same name; writes nothing.

        Counters of caps count as they stand. Raises what the real command would raise
        about its content, and InvalidArgument (RULE_INVALID) for the drafts.
        """
        program_id, member_id = command.actor.program_id, command.member_id
        async with self._reading() as connection:
            snapshot = await self._programs.current(connection, program_id)
            program = snapshot.program
            ready = prepare(command, program)
            if ready.refusal is not None:
                raise ready.refusal
            assert ready.activity is not None
            rules = snapshot.rules
            if drafts or drafts_only:
                named = _drafts(program, drafts)
                kept = [] if drafts_only else await store.active(connection, program_id)
                both = [(v, d) for v, d in kept if d["rule"] not in named]
                rules = await _check_set(program, [*both, *((DRAFT, d) for d in drafts)])
            wanted = [(program_id, member_id, key) for key in cap_keys(rules, ready.activity)]
            wallets = ledger.wallets_of({(program_id, member_id): False}, self._clock())
            members, used = await ask(
                connection,
                ledger.members_known(wallets, {program_id: program.main_point_type}),
                ledger.cap_usage(wanted),
            )
            if (program_id, member_id) not in members:
                raise NotFound("MEMBER_NOT_FOUND", "no such member in this program")
        facts = members[program_id, member_id].facts
        evaluation = evaluate(rules, ready.activity, facts, used.get((program_id, member_id), {}))
        return DryRun(evaluation, snapshot.revision)

    @repeated
    async def create_event_type(self, actor: Actor, event_type: EventType) -> EventType:
        """Register a type; the one there is if it declares the same attributes.

        Raises AlreadyExists (EVENT_TYPE_EXISTS) if it declares others.
        """
        program_id = actor.program_id
        mistakes = declaration_mistakes(event_type.name, event_type.attributes)
        if mistakes:
            raise InvalidArgument(mistakes)
        async with self._database.transaction() as connection:
            await locks.take(connection, [locks.drafts_lock(program_id)])
            known = {known.name: known for known in await store.all_event_types(connection, program_id)}
            same = known.get(event_type.name)
            if same is not None and same.attributes == event_type.attributes:
                return same
            if same is not None:
                raise AlreadyExists(
                    "EVENT_TYPE_EXISTS",
                    "the type is registered with other attributes, which rules and history rely on",
                    {"event_type": event_type.name},
                )
            if len(known) >= MAX_EVENT_TYPES:
                raise invalid("event_type", f"a program has at most {MAX_EVENT_TYPES} types of event")
            await locks.take(connection, [locks.program_lock(program_id)])
            now = self._clock()
            await store.add_event_type(connection, program_id, event_type)
            revision = await store.raise_revision(connection, program_id)
            registered = EventTypeRegistered(
                **_of_program(program_id, now),
                name=event_type.name,
                attributes=event_type.attributes,
                actor=actor.label,
            )
            await write(connection, events.append([registered]))
        await self._tell(program_id, revision)
        return event_type

    async def event_types(self, program_id: UUID) -> Sequence[EventType]:
        """The registered types by name."""
        async with self._database.connection() as connection:
            return await store.all_event_types(connection, program_id)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        """A connection whose every statement sees the same moment."""
        async with (
            self._database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    async def _named(
        self, connection: Connection, program_id: UUID, change: Change
    ) -> dict[tuple[str, int], dict[str, Any]]:
        """The definitions to put in force; refused if a rule named in the change doesn't exist."""
        found = await store.versions(connection, program_id, list(change.publish.items()))
        for name, version in change.publish.items():
            if (name, version) not in found:
                raise _not_found(name, version)
        known = await store.names_among(connection, program_id, list(change.retire))
        for name in sorted(change.retire - known):
            raise _not_found(name)
        return found

    async def _tell(self, program_id: UUID, revision: int) -> None:
        try:
            await hints.rules_changed(self._redis, program_id, revision)
        except (RedisError, OSError) as error:
            # Every batch compares revisions anyway.
            log.warning("rules_hint_failed", error=type(error).__name__)


async def _check_set(program: Program, definitions: Sequence[tuple[int, Mapping[str, Any]]]) -> RuleSet:
    """The rule set, compiled beside the event loop because thousands of rules take a while."""
    return await asyncio.to_thread(RuleSet.compile, program, definitions)


def _drafts(program: Program, drafts: Sequence[Mapping[str, Any]]) -> set[str]:
    """The names of the drafts; refused with the path to every mistake in any of them."""
    names: set[str] = set()
    mistakes: list[Violation] = []
    for place, draft in enumerate(drafts):
        try:
            name = parse(draft, program).name
        except InvalidArgument as refused:
            mistakes += [Violation(f"drafts[{place}].{v.field}", v.description) for v in refused.violations]
            continue
        if name in names:
            mistakes.append(Violation(f"drafts[{place}].rule", f"there is another draft of {name}"))
        names.add(name)
    if mistakes:
        raise InvalidArgument(mistakes, "RULE_INVALID")
    return names


def _of_program(program_id: UUID, now: datetime) -> dict[str, Any]:
    about: dict[str, Any] = dict.fromkeys(("occurred_at", "recorded_at"), now)
    return {**about, "event_id": new_id(), "program_id": program_id, "member_id": NOBODY}


def _not_found(name: str, version: int = 0) -> NotFound:
    if not version:
        return NotFound("RULE_NOT_FOUND", "no such rule", {"rule": name})
    return NotFound("RULE_NOT_FOUND", "no such version of the rule", {"rule": name, "version": str(version)})
