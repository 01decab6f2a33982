"""Timelines: written by who follows the event log, read newest first.

An entry says where its event stands in the log, and nothing that the event says.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from server.domain.live import SEATS
from server.domain.timeline import EVENT_TYPES, Entry, Key, Where
from server.store.database import Connection
from server.store.ledger import MemberOf
from server.store.log import FACTS, LoggedEvent, logged
from server.store.together import columns

PROJECTION = "history"
EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, tzinfo=UTC)
# As much of an event as is told of it: what was in the basket is not.
TOLD = f"{FACTS}, payload #- '{{activity,lines}}' #- '{{activity,attributes}}'"
NEWEST_FIRST = "occurred_at DESC, epoch DESC, xid DESC, position DESC"


class Wanted(NamedTuple):
    """Entries of these kinds, all if empty; from ``since`` on and before ``until``, by business time."""

    program_id: UUID
    kinds: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    def upto(self, before: Key | None) -> Key:
        """What is wanted comes before that, and before where the page before ended."""
        end = Key(self.until or LATEST, 0, 0, 0)
        return end if before is None else min(end, before)


class Source(NamedTuple):
    """A stretch of what the log holds of a member or a pool, between two places; to its end, if None."""

    owner_id: UUID
    since: Where
    until: Where | None = None


class Family(NamedTuple):
    """The members whose entries are in a timeline. ``lives_on``: who does, and at which version by now."""

    member_ids: list[UUID]
    lives_on: UUID
    version: int


class AfterRow(NamedTuple):
    """What a wallet held after a row of its chain."""

    point_type: str
    sequence: int
    balance: int


async def add(connection: Connection, generation: UUID, entries: Sequence[Entry]) -> None:
    """Note these, each once. In the order of the keys, so that two who do so at once wait in one order."""
    if not entries:
        return
    await connection.execute(
        """INSERT INTO timeline_entry
                  (generation, program_id, member_id, occurred_at, epoch, xid, position, kind)
           SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::integer[], $6::xid8[],
                                    $7::bigint[], $8::text[])
               ON CONFLICT DO NOTHING""",
        generation,
        *columns([(e.program_id, e.member_id, *e.key, e.kind) for e in entries]),
    )


async def seats(connection: Connection, owners: Collection[MemberOf]) -> dict[MemberOf, list[LoggedEvent]]:
    """The events with which seats began and ended in these pools, or of these members, in order."""
    found: dict[MemberOf, list[LoggedEvent]] = {}
    if owners:
        rows = await connection.fetch(
            f"""SELECT {FACTS}, payload
                  FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id)
                  JOIN event_log USING (program_id, member_id)
                 WHERE event_type IN ({", ".join(f"'{name}'" for name in sorted(SEATS))})
                 ORDER BY epoch, xid, position""",
            *columns(list(owners)),
        )
        for event in map(logged, rows):
            found.setdefault((event.program_id, event.member_id), []).append(event)
    return found


async def family(connection: Connection, program_id: UUID, member_id: UUID) -> Family | None:
    """The member and all who were merged into it; None if there is no such person."""
    row = await connection.fetchrow(
        """SELECT lasting.member_id, lasting.version,
                  ARRAY(SELECT member_id FROM member WHERE program_id = $1 AND merged_into = $2)
             FROM member AS own
             JOIN member AS lasting ON lasting.program_id = own.program_id
                                   AND lasting.member_id = coalesce(own.merged_into, own.member_id)
            WHERE own.program_id = $1 AND own.member_id = $2 AND own.kind = 'person'""",
        program_id,
        member_id,
    )
    return None if row is None else Family([member_id, *row[2]], row[0], row[1])


async def page(
    connection: Connection, member_ids: Sequence[UUID], wanted: Wanted, before: Key | None, size: int
) -> list[Entry]:
    """The next ``size`` entries of these members before that one, newest first, each event once."""
    rows = await connection.fetch(
        f"""SELECT DISTINCT ON (occurred_at, epoch, xid, position)
                   own.member_id, occurred_at, epoch, xid, position, kind
              FROM (SELECT generation FROM projection WHERE name = $1) AS read,
                   unnest($2::uuid[]) WITH ORDINALITY AS own(member_id, number),
                   LATERAL (SELECT occurred_at, epoch, xid, position, kind FROM timeline_entry AS e
                             WHERE e.generation = read.generation AND e.program_id = $3
                               AND e.member_id = own.member_id AND occurred_at >= $4
                               AND (occurred_at, epoch, xid, position) < ($5, $6, $7, $8)
                               AND ($9::text[] IS NULL OR kind = ANY($9))
                             ORDER BY {NEWEST_FIRST} LIMIT $10) AS entry
             ORDER BY {NEWEST_FIRST}, number LIMIT $10""",
        PROJECTION,
        list(member_ids),
        wanted.program_id,
        wanted.since or EARLIEST,
        *wanted.upto(before),
        list(wanted.kinds) or None,
        size,
    )
    return [Entry(wanted.program_id, row[0], Key(*row[1:5]), row[5]) for row in rows]


async def later(
    connection: Connection,
    sources: Sequence[Source],
    after: UUID,
    wanted: Wanted,
    before: Key | None,
    size: int,
) -> list[tuple[int, LoggedEvent]]:
    """The next ``size`` events of these before that one, newest first, of all kinds, and of which each is.

    ``after``: no event that comes after the places of these sources has a lesser id.
    """
    rows = await connection.fetch(
        f"""SELECT number, event.*
              FROM unnest($1::uuid[], $2::integer[], $3::xid8[], $4::bigint[],
                          $5::integer[], $6::xid8[], $7::bigint[])
                   WITH ORDINALITY AS source(owner_id, e1, x1, p1, e2, x2, p2, number),
                   LATERAL (SELECT {TOLD}
                              FROM (SELECT * FROM event_log
                                     WHERE program_id = $8 AND member_id = source.owner_id
                                       AND event_id >= $9 OFFSET 0) AS recent
                             WHERE (epoch, xid, position) > (e1, x1, p1)
                               AND (e2 IS NULL OR (epoch, xid, position) < (e2, x2, p2))
                               AND event_type = ANY($10)
                               AND occurred_at >= $11
                               AND (occurred_at, epoch, xid, position) < ($12, $13, $14, $15)
                             ORDER BY {NEWEST_FIRST} LIMIT $16) AS event
             ORDER BY {NEWEST_FIRST}, number LIMIT $16""",
        *columns([(s.owner_id, *s.since, *(s.until or (None, None, None))) for s in sources]),
        wanted.program_id,
        after,
        list(EVENT_TYPES),
        wanted.since or EARLIEST,
        *wanted.upto(before),
        size,
    )
    return [(row[0] - 1, logged(tuple(row)[1:])) for row in rows]


async def events(connection: Connection, places: Collection[Where]) -> dict[Where, LoggedEvent]:
    """What stands there, without baskets."""
    if not places:
        return {}
    rows = await connection.fetch(
        f"""SELECT {TOLD} FROM unnest($1::integer[], $2::xid8[], $3::bigint[]) AS wanted(epoch, xid, position)
              JOIN event_log USING (epoch, xid, position)""",
        *columns(list(places)),
    )
    return {event.place: event for event in map(logged, rows)}


async def balances(
    connection: Connection, program_id: UUID, rows: Mapping[UUID, UUID]
) -> dict[UUID, AfterRow]:
    """What wallets held after these rows of the ledger, each given with whose it is."""
    if not rows:
        return {}
    found = await connection.fetch(
        """SELECT transaction_id, point_type, sequence, balance_after
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS wanted(program_id, transaction_id, member_id)
             JOIN ledger_transaction USING (program_id, member_id, transaction_id)""",
        *columns([(program_id, *row) for row in rows.items()]),
    )
    return {row[0]: AfterRow(*row[1:]) for row in found}


async def everything(connection: Connection, generation: UUID) -> list[Entry]:
    """All entries of a generation, in order."""
    rows = await connection.fetch(
        """SELECT program_id, member_id, occurred_at, epoch, xid, position, kind FROM timeline_entry
            WHERE generation = $1""",
        generation,
    )
    return sorted(Entry(row[0], row[1], Key(*row[2:6]), row[6]) for row in rows)


async def drop(connection: Connection, generation: UUID, most: int) -> bool:
    """Forget at most so many entries of a generation; whether there are more."""
    await connection.execute(
        """DELETE FROM timeline_entry WHERE ctid = ANY(ARRAY(
               SELECT ctid FROM timeline_entry WHERE generation = $1 LIMIT $2))""",
        generation,
        most,
    )
    # Not by how many it was: somebody else may be at the others, and die before they are gone.
    left: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM timeline_entry WHERE generation = $1)", generation
    )
    return left
