"""Reading the event log, so that no row is skipped and those of one member keep their order.

A row becomes readable once every transaction with an older id has ended: positions are given before
the commit, so whoever read by position alone would pass over rows that are committed late. Writers
take their members' locks before they get a transaction id, so the order of ids is the order of a member.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from server.store.database import Connection
from server.store.together import Question

# What may be read: what is older than every transaction that is still under way anywhere in the
# cluster, and all of former epochs. In one statement, so that both are of the same moment.
READABLE = """(epoch, xid) < ((SELECT max(epoch) FROM log_epoch),
                              (SELECT pg_snapshot_xmin(pg_current_snapshot())))"""


class Position(NamedTuple):
    """A place in the log, in the order in which it is read."""

    epoch: int
    xid: int
    position: int


BEGINNING = Position(0, 0, 0)
FACTS = "epoch, xid, position, event_id, event_type, program_id, member_id, occurred_at, recorded_at"


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """A row of the event log. ``member_id`` is the nil UUID if it is no member's."""

    epoch: int
    xid: int
    position: int
    event_id: UUID
    event_type: str
    program_id: UUID
    member_id: UUID
    occurred_at: datetime
    recorded_at: datetime
    payload: Mapping[str, Any]

    @property
    def place(self) -> Position:
        """Where it stands."""
        return Position(self.epoch, self.xid, self.position)


class Stretch(NamedTuple):
    """The events of a stretch of the log that somebody wants, and where the stretch ends.

    ``more``: there may be more behind it by now.
    """

    events: list[LoggedEvent]
    end: Position
    more: bool


async def read(
    connection: Connection, after: Position, event_types: Collection[str] | None, rows: int
) -> Stretch:
    """The next ``rows`` rows at most, and of these the events of the given types; None for all types."""
    found = await connection.fetch(
        f"""SELECT {FACTS},
                   CASE WHEN $4::text[] IS NULL OR event_type = ANY($4) THEN payload END
              FROM event_log
             WHERE (epoch, xid, position) > ($1, $2, $3) AND {READABLE}
             ORDER BY epoch, xid, position
             LIMIT $5""",
        *after,
        None if event_types is None else list(event_types),
        rows,
    )
    events = [logged(row) for row in found if row[-1] is not None]
    return Stretch(events, Position(*found[-1][:3]) if found else after, len(found) == rows)


async def at(connection: Connection, place: Position) -> LoggedEvent | None:
    """The event that stands there."""
    row = await connection.fetchrow(
        f"SELECT {FACTS}, payload FROM event_log WHERE (epoch, xid, position) = ($1, $2, $3)", *place
    )
    return None if row is None else logged(row)


def standing(place: Position) -> Question[LoggedEvent | None]:
    """The same, to be asked along with others."""
    return Question(
        f"SELECT ROW({FACTS}, payload) FROM event_log WHERE (epoch, xid, position) = ($1, $2, $3)",
        tuple(place),
        lambda rows: logged(rows[0]) if rows else None,
    )


def logged(row: Any) -> LoggedEvent:
    """An event from FACTS and its payload."""
    facts: tuple[Any, ...] = (*row[:-1], json.loads(row[-1]))
    return LoggedEvent(*facts)
