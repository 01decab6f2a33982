"""Histories in PostgreSQL, through a committer; and what is left there in the end."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from server.domain.adjustments import Adjustment
from server.domain.books import MemberState
from server.domain.households import Household, Invitation, Seat
from server.domain.ledger import Hold
from server.domain.program import Program
from server.domain.proof import Finding
from server.operations.committer import Committer
from server.operations.programs import Programs
from server.operations.verify import Result, verify
from server.secrets import Keyring
from server.store import adjustments, households, ledger, programs
from server.store.database import Database
from server.store.together import ask
from tests.server.model.histories import RULES, START, VISIT
from tests.server.model.runs import Domain, Sent, Told, ids_from, newcomers


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
    merged: dict[UUID, UUID]
    cap_usage: dict[UUID, dict[Any, int]]
    refunded: dict[UUID, int]
    returned: dict[tuple[UUID, str], int]
    adjustments: dict[UUID, Adjustment]
    households: dict[UUID, Household]
    seats: dict[UUID, Seat]
    invitations: dict[UUID, Invitation]
    gifts: dict[UUID, tuple[UUID, UUID | None]]  # of lots that were handed on: from which row, by whom
    events: list[tuple[str, str]]


class InDatabase:
    """Histories through a committer, in batches."""

    def __init__(self, database: Database, keys: Keyring) -> None:
        self._database = database
        self._keys = keys

    async def told(self, domain: Domain, sizes: Sequence[int]) -> list[Told]:
        """The same commands in batches of these sizes, fewer where the clock or an id must be waited for."""
        await founded(self._database, domain.program)
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

    async def recorded(self, program: Program) -> dict[str, datetime]:
        """When each request was done, by the clock of who did it."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "SELECT request_id, recorded_at FROM request_key WHERE program_id = $1", program.program_id
            )
        return {row[0]: row[1] for row in rows}

    async def invitations(self, program: Program) -> dict[bytes, UUID]:
        """All there are, by the hash of their token."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "SELECT token_hash, invitation_id FROM household_invitation WHERE program_id = $1",
                program.program_id,
            )
        return {row[0]: row[1] for row in rows}

    async def found_wrong(self, program: Program) -> list[Finding]:
        """What `laurel verify` has to say of the program."""
        steps = verify(self._database, self._keys.keys, program.program_id)
        return [f async for step in steps if isinstance(step, Result) for f in step.findings]

    async def saved(self, program: Program) -> Saved:
        """What there is of the program."""
        program_id = program.program_id
        async with self._database.connection() as connection:

            async def rows(table: str, columns: str, order: str = "1") -> list[Any]:
                query = f"SELECT {columns} FROM {table} WHERE program_id = $1 ORDER BY {order}"
                return [tuple(row) for row in await connection.fetch(query, program_id)]

            whole = {(program_id, row[0]): True for row in await rows("member", "member_id")}
            wallets = ledger.wallets_of(whole, START)
            states, open_lots, whence = await ask(
                connection,
                ledger.members_known(wallets, {program_id: program.main_point_type}),
                ledger.lots_open(wallets),
                households.whence(whole, []),
            )
            holds: dict[UUID, dict[UUID, Hold]] = {}
            for member_id, *row in await rows("hold", f"member_id, {HOLD_COLUMNS}"):
                holds.setdefault(member_id, {})[row[0]] = ledger.hold(row)
            usage: dict[UUID, dict[Any, int]] = {}
            for member_id, rule, period, points in await rows("cap_usage", "member_id, rule, period, points"):
                if points:  # a counter at 0 is as good as none
                    usage.setdefault(member_id, {})[rule, period] = points
            asked = [adjustments.adjustment(row) for row in await rows("adjustment", adjustments.COLUMNS)]
            seats = [households.seat(row) for row in await rows("seat", households.SEAT_COLUMNS)]
            return Saved(
                members={
                    who: state._replace(lots=open_lots.get((p, who), {}), holds=holds.get(who, {}))
                    for (p, who), state in states.items()
                },
                merged={a: b for a, b in await rows("member", "member_id, merged_into") if b is not None},
                cap_usage=usage,
                refunded=dict(await rows("refund", "transaction_id, points")),
                returned={
                    (e, n): q for e, n, q in await rows("returned_line", "event_id, line_id, quantity")
                },
                adjustments={one.adjustment_id: one for one in asked},
                households={
                    row[0]: Household(*row)
                    for row in await rows("household", "household_id, created_at, created_by, dissolved_at")
                },
                seats={seat.seat_id: seat for seat in seats},
                invitations={
                    row[0]: Invitation(*row)
                    for row in await rows("household_invitation", households.INVITATION_COLUMNS)
                },
                gifts={lot_id: gift for own in whence.values() for lot_id, gift in own.items()},
                events=[
                    (kind, json.loads(payload))
                    for kind, payload in await rows("event_log", "event_type, payload", "position")
                ],
            )


HOLD_COLUMNS = """hold_id, point_type, points, open_points, captured, status, expires_at, shares,
    spender_id"""


def expected(domain: Domain) -> Saved:
    """What PostgreSQL should have in the end."""
    books, changes = domain.books, [decision.changes for decision in domain.decisions]
    members = {
        who: member._replace(lots={i: lot for i, lot in member.lots.items() if lot.remaining})
        for who, member in books.members.items()
    }
    return Saved(
        members=members,
        merged=domain.merged,
        cap_usage={
            who: {counter: points for counter, points in usage.items() if points}
            for who, usage in books.cap_usage.items()
            if any(usage.values())
        },
        refunded=dict(domain.refunded),
        returned=dict(domain.returned),
        adjustments=books.adjustments,
        households=books.households,
        seats={seat_id: seat for change in changes for seat_id, seat in change.seats.items()},
        invitations=books.invitations,
        gifts={
            lot_id: (books.origins[lot_id], books.givers.get(lot_id))
            for member in members.values()
            for lot_id in member.lots
            if lot_id in books.origins
        },
        events=[
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


async def founded(database: Database, program: Program) -> None:
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
