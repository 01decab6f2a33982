"""Adjustments that take a second person."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from server.domain.adjustments import Adjustment, AdjustmentStatus
from server.domain.books import Decision
from server.store.database import Connection
from server.store.together import Question, Write, columns

AdjustmentOf = tuple[UUID, UUID]  # the program, and the adjustment within it

COLUMNS = """adjustment_id, member_id, point_type, points, expires_at, reason, status, requested_by,
    requested_credential, requested_at, decided_by, decided_at, decision_reason, transaction_id"""


def named(wanted: Collection[AdjustmentOf]) -> Question[dict[AdjustmentOf, Adjustment]]:
    """These adjustments, whatever became of them."""
    return Question(
        f"""SELECT ROW(program_id, {COLUMNS})
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, adjustment_id)
             JOIN adjustment USING (program_id, adjustment_id)""",
        columns(list(wanted)),
        lambda rows: {(row[0], row[1]): adjustment(row[1:]) for row in rows},
    )


def save(decisions: Sequence[tuple[UUID, Decision]]) -> Write | None:
    """Write adjustments as they are after a batch."""
    left = {
        asked.adjustment_id: (program_id, *asked)
        for program_id, decision in decisions
        for asked in decision.changes.adjustments.values()
    }
    if not left:
        return None
    return Write(
        f"""INSERT INTO adjustment (program_id, {COLUMNS})
            SELECT * FROM unnest(
                $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::timestamptz[], $7::text[],
                $8::text[], $9::text[], $10::uuid[], $11::timestamptz[], $12::text[], $13::timestamptz[],
                $14::text[], $15::uuid[])
                ON CONFLICT (program_id, adjustment_id) DO UPDATE SET
                   status = excluded.status, decided_by = excluded.decided_by,
                   decided_at = excluded.decided_at, decision_reason = excluded.decision_reason,
                   transaction_id = excluded.transaction_id""",
        columns(list(left.values())),
    )


async def get(connection: Connection, program_id: UUID, adjustment_id: UUID) -> Adjustment | None:
    """One adjustment, None if the program has none of that id."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM adjustment WHERE program_id = $1 AND adjustment_id = $2",
        program_id,
        adjustment_id,
    )
    return None if row is None else adjustment(tuple(row))


async def page(
    connection: Connection,
    program_id: UUID,
    *,
    before: UUID | None,
    size: int,
    status: AdjustmentStatus | None,
    member_id: UUID | None,
) -> list[Adjustment]:
    """At most ``size`` adjustments before that id, newest first."""
    rows = await connection.fetch(
        f"""SELECT {COLUMNS} FROM adjustment
             WHERE program_id = $1
               AND ($2::uuid IS NULL OR adjustment_id < $2)
               AND ($3::text IS NULL OR status = $3)
               AND ($4::uuid IS NULL OR member_id = $4)
             ORDER BY adjustment_id DESC LIMIT $5""",
        program_id,
        before,
        status,
        member_id,
        size,
    )
    return [adjustment(tuple(row)) for row in rows]


def adjustment(row: Sequence[Any]) -> Adjustment:
    """The adjustment as the domain knows it."""
    return Adjustment._make(row)._replace(status=AdjustmentStatus(row[6]))
