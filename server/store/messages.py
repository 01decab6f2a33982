"""Messages to members: made of events, joined, closed before they are sent, read."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from server.domain.members import Preferences, Status
from server.domain.notifications.decide import INBOX, Addressee, Decided
from server.domain.notifications.occasions import Facts
from server.store.database import Connection
from server.store.ledger import MemberOf
from server.store.together import columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message without its text. ``language`` and ``version`` are of the inbox's template."""

    program_id: UUID
    member_id: UUID
    message_id: UUID
    occasion: str
    once: str
    facts: Facts = field(repr=False)
    created_at: datetime
    send_at: datetime
    useless_at: datetime | None
    is_open: bool
    in_inbox: bool
    language: str
    version: int
    read_at: datetime | None = None


_COLUMNS = """program_id, member_id, message_id, occasion, once, facts, created_at, send_at, useless_at,
              is_open, in_inbox, language, version, read_at"""
_MESSAGES = f"SELECT {_COLUMNS} FROM message"


async def addressees(connection: Connection, wanted: Collection[MemberOf]) -> dict[MemberOf, Addressee]:
    """What decides about messages to these members.

    Push needs no address of ours: its provider knows members by their id.
    """
    rows = await connection.fetch(
        """SELECT m.program_id, m.member_id, m.status, p.preferences,
                  ARRAY(SELECT DISTINCT kind FROM member_identifier i
                         WHERE i.program_id = m.program_id AND i.member_id = m.member_id
                           AND kind IN ('email', 'phone')) AS kinds,
                  ARRAY(SELECT (latest.purpose, latest.granted, latest.consent_id)
                          FROM (SELECT DISTINCT ON (purpose) purpose, granted, consent_id FROM consent c
                                 WHERE c.program_id = m.program_id AND c.member_id = m.member_id
                                 ORDER BY purpose, consent_id DESC) AS latest) AS decisions
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id)
             JOIN member m USING (program_id, member_id)
             JOIN member_profile p USING (program_id, member_id)""",
        [program_id for program_id, _ in wanted],
        [member_id for _, member_id in wanted],
    )
    return {(row["program_id"], row["member_id"]): _addressee(row) for row in rows}


_CHANNEL_OF_KIND = {"email": "email", "phone": "sms"}


def _addressee(row: Any) -> Addressee:
    preferences = json.loads(row["preferences"])
    return Addressee(
        status=Status(row["status"]),
        preferences=Preferences(**(preferences | {"channels": tuple(preferences.get("channels", ()))})),
        decisions={
            purpose: Decided(granted, consent_id) for purpose, granted, consent_id in row["decisions"]
        },
        reachable=frozenset({INBOX, "push", *(_CHANNEL_OF_KIND[kind] for kind in row["kinds"])}),
    )


async def take_open(
    connection: Connection, wanted: Collection[MemberOf], now: datetime
) -> dict[tuple[UUID, UUID, str], Message]:
    """The messages to these members that still take in more, by occasion too; nobody sends them meanwhile.

    Those whose time has come are closed.
    """
    members = [program_id for program_id, _ in wanted], [member_id for _, member_id in wanted]
    await connection.execute(
        """UPDATE message SET is_open = false
            WHERE is_open AND send_at <= $3
              AND (program_id, member_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))""",
        *members,
        now,
    )
    rows = await connection.fetch(
        f"""{_MESSAGES}
             WHERE is_open AND (program_id, member_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))
             ORDER BY program_id, member_id, occasion
               FOR UPDATE""",
        *members,
    )
    found = map(_message, rows)
    return {(m.program_id, m.member_id, m.occasion): m for m in found}


async def add(connection: Connection, messages: Sequence[Message]) -> set[UUID]:
    """Make these, and return the ids of those that weren't made before, by ``once``."""
    if not messages:
        return set()
    rows = await connection.fetch(
        """INSERT INTO message (program_id, member_id, message_id, occasion, once, facts, created_at, send_at,
                                useless_at, is_open, in_inbox, language, version)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::jsonb[],
                                $7::timestamptz[], $8::timestamptz[], $9::timestamptz[], $10::boolean[],
                                $11::boolean[], $12::text[], $13::integer[])
               ON CONFLICT (program_id, member_id, once) DO NOTHING
           RETURNING message_id""",
        *columns(
            [
                (
                    m.program_id,
                    m.member_id,
                    m.message_id,
                    m.occasion,
                    m.once,
                    json.dumps(dict(m.facts)),
                    m.created_at,
                    m.send_at,
                    m.useless_at,
                    m.is_open,
                    m.in_inbox,
                    m.language,
                    m.version,
                )
                for m in messages
            ]
        ),
    )
    return {row[0] for row in rows}


async def grow(connection: Connection, messages: Sequence[Message]) -> None:
    """Write the facts of messages that took in more; to the member they are unread again, and news."""
    if messages:
        await connection.execute(
            """UPDATE message
                  SET facts = grown.facts, read_at = NULL, position = nextval('message_position')
                 FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::jsonb[])
                      AS grown(program_id, member_id, message_id, facts)
                WHERE message.program_id = grown.program_id AND message.member_id = grown.member_id
                  AND message.message_id = grown.message_id""",
            *columns(
                [(m.program_id, m.member_id, m.message_id, json.dumps(dict(m.facts))) for m in messages]
            ),
        )


async def close(
    connection: Connection, program_id: UUID, member_id: UUID, message_id: UUID
) -> Message | None:
    """The message, which takes in no more from now on; None if there is none."""
    row = await connection.fetchrow(
        f"""UPDATE message SET is_open = false
             WHERE program_id = $1 AND member_id = $2 AND message_id = $3
         RETURNING {_COLUMNS}""",
        program_id,
        member_id,
        message_id,
    )
    return None if row is None else _message(row)


async def get(connection: Connection, program_id: UUID, member_id: UUID, message_id: UUID) -> Message | None:
    """The message as it is now; None if there is none."""
    row = await connection.fetchrow(
        f"{_MESSAGES} WHERE program_id = $1 AND member_id = $2 AND message_id = $3",
        program_id,
        member_id,
        message_id,
    )
    return None if row is None else _message(row)


async def inbox(
    connection: Connection,
    program_id: UUID,
    member_id: UUID,
    *,
    before: UUID | None,
    size: int,
    unread: bool,
) -> list[Message]:
    """At most ``size`` messages of the inbox before that id, newest first; if ``unread``, only such."""
    rows = await connection.fetch(
        f"""{_MESSAGES}
             WHERE program_id = $1 AND member_id = $2 AND in_inbox
               AND ($3::uuid IS NULL OR message_id < $3) AND (NOT $4 OR read_at IS NULL)
             ORDER BY message_id DESC
             LIMIT $5""",
        program_id,
        member_id,
        before,
        unread,
        size,
    )
    return [_message(row) for row in rows]


async def those(
    connection: Connection, program_id: UUID, member_id: UUID, message_ids: Sequence[UUID]
) -> list[Message]:
    """These messages of the inbox, as far as they are there."""
    rows = await connection.fetch(
        f"""{_MESSAGES}
             WHERE program_id = $1 AND member_id = $2 AND message_id = ANY($3::uuid[]) AND in_inbox""",
        program_id,
        member_id,
        message_ids,
    )
    return [_message(row) for row in rows]


async def unread(connection: Connection, program_id: UUID, member_id: UUID) -> int:
    """How many messages of the inbox are unread."""
    found: int = await connection.fetchval(
        """SELECT count(*) FROM message
            WHERE program_id = $1 AND member_id = $2 AND in_inbox AND read_at IS NULL""",
        program_id,
        member_id,
    )
    return found


async def mark_read(
    connection: Connection, program_id: UUID, member_id: UUID, message_ids: Sequence[UUID], now: datetime
) -> None:
    """These messages are read, those that are there; which were read before stay as they are."""
    await connection.execute(
        """UPDATE message SET read_at = $4
            WHERE program_id = $1 AND member_id = $2 AND message_id = ANY($3::uuid[]) AND in_inbox
              AND read_at IS NULL""",
        program_id,
        member_id,
        message_ids,
        now,
    )


async def forget(connection: Connection, program_id: UUID, before: datetime, most: int) -> int:
    """Drop at most so many that were made before then; how many that were."""
    done: str = await connection.execute(
        """DELETE FROM message WHERE ctid = ANY(ARRAY(
               SELECT ctid FROM message WHERE program_id = $1 AND message_id < $2
                ORDER BY message_id LIMIT $3 FOR UPDATE SKIP LOCKED))""",
        program_id,
        # Ids begin with the milliseconds of their making.
        UUID(int=int(before.timestamp() * 1000) << 80),
        most,
    )
    return int(done.removeprefix("DELETE "))


def _message(row: Any) -> Message:
    facts: Mapping[str, Any] = json.loads(row["facts"])
    return Message(**{**row, "facts": facts})
