"""The record of who of the staff saw whose data. Rows are never changed."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from server.domain.actor import Actor
from server.store.database import Connection


async def insert(
    connection: Connection,
    audit_id: UUID,
    actor: Actor,
    *,
    method: str,
    member_ids: Sequence[UUID],
    recorded_at: datetime,
) -> None:
    """One access to the data of one or more members."""
    await connection.execute(
        """INSERT INTO access_audit
               (audit_id, program_id, credential_id, actor, method, member_ids, recorded_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7)""",
        audit_id,
        actor.program_id,
        actor.credential_id,
        actor.label,
        method,
        list(member_ids),
        recorded_at,
    )
