"""Birthdays: the event log is told of each once a year, and of nobody's who didn't agree to that.

The month of birth stands in the clear (rules see it), the day is sealed. So a pass opens the profiles of
the members who were born in this month, in batches, and forgets them again: no index tells who shares a
birthday.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

import structlog

from server.domain.birthdays import agreed, birthday_among, days_since
from server.domain.events import MemberBirthday
from server.domain.lots import midnight
from server.domain.program import Program
from server.operations.collisions import repeated
from server.operations.programs import Programs
from server.store import birthdays as store
from server.store import events, locks
from server.store.database import Database
from server.store.merges import consents_in_force
from server.store.sealing import BrokenSealError, Sealer
from server.store.together import ask, write

PAGE_SIZE = 500
FIRST = UUID(int=0)

log = structlog.get_logger()


class Told(NamedTuple):
    """``seen``: so many profiles were opened. ``told``: whose birthday the log was told of."""

    seen: int
    told: tuple[UUID, ...]


class Birthdays:
    """Passes over the members of one program."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        programs: Programs,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
        page_size: int = PAGE_SIZE,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._programs = programs
        self._clock = clock
        self._new_id = new_id
        self._page_size = page_size

    async def tell(self, program_id: UUID, since: datetime | None) -> AsyncGenerator[Told, None]:
        """Look for birthdays of today and of the days after ``since``, when it was last done whole.

        Yields what each page came to. Raises Unavailable if the database goes away; who has been told
        is not told again.
        """
        async with self._database.connection() as connection:
            program = (await self._programs.current(connection, program_id)).program
        today = program.business_date(self._clock())
        days = days_since(None if since is None else program.business_date(since), today)
        months, after = {day.month for day in days}, FIRST
        while True:
            async with self._database.connection() as connection:
                rows = await store.page(connection, program_id, months, today.year, after, self._page_size)
            if not rows:
                return
            after = rows[-1]["member_id"]
            # Opening seals is arithmetic: beside the event loop.
            found = await asyncio.to_thread(self._found, rows, days)
            yield Told(len(rows), await self._tell(program, found) if found else ())

    def _found(self, rows: Sequence[Any], days: Sequence[date]) -> Mapping[UUID, date]:
        """The birthdays among these days, by member."""
        found = {}
        for row in rows:
            try:
                born = store.personal(self._sealer, row)["birth_date"]
            except BrokenSealError:
                log.error("birthday_not_read", member_id=str(row["member_id"]))
                continue
            day = birthday_among(date.fromisoformat(born), days) if born else None
            if day is not None:
                found[row["member_id"]] = day
        return found

    @repeated
    async def _tell(self, program: Program, found: Mapping[UUID, date]) -> tuple[UUID, ...]:
        program_id, now = program.program_id, self._clock()
        async with self._database.transaction() as connection:
            await locks.take(connection, sorted(locks.member_lock(member_id) for member_id in found))
            (consents,) = await ask(
                connection, consents_in_force([(program_id, member_id) for member_id in found])
            )
            wanted = {
                (program_id, member_id): day.year
                for member_id, day in found.items()
                if agreed(consents.get((program_id, member_id), {}))
            }
            marked = await store.mark(connection, wanted)
            told = [
                MemberBirthday(
                    event_id=self._new_id(),
                    program_id=program_id,
                    member_id=member_id,
                    occurred_at=midnight(day, 0, program.zone),
                    recorded_at=now,
                )
                for member_id, day in found.items()
                if (program_id, member_id) in marked
            ]
            await write(connection, events.append(told))
        return tuple(event.member_id for event in told)
