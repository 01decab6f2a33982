"""One worker process: its parts, started and stopped in order."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import structlog
from redis.asyncio import Redis

import migrations
from server import logs, secrets
from server.domain.errors import Refused
from server.ending import ended
from server.ids import new_id
from server.operations.hints import Hints
from server.operations.schedules import Lateness
from server.operations.watch import Commits
from server.secrets import Secrets, SecretsError
from server.serving import StartError, until_asked
from server.store import migrations as migration_store
from server.store.channels import say_open
from server.store.database import Database
from server.store.log import LoggedEvent
from server.store.sealing import Sealer
from telemetry.listener import Listener
from telemetry.setup import Telemetry, TelemetryError
from workers.channels import CHANNELS, keep_saying, open_channels
from workers.deliveries import Deliveries, Pace
from workers.jobs import Jobs
from workers.means import Channel, Means
from workers.projections import daily_figures, history, member_summary
from workers.projections.member_summary import MemberSummaries
from workers.relay import Relay
from workers.scheduler import Scheduler
from workers.schedules import open_schedules
from workers.settings import WorkerSettings
from workers.subscriptions import NOTIFICATIONS, SUBSCRIPTIONS, Subscription, in_redis
from workers.watch import Watch

SERVICE = "laurel-worker"
CLOSE_SECONDS = 5.0
REDIS_SECONDS = 2.0
# What is done by the clock is gone on with by another worker, so a stop needn't wait for its end.
HAND_OVER_SECONDS = 2.0

log = structlog.get_logger()


def now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


class Process:
    """The parts of a worker. Once started, ``ops_port`` is where it tells of itself, None if nowhere.

    ``broken`` is set when a part ended that never should: then the process is to end, and be started anew.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        subscriptions: Mapping[str, Subscription] = SUBSCRIPTIONS,
        channels: Mapping[str, Channel] = CHANNELS,
        pace: Pace | None = None,
    ) -> None:
        self.ops_port: int | None = None
        self.broken = asyncio.Event()
        self._settings = settings
        self._subscriptions = subscriptions
        self._channels = channels
        self._pace = pace
        self._closing = contextlib.AsyncExitStack()
        self._stopping = False

    async def start(self) -> None:
        """Be at work on return. Raises StartError; what had started is stopped again."""
        async with contextlib.AsyncExitStack() as opened:
            await self._open(opened)
            self._closing = opened.pop_all()

    async def stop(self) -> None:
        """Begin nothing more, let what is under way finish for ``worker_drain_seconds``, and close."""
        self._stopping = True
        await self._closing.aclose()

    async def _open(self, opened: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        try:
            keys = secrets.load(settings.secrets_file)
            telemetry = await Telemetry.start(SERVICE)
        except (SecretsError, TelemetryError) as error:
            raise StartError(str(error)) from None
        opened.push_async_callback(telemetry.close)
        database = await _open_database(settings)
        opened.push_async_callback(_close_database, database)
        redis = _open_redis(settings)
        opened.push_async_callback(redis.aclose)
        hints = Hints(redis)
        opened.push_async_callback(hints.close)
        summaries = MemberSummaries(redis, now)
        holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        relay = Relay(
            database,
            {**self._subscriptions, **in_redis(summaries)},
            holder,
            new_id,
            Watch(telemetry.metrics),
            settings.worker_lease_seconds,
            handled=partial(_hint, hints),
        )
        means = Means(database, Sealer(keys), settings, now)
        channels = await open_channels(means, opened, self._channels)
        # Before the log is read here: what is made of it depends on what is open.
        await _say_open(database, channels)
        opened.push_async_callback(ended, [asyncio.create_task(keep_saying(database, list(channels)))])
        deliveries = Deliveries(database, channels, pace=self._pace, metrics=telemetry.metrics)

        def committed() -> None:
            relay.wake()
            deliveries.wake()

        database.committed = committed
        opened.push_async_callback(ended, [asyncio.create_task(summaries.keep(database))])
        drain = settings.worker_drain_seconds
        self._begin(opened, _both(relay.stop(drain), deliveries.stop(drain)), relay.run(), deliveries.run())
        self._open_schedules(opened, database, hints, summaries, keys, telemetry, holder)
        jobs = Jobs(settings.redis_url.get_secret_value(), relay)
        self._begin(opened, jobs.stop(), jobs.run())
        await self._open_ops(opened, telemetry, database, relay)

    def _begin(
        self,
        opened: contextlib.AsyncExitStack,
        stop: Coroutine[Any, Any, None],
        *works: Coroutine[Any, Any, None],
    ) -> None:
        """Have something done until the process stops; ``stop`` lets all of it finish."""
        tasks = [asyncio.create_task(work) for work in works]
        for task in tasks:
            task.add_done_callback(self._ended)

        async def end() -> None:
            for task in tasks:
                task.remove_done_callback(self._ended)
            await stop
            await asyncio.gather(*tasks, return_exceptions=True)

        opened.push_async_callback(end)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._stopping:
            return
        fault = None if task.cancelled() else task.exception()
        log.error("worker_broken", **({} if fault is None else logs.describe(fault)))
        self.broken.set()

    def _open_schedules(
        self,
        opened: contextlib.AsyncExitStack,
        database: Database,
        hints: Hints,
        summaries: MemberSummaries,
        keys: Secrets,
        telemetry: Telemetry,
        holder: str,
    ) -> None:
        """Do what is done by the clock. Raises StartError."""
        settings = self._settings
        projections = daily_figures.Build(), history.Build(), member_summary.Build(summaries)
        try:
            wanted = open_schedules(
                settings, keys, database, hints, Commits(telemetry.metrics), now, projections
            )
        except SecretsError as error:
            raise StartError(str(error)) from None
        scheduler = Scheduler(database, wanted, now, holder, telemetry.metrics, settings.worker_lease_seconds)
        opened.push_async_callback(Lateness(telemetry, database, now).close)
        patience = min(HAND_OVER_SECONDS, settings.worker_drain_seconds)
        self._begin(opened, scheduler.stop(patience), scheduler.run())

    async def _open_ops(
        self, opened: contextlib.AsyncExitStack, telemetry: Telemetry, database: Database, relay: Relay
    ) -> None:
        settings = self._settings
        if settings.worker_ops_port is None:
            return

        async def database_answers() -> str:
            try:
                async with database.connection() as connection:
                    await connection.execute("SELECT 1")
            except Exception:  # noqa: BLE001 - whatever it is, it doesn't answer
                return "can't be reached"
            return ""

        async def log_is_read() -> str:
            return relay.trouble

        listener = Listener(telemetry, {"database": database_answers, "log": log_is_read})
        try:
            await listener.open(settings.worker_ops_host, settings.worker_ops_port)
        except OSError as error:
            raise StartError(
                f"can't listen on {settings.worker_ops_host}:{settings.worker_ops_port} for /readyz and "
                f"/metrics ({error.strerror}); LAUREL_WORKER_OPS_PORT names another port, 0 for a free one, "
                "empty for none"
            ) from None
        opened.push_async_callback(listener.close)
        self.ops_port = listener.port


def _hint(hints: Hints, consumer: str, events: Sequence[LoggedEvent]) -> None:
    """Whom there may be a message for by now: their streams look. Messages leave the version as it is."""
    if consumer == NOTIFICATIONS:
        for event in events:
            hints.changed(event.program_id, event.member_id, 0)


async def _open_database(settings: WorkerSettings) -> Database:
    try:
        return await Database.open(
            settings.database_url.get_secret_value(),
            settings.worker_database_connections,
            application_name="laurel-worker",
        )
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StartError(
            f"the database of LAUREL_DATABASE_URL can't be opened ({type(error).__name__}); "
            "is it running, and do address, user and password fit?"
        ) from None


async def _say_open(database: Database, channels: Collection[str]) -> None:
    try:
        async with database.connection() as connection:
            applied = await migration_store.applied(connection)
            if applied.issuperset(migrations.ids()):
                await say_open(connection, channels)
                return
    except (Refused, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StartError(
            f"the database of LAUREL_DATABASE_URL doesn't answer any more ({type(error).__name__}); "
            "is it running?"
        ) from None
    # A consumer that lacks its tables would bury all that happened, event by event.
    raise StartError("the database is behind this Laurel; run `laurel migrate`")


def _open_redis(settings: WorkerSettings) -> Redis:
    """A client of Redis, which may be away. Raises StartError."""
    try:
        client: Redis = Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
        )
    except ValueError:
        raise StartError("LAUREL_REDIS_URL is no URL such as redis://host:6379/0") from None
    return client


async def _close_database(database: Database) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await database.close()
    except TimeoutError:
        database.terminate()


async def _both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    await asyncio.gather(one, other)


@contextlib.asynccontextmanager
async def running(
    settings: WorkerSettings,
    subscriptions: Mapping[str, Subscription] = SUBSCRIPTIONS,
    channels: Mapping[str, Channel] = CHANNELS,
    pace: Pace | None = None,
) -> AsyncIterator[Process]:
    """A worker for as long as the block lasts."""
    process = Process(settings, subscriptions, channels, pace)
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


async def work(
    settings: WorkerSettings,
    subscriptions: Mapping[str, Subscription] = SUBSCRIPTIONS,
    channels: Mapping[str, Channel] = CHANNELS,
    pace: Pace | None = None,
) -> None:
    """Work until SIGTERM or SIGINT. One JSON line on standard output tells that it has begun.

    Raises Broken if a part of it ends by itself.
    """
    async with running(settings, subscriptions, channels, pace) as process:
        await until_asked({"ops_port": process.ops_port}, process.broken.wait())
        log.info("stopping", drain_seconds=settings.worker_drain_seconds)
