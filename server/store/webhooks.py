"""Where partners hear of what happened: endpoints, and their secrets, sealed."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from server.domain.webhooks import CHANNEL, Endpoint, EndpointStatus
from server.store.database import Connection
from server.store.sealing import WrappedKey
from server.store.together import Question

COLUMNS = """program_id, endpoint_id, url, description, event_types, status, disabled_reason, failing_since,
             created_at, created_by"""
NAMES = COLUMNS.replace(",", "").split()


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that signs until ``expires_at``; for ever if None."""

    secret_id: UUID
    key: WrappedKey
    created_at: datetime
    expires_at: datetime | None


async def insert(connection: Connection, endpoint: Endpoint) -> None:
    """Add an endpoint."""
    await connection.execute(
        f"INSERT INTO webhook_endpoint ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        endpoint.program_id,
        endpoint.endpoint_id,
        endpoint.url,
        endpoint.description,
        list(endpoint.event_types),
        str(endpoint.status),
        endpoint.disabled_reason,
        endpoint.failing_since,
        endpoint.created_at,
        endpoint.created_by,
    )


async def get(
    connection: Connection, program_id: UUID, endpoint_id: UUID, *, lock: bool = False
) -> Endpoint | None:
    """The endpoint, None if there is none or it was removed. ``lock``: until the transaction ends."""
    row = await connection.fetchrow(
        f"""SELECT {COLUMNS} FROM webhook_endpoint
             WHERE program_id = $1 AND endpoint_id = $2 AND status <> 'removed'
                   {"FOR UPDATE" if lock else ""}""",
        program_id,
        endpoint_id,
    )
    return None if row is None else _endpoint(row)


async def was_made(connection: Connection, program_id: UUID, endpoint_id: UUID) -> bool:
    """Whether there is such an endpoint, or was before it was removed."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM webhook_endpoint WHERE program_id = $1 AND endpoint_id = $2)",
        program_id,
        endpoint_id,
    )
    return found


async def page(connection: Connection, program_id: UUID, after: UUID | None, size: int) -> list[Endpoint]:
    """At most ``size`` endpoints after that id, oldest first."""
    rows = await connection.fetch(
        f"""SELECT {COLUMNS} FROM webhook_endpoint
             WHERE program_id = $1 AND status <> 'removed' AND ($2::uuid IS NULL OR endpoint_id > $2)
             ORDER BY endpoint_id LIMIT $3""",
        program_id,
        after,
        size,
    )
    return [_endpoint(row) for row in rows]


async def count(connection: Connection, program_id: UUID) -> int:
    """How many a program has."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM webhook_endpoint WHERE program_id = $1 AND status <> 'removed'", program_id
    )
    return found


async def enabled(connection: Connection, programs: Collection[UUID]) -> list[Endpoint]:
    """The endpoints of these programs that are called."""
    rows = await connection.fetch(
        f"SELECT {COLUMNS} FROM webhook_endpoint WHERE program_id = ANY($1) AND status = 'enabled'",
        list(programs),
    )
    return [_endpoint(row) for row in rows]


async def set_status(
    connection: Connection, program_id: UUID, endpoint_id: UUID, status: EndpointStatus, reason: str = ""
) -> bool:
    """Change it, and begin to count failures anew; False if it is that already, was removed or never was."""
    done: str = await connection.execute(
        """UPDATE webhook_endpoint SET status = $3, disabled_reason = $4, failing_since = NULL
            WHERE program_id = $1 AND endpoint_id = $2 AND status NOT IN ($3, 'removed')""",
        program_id,
        endpoint_id,
        str(status),
        reason,
    )
    return done != "UPDATE 0"


async def set_failing(
    connection: Connection, program_id: UUID, endpoint_id: UUID, since: datetime | None
) -> None:
    """Note the first failure after a success, or a success (None)."""
    await connection.execute(
        """UPDATE webhook_endpoint
              SET failing_since = CASE WHEN $3::timestamptz IS NOT NULL THEN coalesce(failing_since, $3) END
            WHERE program_id = $1 AND endpoint_id = $2""",
        program_id,
        endpoint_id,
        since,
    )


async def secrets(connection: Connection, program_id: UUID, endpoint_id: UUID) -> list[Secret]:
    """The endpoint's secrets, the newest first, those that have expired too."""
    rows = await connection.fetch(
        """SELECT secret_id, master_key_id, sealed, created_at, expires_at FROM webhook_secret
            WHERE program_id = $1 AND endpoint_id = $2 ORDER BY secret_id DESC""",
        program_id,
        endpoint_id,
    )
    return [Secret(row[0], WrappedKey(row[1], row[2]), row[3], row[4]) for row in rows]


def to_call(program_id: UUID, endpoint_id: UUID) -> tuple[Question[Endpoint | None], Question[list[Secret]]]:
    """The endpoint as ``get`` gives it, and its secrets as ``secrets`` does."""
    names = (program_id, endpoint_id)
    return (
        Question(
            f"""SELECT ROW({COLUMNS}) FROM webhook_endpoint
                 WHERE program_id = $1 AND endpoint_id = $2 AND status <> 'removed'""",
            names,
            lambda rows: _endpoint(dict(zip(NAMES, rows[0], strict=True))) if rows else None,
        ),
        Question(
            """SELECT ROW(secret_id, master_key_id, sealed, created_at, expires_at) FROM webhook_secret
                WHERE program_id = $1 AND endpoint_id = $2 ORDER BY secret_id DESC""",
            names,
            lambda rows: [Secret(row[0], WrappedKey(row[1], row[2]), row[3], row[4]) for row in rows],
        ),
    )


async def add_secret(connection: Connection, program_id: UUID, endpoint_id: UUID, secret: Secret) -> None:
    """Add a secret, which is in use from now on."""
    await connection.execute(
        """INSERT INTO webhook_secret (program_id, endpoint_id, secret_id, master_key_id, sealed, created_at,
                                       expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)""",
        program_id,
        endpoint_id,
        secret.secret_id,
        secret.key.master_key_id,
        secret.key.wrapped,
        secret.created_at,
        secret.expires_at,
    )


async def expire_secrets(
    connection: Connection, program_id: UUID, endpoint_id: UUID, at: datetime, now: datetime, keep: int
) -> None:
    """Let every secret sign until ``at`` at the latest; drop the expired, and all but the newest ``keep``."""
    await connection.execute(
        """UPDATE webhook_secret SET expires_at = least(expires_at, $3)
            WHERE program_id = $1 AND endpoint_id = $2""",
        program_id,
        endpoint_id,
        at,
    )
    await connection.execute(
        """DELETE FROM webhook_secret WHERE program_id = $1 AND endpoint_id = $2
              AND (expires_at <= $3 OR secret_id NOT IN (
                   SELECT secret_id FROM webhook_secret WHERE program_id = $1 AND endpoint_id = $2
                    ORDER BY secret_id DESC LIMIT $4))""",
        program_id,
        endpoint_id,
        now,
        keep,
    )


async def remove(connection: Connection, program_id: UUID, endpoint_id: UUID) -> None:
    """Forget its secrets, and discard what was to be sent to it."""
    await connection.execute(
        "DELETE FROM webhook_secret WHERE program_id = $1 AND endpoint_id = $2", program_id, endpoint_id
    )
    await connection.execute(
        """UPDATE delivery SET status = 'discarded', token = token + 1, finished_at = now()
            WHERE program_id = $1 AND target = $2 AND status = 'pending'""",
        program_id,
        target_of(endpoint_id),
    )


def target_of(endpoint_id: UUID) -> str:
    """What deliveries to the endpoint have as their target."""
    return f"{CHANNEL}:{endpoint_id}"


def _endpoint(row: Any) -> Endpoint:
    return Endpoint(
        **{
            **row,
            "event_types": tuple(row["event_types"]),
            "status": EndpointStatus(row["status"]),
        }
    )
