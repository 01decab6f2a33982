"""Rules in versions, the set in force, and the registered types of event."""

import json
from typing import Any
from uuid import UUID

from server.store.database import Connection


async def active(connection: Connection, program_id: UUID) -> list[tuple[int, dict[str, Any]]]:
    """The rules in force, by name: version and definition of each."""
    rows = await connection.fetch(
        """SELECT r.version, r.definition
             FROM (SELECT rules FROM rule_set WHERE program_id = $1 ORDER BY revision DESC LIMIT 1) AS latest
            CROSS JOIN LATERAL jsonb_each_text(latest.rules) AS chosen(name, version)
             JOIN rule r ON r.program_id = $1 AND r.name = chosen.name AND r.version = chosen.version::bigint
            ORDER BY r.name""",
        program_id,
    )
    return [(row["version"], json.loads(row["definition"])) for row in rows]


async def event_types(connection: Connection, program_id: UUID) -> dict[str, dict[str, str]]:
    """The registered types by name, each with its attributes: name -> string, number or boolean."""
    rows = await connection.fetch(
        "SELECT name, attributes FROM event_type WHERE program_id = $1 ORDER BY name", program_id
    )
    return {row["name"]: json.loads(row["attributes"]) for row in rows}
