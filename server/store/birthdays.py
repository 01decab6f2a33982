"""Members whose birthday it may be, sealed as they are, and the year in which it last came."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from server.store.database import Connection
from server.store.ledger import MemberOf
from server.store.sealing import Sealer, WrappedKey


async def page(
    connection: Connection,
    program_id: UUID,
    months: Collection[int],
    year: int,
    after: UUID,
    limit: int,
) -> Sequence[Any]:
    """Rows of at most so many members after that id who were born in one of the months, in their order.

    Without those whose birthday of that year has come.
    """
    rows: Sequence[Any] = await connection.fetch(
        """SELECT program_id, member_id, sealed, master_key_id, wrapped
             FROM member m JOIN member_profile p USING (program_id, member_id)
             JOIN member_key k USING (program_id, member_id)
            WHERE m.program_id = $1 AND m.member_id > $4 AND status = 'active'
              AND birth_month = ANY($2::smallint[]) AND coalesce(birthday_year, 0) < $3
            ORDER BY m.member_id LIMIT $5""",
        program_id,
        list(months),
        year,
        after,
        limit,
    )
    return rows


def personal(sealer: Sealer, row: Any) -> dict[str, Any]:
    """What a row of ``page`` holds. Raises BrokenSealError."""
    key = WrappedKey(row["master_key_id"], row["wrapped"])
    return sealer.open(key, row["program_id"], row["member_id"], row["sealed"])


async def mark(connection: Connection, wanted: Mapping[MemberOf, int]) -> set[MemberOf]:
    """Note that these members' birthday of that year has come; who is active and had not been noted.

    The caller holds their locks.
    """
    rows = await connection.fetch(
        """UPDATE member_profile p SET birthday_year = wanted.year
             FROM unnest($1::uuid[], $2::uuid[], $3::smallint[]) AS wanted(program_id, member_id, year)
             JOIN member m USING (program_id, member_id)
            WHERE p.program_id = wanted.program_id AND p.member_id = wanted.member_id
              AND m.status = 'active' AND coalesce(p.birthday_year, 0) < wanted.year
        RETURNING p.program_id, p.member_id""",
        [program_id for program_id, _ in wanted],
        [member_id for _, member_id in wanted],
        list(wanted.values()),
    )
    return {(row[0], row[1]) for row in rows}
