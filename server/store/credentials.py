"""Credentials as stored: of a secret only its hash."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from server.domain.actor import CallerKind
from server.store.database import Connection

COLUMNS = """credential_id, program_id, kind, name, source_system, store, scopes, secret_hash,
             created_at, expires_at, revoked_at"""


@dataclass(frozen=True, slots=True)
class Credential:
    """An API key without its secret. ``expires_at`` is None for never."""

    credential_id: UUID
    program_id: UUID
    kind: CallerKind
    name: str
    source_system: str
    store: str
    scopes: frozenset[str]
    secret_hash: bytes = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


async def insert(connection: Connection, credential: Credential) -> bool:
    """Add it; False if the program has another one of that name in force."""
    try:
        await connection.execute(
            f"INSERT INTO credential ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            credential.credential_id,
            credential.program_id,
            str(credential.kind),
            credential.name,
            credential.source_system,
            credential.store,
            sorted(credential.scopes),
            credential.secret_hash,
            credential.created_at,
            credential.expires_at,
            credential.revoked_at,
        )
    except asyncpg.UniqueViolationError:
        return False
    return True


async def get(connection: Connection, credential_id: UUID) -> Credential | None:
    """The credential of that id, None if there is none."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM credential WHERE credential_id = $1", credential_id
    )
    return None if row is None else _credential(row)


async def of_program(connection: Connection, program_id: UUID) -> Sequence[Credential]:
    """All credentials of a program, the revoked too, oldest first."""
    rows = await connection.fetch(
        f"SELECT {COLUMNS} FROM credential WHERE program_id = $1 ORDER BY created_at, credential_id",
        program_id,
    )
    return [_credential(row) for row in rows]


async def revoke(connection: Connection, program_id: UUID, name: str, now: datetime) -> Credential | None:
    """Take the one in force of that name out of force; None if there is none."""
    row = await connection.fetchrow(
        f"""UPDATE credential SET revoked_at = $3
             WHERE program_id = $1 AND name = $2 AND revoked_at IS NULL RETURNING {COLUMNS}""",
        program_id,
        name,
        now,
    )
    return None if row is None else _credential(row)


def _credential(row: Any) -> Credential:
    return Credential(
        credential_id=row["credential_id"],
        program_id=row["program_id"],
        kind=CallerKind(row["kind"]),
        name=row["name"],
        source_system=row["source_system"],
        store=row["store"],
        scopes=frozenset(row["scopes"]),
        secret_hash=row["secret_hash"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
