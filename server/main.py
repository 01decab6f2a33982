"""One server process: its parts, put together in one place, started and stopped in order."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from typing import Any

import asyncpg
import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server import issuers, secrets
from server.domain.limits import read_limit, read_limits
from server.ending import ended
from server.health import Health
from server.ids import new_id
from server.issuers import IssuersError
from server.operations.audit import Audit
from server.operations.callers import Callers
from server.operations.committer import Committer
from server.operations.credentials import Credentials
from server.operations.hints import Hints, follow
from server.operations.lag import Behind
from server.operations.limits import Limits
from server.operations.live import Live
from server.operations.messages import Messages
from server.operations.programs import Programs
from server.operations.schedules import Lateness
from server.operations.tokens import Tokens
from server.operations.wakeups import WakeUps
from server.operations.watch import Commits
from server.readiness import Readiness
from server.rpc import reflection
from server.rpc.access import declared_scopes
from server.rpc.gate import Gate
from server.rpc.handlers import Methods, UnknownMethods, guarded, methods
from server.rpc.streams import Streams
from server.rpc.watch import Calls
from server.secrets import Secrets, SecretsError
from server.services import build_services
from server.serving import StartError, until_asked
from server.settings import Settings
from server.store.database import Database
from server.store.limits import LimitStore
from server.store.sealing import Sealer
from server.tls import Certificates, Files, TlsError
from server.watch import RedisState, describe
from telemetry.listener import Listener
from telemetry.setup import Telemetry, TelemetryError

# gRPC refuses by itself, without our details, what is larger than this many times the
# limit; up to there the gate does, with details.
HARD_SIZE_FACTOR = 4
CALLS_PER_CONNECTION = 1000
# After the last handler returned: for its reply to leave, and for calls to come in that
# were sent before their client heard of the stop.
QUIET_SECONDS = 2.0
CLOSE_SECONDS = 5.0
REDIS_SECONDS = 0.5

log = structlog.get_logger()


def now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


class Server:
    """The parts of a server and the order in which they start and stop.

    Once started, ``port`` is where it listens, and ``methods`` are the same methods by
    their gRPC paths (``/loyalty.v1.PointsService/Accrue``), for callers in this process.
    ``telemetry`` is what it counts and traces with, its own unless one is given;
    ``ops_port`` is where that can be read, None if nowhere. ``readiness`` says whether calls
    should be sent.
    ``certificates`` are what it shows to clients, None in plaintext.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry | None = None) -> None:
        self.port = 0
        self.ops_port: int | None = None
        self.readiness: Readiness | None = None
        self.telemetry = telemetry
        self.certificates: Certificates | None = None
        self.methods = Methods()
        self._settings = settings
        self._health: Health | None = None
        self._streams = Streams(
            idle_seconds=settings.stream_idle_seconds,
            most=settings.streams,
            most_of_a_credential=settings.streams_per_caller,
        )
        self._committer: Committer | None = None
        self._closing = contextlib.AsyncExitStack()

    async def broken(self) -> None:
        """Return once it can't go on for a fault of ours: it is to be stopped, and started anew."""
        assert self._committer is not None
        await self._committer.broken.wait()

    async def start(self) -> None:
        """Be ready to serve on return. Raises StartError; what had started is stopped again."""
        async with contextlib.AsyncExitStack() as opened:
            await self._open(opened)
            self._closing = opened.pop_all()

    async def announce_stop(self) -> None:
        """Tell balancers that this process stops; it takes calls for ``grace_seconds`` more, then returns."""
        if self.readiness is None or self.readiness.draining:
            return
        self.readiness.draining = True
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.grace_seconds)

    async def end_streams(self) -> None:
        """Let no stream begin any more; wait for those that are open, as long as draining may take."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._streams.stop()

    async def stop(self) -> None:
        """Announce it, then take no more calls, let those under way finish for ``drain_seconds``, and close.

        While somebody else announces it, that is cut short.
        """
        await self.announce_stop()
        await self._closing.aclose()

    async def _open(self, opened: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        try:
            keys = secrets.load(settings.secrets_file)
        except SecretsError as error:
            raise StartError(str(error)) from None
        self.certificates = _open_certificates(settings)
        if self.certificates is not None:
            opened.push_async_callback(ended, [asyncio.create_task(self.certificates.follow())])
        if self.telemetry is None:
            self.telemetry = await _open_telemetry()
            opened.push_async_callback(self.telemetry.close)
        metrics = self.telemetry.metrics
        database = await _open_database(settings)
        opened.push_async_callback(_close_database, database)
        redis = await self._open_redis(opened)
        opened.push_async_callback(Lateness(self.telemetry, database, now).close)
        opened.push_async_callback(RedisState(self.telemetry, redis).close)
        hints = Hints(redis)
        opened.push_async_callback(hints.close)
        self._serve_consumers(opened, self.telemetry, database, redis)
        programs = Programs()
        self.readiness = readiness = Readiness(database, programs)
        opened.push_async_callback(ended, [asyncio.create_task(readiness.load_rules())])
        await self._open_ops(opened, Listener(self.telemetry, readiness.checks))
        commits = Commits(metrics)
        self._committer = committer = Committer(
            database,
            programs,
            keys.ledger,
            now,
            new_id,
            settings.batch_size,
            settings.queue_size,
            watch=commits,
            hints=hints,
        )
        opened.push_async_callback(committer.close)
        readiness.checks["committer"] = committer.check
        opened.push_async_callback(ended, [asyncio.create_task(follow(redis, database, programs))])
        live = Live(database, programs, redis, now, messages=Messages(database, Sealer(keys), now))
        opened.push_async_callback(live.close)
        credentials = Credentials(database, now, settings.credential_cache_seconds)
        opened.push_async_callback(credentials.close)
        limits = Limits(
            LimitStore(redis),
            read_limits(settings.credential_limits),
            read_limits(settings.member_limits),
            read_limit(settings.failure_limit),
        )
        opened.push_async_callback(limits.close)
        tokens = self._open_tokens(opened, database, keys)
        gate = Gate(
            Callers(credentials, tokens) if tokens else credentials,
            Audit(database, now),
            limits,
            streams=self._streams,
            default_deadline=settings.default_deadline_seconds,
            max_deadline=settings.max_deadline_seconds,
            max_message_bytes=settings.max_message_bytes,
            recheck_seconds=settings.credential_cache_seconds,
        )
        services = build_services(
            database,
            redis,
            hints,
            live,
            keys,
            programs,
            committer,
            gate,
            metrics,
            now,
            webhook_loopback=settings.webhook_loopback,
        )
        calls = Calls(metrics, self.telemetry.tracing, settings.access_log, settings.slow_call_seconds)
        verifiers: dict[str, Credentials | Tokens] = {"key": credentials}
        if tokens is not None:
            verifiers["token"] = tokens
        describe(metrics, database, verifiers, self.certificates)
        await self._listen(opened, gate, calls, services)
        readiness.serving = True

    def _serve_consumers(
        self,
        opened: contextlib.AsyncExitStack,
        telemetry: Telemetry,
        database: Database,
        redis: Redis,
    ) -> None:
        """Wake those who follow the event log after each commit, and tell how far behind they are."""
        wake_ups = WakeUps(redis)
        database.committed = wake_ups.ring
        opened.push_async_callback(ended, [asyncio.create_task(wake_ups.run())])
        telemetry.refreshers.append(Behind(telemetry.metrics, database).look)

    def _open_tokens(
        self, opened: contextlib.AsyncExitStack, database: Database, keys: Secrets
    ) -> Tokens | None:
        """The verifier of people's tokens, where issuers are configured."""
        try:
            trusted = issuers.load(self._settings, declared_scopes())
        except IssuersError as error:
            raise StartError(str(error)) from None
        if not trusted:
            return None
        seconds = self._settings.credential_cache_seconds
        tokens = Tokens(database, Sealer(keys), trusted, declared_scopes(), seconds)
        opened.push_async_callback(tokens.close)
        return tokens

    async def _listen(
        self,
        opened: contextlib.AsyncExitStack,
        gate: Gate,
        calls: Calls,
        services: dict[ServiceDescriptor, object],
    ) -> None:
        settings = self._settings
        server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", HARD_SIZE_FACTOR * settings.max_message_bytes),
                ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION),
            )
        )
        for service, servicer in services.items():
            behind = calls.methods(service.full_name, methods(service, servicer, gate))
            server.add_generic_rpc_handlers([guarded(service, behind)])
            self.methods.add(service.full_name, behind)
        self._health = status = Health()
        health_pb2_grpc.add_HealthServicer_to_server(status, server)
        names = [service.full_name for service in services]
        reflection.enable([*names, health.SERVICE_NAME], server)
        server.add_generic_rpc_handlers([UnknownMethods()])
        try:
            place = f"{settings.host}:{settings.port}"
            if self.certificates is None:
                self.port = server.add_insecure_port(place)
            else:
                self.port = server.add_secure_port(place, self.certificates.credentials())
        except RuntimeError:
            raise StartError(
                f"can't listen on {settings.host}:{settings.port}; is the address this machine's "
                "and the port free? LAUREL_HOST and LAUREL_PORT name others"
            ) from None
        opened.push_async_callback(self._drain, server, gate, status)
        await server.start()
        for name in names:
            await status.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def _drain(self, server: grpc.aio.Server, gate: Gate, status: Health) -> None:
        stopping = asyncio.create_task(server.stop(self._settings.drain_seconds))
        ending = asyncio.create_task(self.end_streams())
        status.end_watches()
        # That ends when the last stream does. A client that keeps one open without need
        # must not hold it back, once nothing has come in from others for a while.
        while not stopping.done():
            await _either(stopping, gate.idle())
            await asyncio.wait([stopping], timeout=QUIET_SECONDS)
            if not gate.under_way:
                break
        log.info("drained", cut_off=gate.under_way)
        await ended([ending])
        await server.stop(None)
        await stopping

    async def _open_ops(self, opened: contextlib.AsyncExitStack, listener: Listener) -> None:
        settings = self._settings
        if settings.ops_port is None:
            return
        try:
            await listener.open(settings.ops_host, settings.ops_port)
        except OSError as error:
            raise StartError(
                f"can't listen on {settings.ops_host}:{settings.ops_port} for /readyz and /metrics "
                f"({error.strerror}); LAUREL_OPS_PORT names another port, 0 for a free one, empty for none"
            ) from None
        opened.push_async_callback(listener.close)
        self.ops_port = listener.port

    async def _open_redis(self, opened: contextlib.AsyncExitStack) -> Redis:
        """A client of Redis. If that is away, say so; everything works without it, some of it later."""
        url = self._settings.redis_url.get_secret_value()
        try:
            client: Redis = Redis.from_url(
                url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
            )
        except ValueError:
            raise StartError("LAUREL_REDIS_URL is no URL such as redis://host:6379/0") from None
        opened.push_async_callback(client.aclose)
        try:
            await client.ping()
        except (RedisError, OSError) as error:
            log.warning("redis_unreachable", error=type(error).__name__)
        return client


def _open_certificates(settings: Settings) -> Certificates | None:
    try:
        files = Files.named(settings.tls_certificate_file, settings.tls_key_file, settings.tls_client_ca_file)
        return None if files is None else Certificates(files)
    except TlsError as error:
        raise StartError(str(error)) from None


async def _open_database(settings: Settings) -> Database:
    try:
        return await Database.open(settings.database_url.get_secret_value(), settings.database_connections)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StartError(
            f"the database of LAUREL_DATABASE_URL can't be opened ({type(error).__name__}); "
            "is it running, and do address, user and password fit?"
        ) from None


async def _open_telemetry() -> Telemetry:
    try:
        return await Telemetry.start()
    except TelemetryError as error:
        raise StartError(str(error)) from None


async def _either(task: asyncio.Task[None], other: Coroutine[Any, Any, None]) -> None:
    """Wait for the first of them; the other is ended with the wait."""
    waiting = asyncio.create_task(other)
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _close_database(database: Database) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await database.close()
    except TimeoutError:
        database.terminate()


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """A server for as long as the block lasts."""
    server = Server(settings)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. One JSON line on standard output tells of the port.

    Raises StartError, and Broken if it can't go on.
    """
    async with running(settings) as server:
        places = {"host": settings.host, "port": server.port, "ops_port": server.ops_port}
        await until_asked(places, server.broken())
        log.info("stopping", grace_seconds=settings.grace_seconds, drain_seconds=settings.drain_seconds)
