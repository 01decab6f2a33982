"""Templates of programs, in versions, and the terms by which programs write to their members."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from server.domain.notifications import terms
from server.domain.notifications.templates import Content, Key, Template
from server.domain.notifications.terms import NotificationTerms
from server.store.database import Connection


async def in_force(
    connection: Connection, program_id: UUID, *, occasion: str = "", channel: str = ""
) -> dict[Key, Template]:
    """The program's templates, those of one occasion and channel if they are named."""
    rows = await connection.fetch(
        """SELECT * FROM (
               SELECT DISTINCT ON (occasion, channel, language)
                      occasion, channel, language, version, subject, text, html, withdrawn
                 FROM template
                WHERE program_id = $1 AND ($2 = '' OR occasion = $2) AND ($3 = '' OR channel = $3)
                ORDER BY occasion, channel, language, version DESC) AS latest
            WHERE NOT withdrawn""",
        program_id,
        occasion,
        channel,
    )
    found = map(_template, rows)
    return {template.key: template for template in found}


async def versions(
    connection: Connection, program_id: UUID, wanted: Collection[tuple[Key, int]]
) -> dict[tuple[Key, int], Template]:
    """These versions, in force or not."""
    rows = await connection.fetch(
        """SELECT occasion, channel, language, version, subject, text, html
             FROM template
             JOIN unnest($2::text[], $3::text[], $4::text[], $5::integer[])
                  AS wanted(occasion, channel, language, version) USING (occasion, channel, language, version)
            WHERE program_id = $1""",
        program_id,
        [key.occasion for key, _ in wanted],
        [key.channel for key, _ in wanted],
        [key.language for key, _ in wanted],
        [version for _, version in wanted],
    )
    return {(template.key, template.version): template for template in map(_template, rows)}


async def last_version(connection: Connection, program_id: UUID, key: Key) -> int:
    """The number of the last version, 0 before the first. The caller holds the program's lock of drafts."""
    found: int = await connection.fetchval(
        """SELECT coalesce(max(version), 0) FROM template
            WHERE program_id = $1 AND (occasion, channel, language) = ($2, $3, $4)""",
        program_id,
        *key,
    )
    return found


async def add(
    connection: Connection,
    program_id: UUID,
    template: Template,
    *,
    withdrawn: bool = False,
    created_at: datetime,
    actor: str,
) -> None:
    """Put a version in force, or none of the program's own any more."""
    await connection.execute(
        """INSERT INTO template (program_id, occasion, channel, language, version, withdrawn, subject, text,
                                 html, created_at, actor)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)""",
        program_id,
        *template.key,
        template.version,
        withdrawn,
        template.content.subject,
        template.content.text,
        template.content.html,
        created_at,
        actor,
    )


async def terms_of(connection: Connection, program_ids: Collection[UUID]) -> Mapping[UUID, NotificationTerms]:
    """How these programs write to their members."""
    rows = await connection.fetch(
        "SELECT program_id, notification_terms FROM program WHERE program_id = ANY($1::uuid[])",
        list(program_ids),
    )
    return {row[0]: terms.load(json.loads(row[1])) for row in rows}


async def set_terms(connection: Connection, program_id: UUID, wanted: NotificationTerms) -> None:
    """Change how a program writes to its members from now on."""
    await connection.execute(
        "UPDATE program SET notification_terms = $2 WHERE program_id = $1",
        program_id,
        json.dumps(terms.dump(wanted)),
    )


def _template(row: Any) -> Template:
    return Template(
        Key(row["occasion"], row["channel"], row["language"]),
        Content(row["subject"], row["text"], row["html"]),
        row["version"],
    )
