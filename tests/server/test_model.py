"""The same random commands against the pure domain and against PostgreSQL: the two agree.

The database gets them through the committer in batches of random size, so whatever the
batching, the locks and the SQL do must not be seen in the outcome.
"""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.activity import MemberFacts
from server.domain.actor import Actor, CallerKind
from server.domain.books import Books, Decision, MemberState, Terms
from server.domain.commands import Command, Outcome
from server.domain.errors import Refused
from server.domain.ledger import MAX_WALLET
from server.domain.points import decide, prepare
from server.domain.program import Program
from server.domain.rules.compile import RuleSet
from server.operations.committer import Committer
from server.operations.programs import Programs
from server.store import ledger, programs
from server.store.database import Database
from server.store.together import ask
from tests.server.domain.test_points import ANN, BEN, PROGRAM, RULES_AS_DATA, SUE, commands

Told = tuple[Any, ...]


def said(result: Outcome | BaseException) -> Told:
    """What a caller is told, without the ids, which differ from run to run."""
    if isinstance(result, Refused):
        return (result.reason, sorted((k, v) for k, v in result.metadata.items() if not k.endswith("_id")))
    assert isinstance(result, Outcome), result
    awards = [(a.point_type, a.points) for a in result.awards]
    return (awards, result.points, result.balance, result.tier, result.tier_raised, result.version)


async def in_the_domain(program: Program, history: list[Command]) -> tuple[list[Told], dict[UUID, Told]]:
    """The history decided one by one over nothing but a dictionary."""
    rules = RuleSet.compile(program, RULES_AS_DATA)
    books, ids = Books(members=newcomers(program)), count(1)
    told: list[Told] = []
    for command in history:
        terms = Terms(program, rules, 1, datetime.now(UTC), lambda: UUID(int=next(ids)), "1", bytes(32))
        try:
            decided = decide(books, prepare(command, program), terms)
        except Refused as refusal:
            told.append(said(refusal))
            continue
        if isinstance(decided, Decision):
            books.apply(decided)
            decided = decided.outcome
        told.append(said(decided))
    return told, {member_id: wallets(state) for member_id, state in books.members.items()}


def newcomers(program: Program) -> dict[UUID, MemberState]:
    """Ann and Ben, active; Sue, suspended."""
    facts = MemberFacts("bronze", datetime(2025, 1, 1, tzinfo=UTC))
    return {
        ANN: MemberState("active", facts, 1),
        BEN: MemberState("active", facts, 1),
        SUE: MemberState("suspended", facts, 1),
    }


def wallets(state: MemberState) -> Told:
    """What a member holds, lots included."""
    lots = [(lot.point_type, lot.points, lot.remaining) for lot in state.lots.values() if lot.remaining]
    held = sorted((w.point_type, w.balance, w.lifetime, w.sequence) for w in state.wallets.values())
    return (held, sorted(lots), state.version, state.facts.tier, state.facts.purchases)


async def in_the_database(
    url: str, secrets_file: Path, program: Program, history: list[Command], sizes: list[int]
) -> tuple[list[Told], dict[UUID, Told]]:
    """The history through the committer, so many commands at a time."""
    database = await Database.open(url, 3)
    keys = secrets.load(secrets_file).ledger
    committer = Committer(database, Programs(), keys, lambda: datetime.now(UTC), uuid7, lanes=1)
    try:
        await found(database, program)
        told: list[Told] = []
        rest = list(history)
        for size in sizes:
            now, rest = rest[:size], rest[size:]
            deadline = asyncio.get_running_loop().time() + 30
            replies = await asyncio.gather(
                *(committer.submit(c, deadline) for c in now), return_exceptions=True
            )
            told += [said(reply) for reply in replies]
        members = [(program.program_id, m) for m in (ANN, BEN, SUE)]
        async with database.connection() as connection:
            main = {program.program_id: program.main_point_type}
            states, lots = await ask(
                connection,
                ledger.members_known(members, main),
                ledger.lots_to_spend({(*m, t): MAX_WALLET for m in members for t in program.point_types}),
            )
        return told, {
            member_id: wallets(state._replace(lots=lots.get((program.program_id, member_id), {})))
            for (_, member_id), state in states.items()
        }
    finally:
        await committer.close()
        await database.close()


async def found(database: Database, program: Program) -> None:
    """The program, its members and its rules, as an operator would have left them."""
    async with database.transaction() as connection:
        await programs.create(connection, program)
        for version, definition in RULES_AS_DATA:
            await connection.execute(
                "INSERT INTO rule (program_id, name, version, definition, actor) VALUES ($1, $2, $3, $4, '')",
                program.program_id,
                definition["rule"],
                version,
                json.dumps(definition),
            )
        await connection.execute(
            "INSERT INTO rule_set (program_id, revision, rules, actor) VALUES ($1, 1, $2, '')",
            program.program_id,
            json.dumps({d["rule"]: v for v, d in RULES_AS_DATA}),
        )
        await connection.execute(
            "UPDATE program SET rules_revision = 1 WHERE program_id = $1", program.program_id
        )
        for member_id, state in newcomers(program).items():
            await connection.execute(
                """INSERT INTO member (program_id, member_id, status, tier, joined_at)
                   VALUES ($1, $2, $3, 'bronze', $4)""",
                program.program_id,
                member_id,
                state.status,
                state.facts.joined_at,
            )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(some.lists(commands(), min_size=1, max_size=40), some.data())
def test_the_domain_and_the_database_agree(
    database_url: str, secrets_file: Path, history: list[Command], data: some.DataObject
) -> None:
    sizes: list[int] = []
    while sum(sizes) < len(history):
        sizes.append(data.draw(some.integers(1, 20)))
    program = replace(PROGRAM, program_id=uuid7(), name=f"model-{uuid7()}")
    actor = Actor(CallerKind.TERMINAL, program.program_id, uuid7(), "till", "pos", frozenset())
    history = [replace(c, actor=actor, received_at=datetime.now(UTC)) for c in history]

    async def both() -> None:
        expected = await in_the_domain(program, history)
        assert await in_the_database(database_url, secrets_file, program, history, sizes) == expected

    asyncio.run(both())
