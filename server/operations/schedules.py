"""Schedules as they stand, for those who ask and for metrics. Workers do what they are about."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from server.domain.errors import Refused
from server.domain.schedules import Outcome, Standing
from server.store import due
from server.store import schedules as store
from server.store.database import Database
from telemetry.metrics import Labels
from telemetry.setup import Telemetry

CHECKPOINT = "checkpoint"


class Schedules:
    """What can be asked of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def standings(self, program_id: UUID) -> list[Standing]:
        """Those of the installation, by name, and those of the program."""
        async with self._database.connection() as connection:
            return await store.standings(connection, program_id)


class Lateness:
    """What is late of what the clock brings, asked each time that somebody reads the metrics.

    Every process tells, so that it shows also where no worker runs.
    """

    def __init__(self, telemetry: Telemetry, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self._standings: Sequence[Standing] = ()
        # When the clock next changes something, by program.
        self._first_due: Mapping[str, datetime] = {}
        self._open = True
        self._asking = asyncio.Lock()
        telemetry.refreshers.append(self._ask)
        gauge = telemetry.metrics.gauge
        gauge(
            "laurel.schedule.lateness",
            "s",
            "How long beyond its time something that is done by the clock has waited; 0 if it is not late.",
            lambda: {(s.name, s.program): s.late(self._clock()).total_seconds() for s in self._standings},
            ("schedule", "program"),
        )
        gauge(
            "laurel.schedule.failures",
            "{attempt}",
            "Attempts in a row that failed of something that is done by the clock.",
            lambda: {
                (s.name, s.program): s.attempts if s.outcome is Outcome.FAILED else 0 for s in self._standings
            },
            ("schedule", "program"),
        )
        gauge(
            "laurel.due.lag",
            "s",
            "How long what has fallen due has waited to be done, by program.",
            lambda: {(program,): self._since(moment) for program, moment in self._first_due.items()},
            ("program",),
        )
        gauge(
            "laurel.checkpoint.age",
            "s",
            "How long ago the ends of the ledger's chains were last written down, or found unchanged.",
            self._checkpoint_age,
        )

    async def close(self) -> None:
        """Ask no more; to be called before the database is closed."""
        async with self._asking:
            self._open = False

    def _since(self, moment: datetime) -> float:
        return max(0.0, (self._clock() - moment).total_seconds())

    def _checkpoint_age(self) -> Mapping[Labels, float]:
        last = next((s.done_period for s in self._standings if s.name == CHECKPOINT), None)
        return {} if last is None else {(): self._since(last)}

    async def _ask(self) -> None:
        async with self._asking:
            if not self._open:
                return
            try:
                async with self._database.connection() as connection:
                    self._standings = await store.standings(connection)
                    self._first_due = await due.first_due(connection)
            except (Refused, OSError, asyncpg.PostgresError):
                return  # what was known before is right, and grows
