"""Timelines: what the read model has of a member, and where that isn't enough the log itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from server.domain import timeline as domain
from server.domain.errors import NotFound
from server.domain.figures import transaction_ids
from server.domain.live import MOVED, Happened, Place, PointsMoved
from server.domain.program import Program
from server.domain.timeline import Key, Update
from server.operations.programs import Programs
from server.store import live, projections
from server.store import log as event_log
from server.store import timeline as store
from server.store.database import Connection, Database
from server.store.log import LoggedEvent
from server.store.timeline import PROJECTION, AfterRow, Family, Source, Wanted

# So many events at once of what isn't followed yet: as a rule there are few.
LATER_ROWS = 500
FIRST_ID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry as it is read. ``member_id``: whose it is, or was before a merge.

    ``balances``: of the wallets in which points moved, after this by the order of recording.
    """

    key: Key
    kind: str
    member_id: UUID
    event: LoggedEvent
    update: Update
    balances: Mapping[str, int]


class Page(NamedTuple):
    """A page of a timeline. What was committed before ``as_of`` is in it, of what came later maybe some."""

    shown: list[Shown]
    more: bool
    as_of: datetime
    family: Family


class _Found(NamedTuple):
    member_id: UUID
    kind: str
    event: LoggedEvent | None = None


class Timelines:
    """The timelines of all programs' members."""

    def __init__(self, database: Database, programs: Programs) -> None:
        self._database = database
        self._programs = programs

    async def page(
        self, member_id: UUID, wanted: Wanted, before: Key | None, size: int, *, whole: bool
    ) -> Page:
        """The next entries before that one, newest first.

        ``whole``: all that is committed, also what the read model has not followed yet. Raises NotFound.
        """
        snapshots = await self._programs.at_hand(self._database, [wanted.program_id])
        program = snapshots[wanted.program_id].program
        async with (
            self._database.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            family = await store.family(connection, wanted.program_id, member_id)
            if family is None:
                raise NotFound("MEMBER_NOT_FOUND", "no such member in this program")
            found: dict[Key, _Found] = {}
            as_of: datetime
            if whole:
                found = await _later(connection, family.member_ids, wanted, before, size + 1)
                as_of = await connection.fetchval("SELECT now()")
            else:
                as_of = await projections.as_of(connection, PROJECTION)
            for entry in await store.page(connection, family.member_ids, wanted, before, size + 1):
                found[entry.key] = _Found(entry.member_id, entry.kind)
            newest = sorted(found, reverse=True)[:size]
            shown = await _shown(connection, program, {key: found[key] for key in newest})
        return Page(shown, len(found) > size, as_of, family)


async def _later(
    connection: Connection, member_ids: Sequence[UUID], wanted: Wanted, before: Key | None, size: int
) -> dict[Key, _Found]:
    """What the read model has not followed yet of these members."""
    place = await projections.place(connection, PROJECTION)
    last = await event_log.at(connection, place)
    after = FIRST_ID if last is None else live.earliest(last.event_id)
    seats = await store.seats(connection, [(wanted.program_id, member_id) for member_id in member_ids])
    pooled = [
        (Source(sat.household_id, max(sat.since, place), sat.until), sat.member_id, sat.household_id)
        for events in seats.values()
        for sat in domain.sittings(events)
        if sat.until is None or sat.until > place
    ]
    concerned = [*((Source(member_id, place), member_id, None) for member_id in member_ids), *pooled]
    sources = [source for source, _, _ in concerned]
    found: dict[Key, _Found] = {}
    while True:
        rows = await store.later(connection, sources, after, wanted, before, LATER_ROWS)
        for number, event in rows:
            before = Key(event.occurred_at, *event.place)
            _, whose, of_pool = concerned[number]
            kind = domain.kind_of(event.event_type, event.payload, whose, of_pool)
            if kind is not None and (kind in wanted.kinds or not wanted.kinds):
                found.setdefault(before, _Found(whose, kind, event))
        if len(rows) < LATER_ROWS or len(found) >= size:
            return found


async def _shown(connection: Connection, program: Program, found: Mapping[Key, _Found]) -> list[Shown]:
    read = await store.events(connection, [key.place for key, one in found.items() if one.event is None])
    events = {key: one.event or read[key.place] for key, one in found.items()}
    rows = {row: e.member_id for e in events.values() if _silent(e) for row in transaction_ids(e.payload)}
    after = await store.balances(connection, program.program_id, rows)
    shown = []
    for key, (member_id, kind, _) in found.items():
        event = events[key]
        happened = Happened(
            Place(*event.place, event.event_id), event.recorded_at, event.event_type, event.payload
        )
        of_pool = event.member_id if event.member_id != member_id else None
        update = domain.told(happened, member_id, program, of_pool)
        balances = _balances(update, event, after)
        shown.append(Shown(key, kind, member_id, event, update, balances))
    return shown


def _silent(event: LoggedEvent) -> bool:
    """Whether it moved points and doesn't say itself what the wallets held then."""
    return event.event_type in MOVED and "balance" not in event.payload


def _balances(update: Update, event: LoggedEvent, after: Mapping[UUID, AfterRow]) -> Mapping[str, int]:
    if not isinstance(update, PointsMoved):
        return {}
    if not _silent(event):
        return dict.fromkeys(update.points, event.payload["balance"])
    rows = sorted(after[row] for row in transaction_ids(event.payload) if row in after)
    return {row.point_type: row.balance for row in rows}
