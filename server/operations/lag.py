"""How far behind the consumers of the event log are, for those who watch.

Servers tell it, not workers: it is most wanted when no worker is there to be asked. Every process tells
the same, so the highest of them is the figure.
"""

import time
from collections.abc import Callable, Mapping

import asyncpg

from server.domain.errors import Refused
from server.store import dead_letters, deliveries, subscriptions
from server.store.database import Database
from server.store.deliveries import Backlog
from server.store.subscriptions import Standing
from telemetry.metrics import Labels, Metrics

# Whoever asks more often than that is told the same again.
FRESH_SECONDS = 2.0


class Behind:
    """The figures as of the last look. What can't be looked at is left out, so that it isn't told as fine."""

    def __init__(self, metrics: Metrics, database: Database) -> None:
        self._database = database
        self._looked = -FRESH_SECONDS
        self._standings: list[Standing] = []
        self._dead: Mapping[str, int] = {}
        self._held_back: float | None = None
        self._backlog: Mapping[str, Backlog] = {}
        by_consumer = ("consumer",)
        metrics.gauge(
            "laurel.subscription.behind",
            "{event}",
            "Events of the log that a consumer has not done with, of whatever type.",
            self._each(lambda standing: standing.behind),
            by_consumer,
        )
        metrics.gauge(
            "laurel.subscription.lag",
            "s",
            "How long the first of these has waited.",
            self._each(lambda standing: standing.behind_seconds),
            by_consumer,
        )
        metrics.gauge(
            "laurel.subscription.attempts",
            "{attempt}",
            "Attempts that failed in a row; 0 if the last went well.",
            self._each(lambda standing: standing.attempts),
            by_consumer,
        )
        metrics.gauge(
            "laurel.dead_letters",
            "{event}",
            "Events with which a consumer failed and that wait for somebody to decide.",
            lambda: {(consumer,): number for consumer, number in self._dead.items()},
            by_consumer,
        )
        metrics.gauge(
            "laurel.log.held_back",
            "s",
            "How long an old transaction somewhere in the cluster has kept the log from being read further.",
            lambda: {} if self._held_back is None else {(): self._held_back},
        )

        by_channel = ("channel",)
        metrics.gauge(
            "laurel.deliveries.due",
            "{delivery}",
            "Deliveries that are due and that nobody is at; of one target 10,000 are counted at most.",
            lambda: {(channel,): found.due for channel, found in self._backlog.items()},
            by_channel,
        )
        metrics.gauge(
            "laurel.deliveries.lag",
            "s",
            "How long the first of these has been due.",
            lambda: {(channel,): found.seconds for channel, found in self._backlog.items()},
            by_channel,
        )
        metrics.gauge(
            "laurel.deliveries.dead",
            "{delivery}",
            "Deliveries that were given up and wait for somebody to decide.",
            lambda: {(channel,): found.dead for channel, found in self._backlog.items()},
            by_channel,
        )

    async def look(self) -> None:
        """Bring the figures up to date."""
        if time.monotonic() - self._looked < FRESH_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            async with self._database.connection() as connection:
                self._standings = await subscriptions.standings(connection)
                self._dead = await dead_letters.count_dead(connection)
                self._held_back = await subscriptions.held_back_seconds(connection)
                self._backlog = await deliveries.backlog(connection)
        except (Refused, OSError, asyncpg.PostgresError):
            self._standings, self._dead, self._held_back, self._backlog = [], {}, None, {}

    def _each(self, figure: Callable[[Standing], float]) -> Callable[[], Mapping[Labels, float]]:
        return lambda: {(standing.consumer,): figure(standing) for standing in self._standings}
