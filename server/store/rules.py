"""Rules in versions, the set in force, and the registered types of event."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
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


@dataclass(frozen=True, slots=True)
class StoredRule:
    """One version of a rule; ``active`` if it is the one in force."""

    name: str
    version: int
    definition: Mapping[str, Any]
    created_at: datetime
    actor: str
    active: bool


@dataclass(frozen=True, slots=True)
class EventType:
    """A registered type of event; ``attributes`` name -> string, number or boolean."""

    name: str
    attributes: Mapping[str, str]
    description: str


# Beside each version whether it is in force.
_RULES = """SELECT r.name, r.version, r.definition, r.created_at, r.actor,
                   coalesce((in_force.rules ->> r.name)::bigint = r.version, false) AS active
              FROM rule r
              LEFT JOIN (SELECT rules FROM rule_set WHERE program_id = $1 ORDER BY revision DESC LIMIT 1)
                        AS in_force ON true"""


async def in_force(connection: Connection, program_id: UUID) -> dict[str, int]:
    """Which version of each rule is in force."""
    rules = await connection.fetchval(
        "SELECT rules FROM rule_set WHERE program_id = $1 ORDER BY revision DESC LIMIT 1", program_id
    )
    return {} if rules is None else json.loads(rules)


async def get(connection: Connection, program_id: UUID, name: str, version: int = 0) -> StoredRule | None:
    """One version of a rule, the latest if 0; None if there is none."""
    row = await connection.fetchrow(
        f"""{_RULES} WHERE r.program_id = $1 AND r.name = $2 AND ($3::bigint = 0 OR r.version = $3)
            ORDER BY r.version DESC LIMIT 1""",
        program_id,
        name,
        version,
    )
    return None if row is None else _rule(row)


async def page(
    connection: Connection, program_id: UUID, *, active_only: bool, after: str, size: int
) -> list[StoredRule]:
    """By name from ``after`` on: the versions in force, or the latest version of every rule."""
    chosen = (
        "in_force.rules ->> r.name = r.version::text"
        if active_only
        else """NOT EXISTS (SELECT FROM rule newer WHERE newer.program_id = $1
                               AND newer.name = r.name AND newer.version > r.version)"""
    )
    rows = await connection.fetch(
        f'{_RULES} WHERE r.program_id = $1 AND r.name > $2 COLLATE "C" AND {chosen}'
        ' ORDER BY r.name COLLATE "C" LIMIT $3',
        program_id,
        after,
        size,
    )
    return [_rule(row) for row in rows]


async def versions(
    connection: Connection, program_id: UUID, wanted: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], dict[str, Any]]:
    """The definitions of these versions, without those that don't exist."""
    rows = await connection.fetch(
        """SELECT name, version, definition
             FROM unnest($2::text[], $3::bigint[]) AS wanted(name, version)
             JOIN rule USING (name, version) WHERE program_id = $1""",
        program_id,
        [name for name, _ in wanted],
        [version for _, version in wanted],
    )
    return {(row["name"], row["version"]): json.loads(row["definition"]) for row in rows}


async def names_among(connection: Connection, program_id: UUID, names: Sequence[str]) -> set[str]:
    """Which of these are names of rules."""
    rows = await connection.fetch(
        "SELECT DISTINCT name FROM rule WHERE program_id = $1 AND name = ANY($2::text[])", program_id, names
    )
    return {row["name"] for row in rows}


async def add_version(connection: Connection, program_id: UUID, rule: StoredRule) -> None:
    """Store a version. The caller holds the lock of the program's drafts, so it is the next."""
    await connection.execute(
        """INSERT INTO rule (program_id, name, version, definition, created_at, actor)
           VALUES ($1, $2, $3, $4, $5, $6)""",
        program_id,
        rule.name,
        rule.version,
        json.dumps(rule.definition),
        rule.created_at,
        rule.actor,
    )


async def add_set(
    connection: Connection, program_id: UUID, rules: Mapping[str, int], published_at: datetime, actor: str
) -> int:
    """Put these versions in force; the new revision. The caller holds the program's exclusive lock."""
    revision = await raise_revision(connection, program_id)
    await connection.execute(
        """INSERT INTO rule_set (program_id, revision, rules, published_at, actor)
           VALUES ($1, $2, $3, $4, $5)""",
        program_id,
        revision,
        json.dumps(rules),
        published_at,
        actor,
    )
    return revision


async def raise_revision(connection: Connection, program_id: UUID) -> int:
    """The program's next revision, which makes every process load its rules anew."""
    revision: int = await connection.fetchval(
        """UPDATE program SET rules_revision = rules_revision + 1
            WHERE program_id = $1 RETURNING rules_revision""",
        program_id,
    )
    return revision


async def all_event_types(connection: Connection, program_id: UUID) -> list[EventType]:
    """The registered types by name."""
    rows = await connection.fetch(
        """SELECT name, attributes, description FROM event_type
            WHERE program_id = $1 ORDER BY name COLLATE "C\"""",
        program_id,
    )
    return [EventType(row["name"], json.loads(row["attributes"]), row["description"]) for row in rows]


async def add_event_type(connection: Connection, program_id: UUID, event_type: EventType) -> None:
    """Register the type. The caller holds the program's exclusive lock."""
    await connection.execute(
        "INSERT INTO event_type (program_id, name, attributes, description) VALUES ($1, $2, $3, $4)",
        program_id,
        event_type.name,
        json.dumps(event_type.attributes),
        event_type.description,
    )


def _rule(row: Any) -> StoredRule:
    return StoredRule(
        row["name"],
        row["version"],
        json.loads(row["definition"]),
        row["created_at"],
        row["actor"],
        row["active"],
    )
