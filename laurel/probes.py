"""What PostgreSQL and Redis say about themselves."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import redis
from cryptography import x509

OLDEST_POSTGRES = 15
OLDEST_REDIS = (6, 2)
SECONDS = 5.0
# With less data, whatever PostgreSQL was given is enough.
LARGE_BYTES = 4 * 2**30
# A quarter of the data is touched by purchases; with less than a third of that in PostgreSQL's own memory it
# passes pages to the system and back all the time.
LEAST_SHARE = 1 / 12
# Fewer tell nothing.
LEAST_CHECKPOINTS = 20


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """``version`` as people write it; ``skew_seconds``: how far its clock is ahead of ours.

    ``room``: what it has for how much.
    """

    version: str
    major: int
    skew_seconds: float
    durable: bool
    room: "Room"


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of data and of PostgreSQL's own memory; how many checkpoints the clock began, and what else."""

    data: int
    buffers: int
    timed: int
    requested: int

    def lacks(self) -> Iterator[str]:
        """Which settings are too small for a ledger of this size, each with what shows it."""
        if self.data < LARGE_BYTES:
            return
        if self.buffers < self.data * LEAST_SHARE:
            yield f"shared_buffers of {self.buffers / 2**30:.1f} GB for {self.data / 2**30:.0f} GB of data"
        number = self.timed + self.requested
        if self.requested > self.timed and number >= LEAST_CHECKPOINTS:
            yield f"max_wal_size: {self.requested:,} of {number:,} checkpoints came before their time"


def postgres_facts(url: str) -> PostgresFacts:
    """Ask PostgreSQL. Raises what asyncpg raises."""
    return asyncio.run(_postgres_facts(url))


def redis_version(url: str) -> str:
    """Ask Redis. Raises redis.RedisError."""
    client = redis.Redis.from_url(url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS)
    try:
        facts: Any = client.info("server")
        return str(facts["redis_version"])
    finally:
        client.close()


def certificate_expiry(address: str) -> datetime:
    """When the certificate expires that a gRPC server shows. Raises OSError; checks nothing else."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS) as connection,
        context.wrap_socket(connection) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    if shown is None:
        raise OSError("the server shows no certificate")
    return x509.load_der_x509_certificate(shown).not_valid_after_utc


def is_redis_new_enough(version: str) -> bool:
    """Whether Laurel works with it."""
    return tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_REDIS


# By whether checkpoints have a view of their own.
_ROOM = {
    own: f"""SELECT pg_database_size(current_database()), pg_size_bytes(current_setting('shared_buffers')),
                    {timed}, {requested} FROM {view}"""
    for own, timed, requested, view in (
        (True, "num_timed", "num_requested", "pg_stat_checkpointer"),
        (False, "checkpoints_timed", "checkpoints_req", "pg_stat_bgwriter"),
    )
}


async def _postgres_facts(url: str) -> PostgresFacts:
    connection = await asyncpg.connect(url, timeout=SECONDS)
    try:
        asked = datetime.now(UTC)
        [row] = await connection.fetch(
            """SELECT clock_timestamp() AS now, current_setting('server_version') AS version,
                      current_setting('server_version_num')::int / 10000 AS major,
                      current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off'
                      AND current_setting('full_page_writes') = 'on' AS durable"""
        )
        answered = datetime.now(UTC)
        [room] = await connection.fetch(_ROOM[row["major"] >= 17])
    finally:
        await connection.close()
    halfway = asked + (answered - asked) / 2
    return PostgresFacts(
        row["version"].split(" ")[0],
        row["major"],
        (row["now"] - halfway).total_seconds(),
        row["durable"],
        Room(*room),
    )
