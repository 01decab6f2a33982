"""The figures that the parts of a server know anyway, as metrics."""

import asyncio
from collections.abc import Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.operations.credentials import Credentials
from server.operations.tokens import Tokens
from server.store.database import Database
from server.tls import Certificates
from telemetry.metrics import Labels, Metrics
from telemetry.setup import Telemetry


class RedisState:
    """Whether Redis answers, asked each time that somebody reads the metrics."""

    def __init__(self, telemetry: Telemetry, redis: Redis) -> None:
        self._redis = redis
        self._up = False
        self._open = True
        self._asking = asyncio.Lock()
        telemetry.refreshers.append(self._ask)
        telemetry.metrics.gauge(
            "laurel.redis.up", "1", "1 if Redis answers, else 0.", lambda: {(): int(self._up)}
        )

    async def close(self) -> None:
        """Ask no more; to be called before the client is closed, which asking would open again."""
        async with self._asking:
            self._open = self._up = False

    async def _ask(self) -> None:
        async with self._asking:
            if not self._open:
                return
            try:
                await self._redis.ping()
            except (RedisError, OSError):
                self._up = False
            else:
                self._up = True


def describe(
    metrics: Metrics,
    database: Database,
    verifiers: Mapping[str, Credentials | Tokens],
    certificates: Certificates | None,
) -> None:
    """Add the pool of connections, the memory of each verifier and the certificate in use."""

    def connections() -> Mapping[Labels, float]:
        used, idle, _ = database.count()
        return {("used",): used, ("idle",): idle}

    def known() -> Mapping[Labels, float]:
        counted: dict[Labels, float] = {}
        for kind, verifier in verifiers.items():
            counted[kind, "good"], counted[kind, "bad"] = verifier.count()
        return counted

    def verified() -> Mapping[Labels, float]:
        counted: dict[Labels, float] = {}
        for kind, verifier in verifiers.items():
            counted[kind, "memory"], counted[kind, "lookup"] = verifier.hits, verifier.lookups
        return counted

    metrics.gauge(
        "db.client.connection.count",
        "{connection}",
        "Connections to PostgreSQL, by state.",
        connections,
        ("db_client_connection_state",),
    )
    metrics.gauge(
        "db.client.connection.max",
        "{connection}",
        "As many connections may be open.",
        lambda: {(): database.count()[2]},
    )
    metrics.gauge(
        "db.client.connection.pending_requests",
        "{request}",
        "Those who wait for a connection.",
        lambda: {(): database.waiting},
    )
    metrics.gauge(
        "laurel.tls.certificate.expiry",
        "s",
        "When the certificate in use expires, in seconds since 1970; nothing in plaintext.",
        lambda: {} if certificates is None else {(): certificates.expires_at.timestamp()},
    )
    metrics.gauge(
        "laurel.credentials.known",
        "{credential}",
        "Keys and tokens remembered as good or bad.",
        known,
        ("kind", "state"),
    )
    metrics.gauge(
        "laurel.credentials.verified",
        "{call}",
        "Keys and tokens verified, from memory or by looking them up.",
        verified,
        ("kind", "source"),
        kind="counter",
    )
