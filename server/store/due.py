"""What the clock will change, found by wallet; and what members were told of points that expire."""

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.events import PointsExpiring
from server.domain.program import Program
from server.domain.warnings import Warned
from server.store.database import Connection
from server.store.ledger import EXPIRES, MemberOf
from server.store.together import Question, Write, columns


class Place(NamedTuple):
    """How far a run has come, in the order of the moments at which something falls due."""

    next_due: datetime
    member_id: UUID


class Page(NamedTuple):
    """How far a pass has come: up to this wallet, in the order of members."""

    member_id: UUID
    point_type: str


BEGINNING = Place(datetime.min.replace(tzinfo=UTC), UUID(int=0))
FIRST_PAGE = Page(UUID(int=0), "")

# The subquery is a comparison and no join, so that it can't be planned as one over all wallets.
DUE_MEMBERS = """
    SELECT next_due, member_id FROM wallet w
     WHERE program_id = $1 AND next_due <= $2 AND (next_due, member_id) > ($3, $4)
       AND (next_due, point_type) <= ALL (SELECT next_due, point_type FROM wallet
                                           WHERE program_id = w.program_id AND member_id = w.member_id
                                             AND next_due IS NOT NULL)
     ORDER BY next_due, member_id LIMIT $5"""


async def due_members(
    connection: Connection, program_id: UUID, until: datetime, after: Place, limit: int
) -> list[Place]:
    """Whose wallets have something that may have fallen due by ``until``; each at the first of theirs."""
    rows = await connection.fetch(DUE_MEMBERS, program_id, until, *after, limit)
    return [Place(*row) for row in rows]


async def count(connection: Connection, program_id: UUID, until: datetime) -> int:
    """For how many members something may have fallen due by then."""
    query = "SELECT count(DISTINCT member_id) FROM wallet WHERE program_id = $1 AND next_due <= $2"
    return int(await connection.fetchval(query, program_id, until))


async def first_due(connection: Connection) -> dict[str, datetime]:
    """When the clock next changes something, by the names of the programs in which it ever will."""
    rows = await connection.fetch(
        """SELECT p.name, (SELECT min(next_due) FROM wallet w
                            WHERE w.program_id = p.program_id AND next_due IS NOT NULL)
             FROM program p"""
    )
    return {name: moment for name, moment in rows if moment is not None}


async def warned_on(connection: Connection, program_id: UUID) -> date | None:
    """The last day whose warnings are all out, None before the first."""
    found: date | None = await connection.fetchval(
        "SELECT warned_on FROM program WHERE program_id = $1", program_id
    )
    return found


async def set_warned_on(connection: Connection, program_id: UUID, day: date) -> None:
    """All warnings of that day are out."""
    await connection.execute(
        """UPDATE program SET warned_on = $2
            WHERE program_id = $1 AND (warned_on IS NULL OR warned_on < $2)""",
        program_id,
        day,
    )


async def to_warn(
    connection: Connection,
    program_id: UUID,
    spans: Sequence[tuple[datetime, datetime]],
    after: Page,
    limit: int,
) -> tuple[Page | None, list[UUID]]:
    """Who of the next ``limit`` wallets has points that expire within ``spans``; and where these end.

    None if there are no more. Wallets are gone through by their key, whatever they hold: few have
    anything to expire within so short a time, and only the lots of these are looked at.
    """
    row = await connection.fetchrow(
        f"""WITH page AS MATERIALIZED (
                SELECT member_id, point_type, next_due, active_at FROM wallet
                 WHERE program_id = $1 AND (member_id, point_type) > ($2, $3)
                 ORDER BY member_id, point_type LIMIT $4)
            SELECT (SELECT member_id FROM page ORDER BY member_id DESC, point_type DESC LIMIT 1),
                   (SELECT point_type FROM page ORDER BY member_id DESC, point_type DESC LIMIT 1),
                   ARRAY(SELECT DISTINCT w.member_id FROM page w
                          WHERE w.next_due < (SELECT max(b) FROM unnest($6::timestamptz[]) AS b)
                            AND EXISTS (
                                SELECT FROM lot, unnest($5::timestamptz[], $6::timestamptz[]) AS span(a, b)
                                 WHERE lot.program_id = $1 AND lot.member_id = w.member_id
                                   AND lot.point_type = w.point_type AND remaining > 0 AND remaining > held
                                   AND {EXPIRES} >= a AND {EXPIRES} < b
                                -- for each wallet by itself, never as a join with all lots
                                OFFSET 0))""",
        program_id,
        *after,
        limit,
        *columns(spans),
    )
    assert row is not None
    member_id, point_type, members = row
    return (None if member_id is None else Page(member_id, point_type)), members


async def misplaced(
    connection: Connection, program: Program, after: UUID, limit: int
) -> tuple[UUID | None, list[UUID]]:
    """Who of the next ``limit`` members isn't in the tier that their lifetime reaches; and where these end.

    None if there are no more.
    """
    row = await connection.fetchrow(
        """WITH page AS MATERIALIZED (
                SELECT member_id, status, tier, inherited FROM member
                 WHERE program_id = $1 AND member_id > $2 ORDER BY member_id LIMIT $3)
            SELECT (SELECT member_id FROM page ORDER BY member_id DESC LIMIT 1),
                   ARRAY(SELECT page.member_id FROM page
                           LEFT JOIN wallet w ON w.program_id = $1 AND w.member_id = page.member_id
                                             AND w.point_type = $4
                          WHERE status IN ('active', 'suspended')
                            AND tier <> (SELECT reached FROM unnest($5::text[], $6::bigint[])
                                                             AS t(reached, from_points)
                                          WHERE from_points <= inherited + coalesce(w.lifetime, 0)
                                             OR from_points = 0
                                          ORDER BY from_points DESC LIMIT 1))""",
        program.program_id,
        after,
        limit,
        program.main_point_type,
        [tier.name for tier in program.tiers],
        [tier.from_points for tier in program.tiers],
    )
    assert row is not None
    return row[0], row[1]


def told(members: Collection[MemberOf], today: date) -> Question[dict[MemberOf, set[Warned]]]:
    """What members were told of points that expire from today on."""
    return Question(
        """SELECT ROW(program_id, member_id, point_type, expires_on, days_ahead)
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id)
             JOIN expiry_warning USING (program_id, member_id)
            WHERE expires_on >= $3""",
        ([program_id for program_id, _ in members], [member_id for _, member_id in members], today),
        _told,
    )


def _told(rows: Sequence[Any]) -> dict[MemberOf, set[Warned]]:
    found: dict[MemberOf, set[Warned]] = {}
    for row in rows:
        found.setdefault((row[0], row[1]), set()).add(Warned(*row[2:]))
    return found


def record_warnings(warnings: Sequence[PointsExpiring]) -> Write | None:
    """Remember what members are told. The caller holds their locks."""
    if not warnings:
        return None
    return Write(
        """INSERT INTO expiry_warning (program_id, member_id, point_type, expires_on, days_ahead)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::date[], $5::integer[])""",
        columns([(w.program_id, w.member_id, w.point_type, w.expires_on, w.days_ahead) for w in warnings]),
    )
