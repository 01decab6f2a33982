"""Entries that wait for a person, and what became of them."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from server.domain.books import Decision
from server.domain.reviews import Review, ReviewStatus
from server.store.database import Connection
from server.store.keys import RequestKey
from server.store.together import Question, Write, columns

ReviewOf = tuple[UUID, UUID]  # the program, and the entry within it
CredentialOf = tuple[UUID, UUID]  # the program, and the credential within it

COLUMNS = """review_id, member_id, source_system, request_id, request_hash, credential_id, sent_by, store,
    kind, entry, why, occurred_at, received_at, status, decided_by, decided_at, decision_reason, event_id"""

# Without the entries: a page of large ones would be more than a reply holds.
IN_LISTS = COLUMNS.replace(" entry,", " '' AS entry,")


def named(wanted: Collection[ReviewOf]) -> Question[dict[ReviewOf, Review]]:
    """These entries, whatever became of them."""
    return Question(
        f"""SELECT ROW(program_id, {COLUMNS})
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, review_id)
             JOIN review_entry USING (program_id, review_id)""",
        columns(list(wanted)),
        lambda rows: {(row[0], row[1]): review(row[1:]) for row in rows},
    )


def put_aside(wanted: Collection[RequestKey]) -> Question[dict[RequestKey, Review]]:
    """Entries by the request that brought them; those that were never put aside are absent."""
    return Question(
        f"""SELECT ROW(program_id, {COLUMNS})
             FROM unnest($1::uuid[], $2::text[], $3::text[])
                  AS wanted(program_id, source_system, request_id)
             JOIN review_entry USING (program_id, source_system, request_id)""",
        columns(list(wanted)),
        lambda rows: {RequestKey(row[0], row[3], row[4]): review(row[1:]) for row in rows},
    )


def pending(wanted: Collection[CredentialOf]) -> Question[dict[CredentialOf, int]]:
    """How many entries wait, by credential."""
    return Question(
        """SELECT ROW(program_id, credential_id, count(*))
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, credential_id)
             JOIN review_entry USING (program_id, credential_id)
            WHERE status = 'pending' GROUP BY program_id, credential_id""",
        columns(list(wanted)),
        lambda rows: {(row[0], row[1]): row[2] for row in rows},
    )


def save(decisions: Sequence[tuple[UUID, Decision]]) -> Write | None:
    """Write entries as they are after a batch."""
    left = {
        review.review_id: (program_id, *review)
        for program_id, decision in decisions
        for review in decision.changes.reviews.values()
    }
    if not left:
        return None
    return Write(
        f"""INSERT INTO review_entry (program_id, {COLUMNS})
            SELECT * FROM unnest(
                $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::bytea[], $7::uuid[],
                $8::text[], $9::text[], $10::text[], $11::jsonb[], $12::text[], $13::timestamptz[],
                $14::timestamptz[], $15::text[], $16::text[], $17::timestamptz[], $18::text[], $19::uuid[])
                ON CONFLICT (program_id, review_id) DO UPDATE SET
                   status = excluded.status, decided_by = excluded.decided_by,
                   decided_at = excluded.decided_at, decision_reason = excluded.decision_reason,
                   event_id = excluded.event_id""",
        columns(list(left.values())),
    )


async def get(connection: Connection, program_id: UUID, review_id: UUID) -> Review | None:
    """One entry, None if the program has none of that id."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM review_entry WHERE program_id = $1 AND review_id = $2",
        program_id,
        review_id,
    )
    return None if row is None else review(tuple(row))


async def page(
    connection: Connection,
    program_id: UUID,
    *,
    before: UUID | None,
    size: int,
    status: ReviewStatus | None,
    member_id: UUID | None,
) -> list[Review]:
    """At most ``size`` entries before that id, newest first, each without what was sent."""
    rows = await connection.fetch(
        f"""SELECT {IN_LISTS} FROM review_entry
             WHERE program_id = $1
               AND ($2::uuid IS NULL OR review_id < $2)
               AND ($3::text IS NULL OR status = $3)
               AND ($4::uuid IS NULL OR member_id = $4)
             ORDER BY review_id DESC LIMIT $5""",
        program_id,
        before,
        status,
        member_id,
        size,
    )
    return [review(tuple(row)) for row in rows]


def review(row: Sequence[Any]) -> Review:
    """The entry as the domain knows it."""
    return Review._make(row)._replace(status=ReviewStatus(row[13]))
