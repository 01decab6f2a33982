"""Members who became one: who lives on, and what goes over with the points."""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any
from uuid import UUID

from server.domain.books import Decision
from server.domain.members import Consent
from server.store.database import Connection
from server.store.ledger import MemberOf
from server.store.together import Question, Write, columns

# A member and all who were merged into it, of every row of ``wanted(program_id, owner_id, ...)``.
OWN = """LATERAL (SELECT wanted.owner_id AS member_id
                  UNION ALL
                 SELECT m.member_id FROM member m
                  WHERE m.program_id = wanted.program_id AND m.merged_into = wanted.owner_id) AS own"""


async def survivors(connection: Connection, wanted: Collection[MemberOf]) -> dict[MemberOf, UUID]:
    """Who lives on instead of these members; who was not merged is absent."""
    rows = await connection.fetch(
        """SELECT program_id, member_id, merged_into
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id)
             JOIN member USING (program_id, member_id)
            WHERE merged_into IS NOT NULL""",
        [program_id for program_id, _ in wanted],
        [member_id for _, member_id in wanted],
    )
    return {(row[0], row[1]): row[2] for row in rows}


async def families(connection: Connection, members: Collection[MemberOf]) -> list[MemberOf]:
    """These members, whoever lives on instead of them, and all who were merged into those."""
    rows = await connection.fetch(
        """WITH wanted AS (SELECT program_id, member_id, coalesce(merged_into, member_id) AS root
                             FROM unnest($1::uuid[], $2::uuid[]) AS w(program_id, member_id)
                             LEFT JOIN member USING (program_id, member_id))
           SELECT program_id, member_id FROM wanted
            UNION
           SELECT program_id, root FROM wanted
            UNION
           SELECT program_id, m.member_id FROM wanted w JOIN member m USING (program_id)
            WHERE m.merged_into = w.root""",
        [program_id for program_id, _ in members],
        [member_id for _, member_id in members],
    )
    return [(row[0], row[1]) for row in rows]


def consents_in_force(wanted: Collection[MemberOf]) -> Question[dict[MemberOf, dict[str, Consent]]]:
    """The latest decision of each of these members about each purpose."""
    return Question(
        """SELECT ROW(program_id, member_id, latest.*)
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id),
                  LATERAL (SELECT DISTINCT ON (purpose) consent_id, purpose, granted, policy_version, channel,
                                  recorded_at, actor
                             FROM consent c
                            WHERE c.program_id = wanted.program_id AND c.member_id = wanted.member_id
                            ORDER BY purpose, consent_id DESC) AS latest""",
        columns(list(wanted)),
        _consents,
    )


def _consents(rows: Sequence[Any]) -> dict[MemberOf, dict[str, Consent]]:
    found: dict[MemberOf, dict[str, Consent]] = {}
    for row in rows:
        found.setdefault((row[0], row[1]), {})[row[3]] = Consent(*row[2:])
    return found


def save(decisions: Sequence[tuple[UUID, Decision]]) -> Iterator[Write]:
    """What a merge changes beside wallets. It is the only command of its batch."""
    for program_id, decision in decisions:
        for merged_id, survivor_id in decision.changes.merged.items():
            pair = (program_id, merged_id, survivor_id)
            yield _members(program_id, decision)
            yield Write(FOLLOW_ON, pair)
            yield Write(MOVE_IDENTIFIERS, pair)
            yield Write(MOVE_CAP_USAGE, pair)
        yield from _add_consents(program_id, decision)


# Who had been merged into the one that is merged now: one step leads to who lives on, never two.
FOLLOW_ON = """UPDATE member SET merged_into = $3::uuid, version = version + 1
                WHERE program_id = $1::uuid AND merged_into = $2::uuid"""
MOVE_IDENTIFIERS = """UPDATE member_identifier SET member_id = $3::uuid
                       WHERE program_id = $1::uuid AND member_id = $2::uuid"""
MOVE_CAP_USAGE = """INSERT INTO cap_usage (program_id, member_id, rule, period, points)
                    SELECT program_id, $3::uuid, rule, period, points FROM cap_usage
                     WHERE program_id = $1::uuid AND member_id = $2::uuid
                        ON CONFLICT (program_id, member_id, rule, period)
                        DO UPDATE SET points = cap_usage.points + excluded.points"""


def _members(program_id: UUID, decision: Decision) -> Write:
    rows = [
        (
            program_id,
            member_id,
            member.version,
            member.status,
            member.facts.tier,
            member.facts.purchases,
            member.inherited,
            json.dumps(sorted(member.facts.tags)),
            decision.changes.merged.get(member_id),
        )
        for member_id, member in decision.members.items()
    ]
    return Write(
        """UPDATE member SET version = after.version, status = after.status, tier = after.tier,
                             purchases = after.purchases, inherited = after.inherited,
                             tags = ARRAY(SELECT jsonb_array_elements_text(after.tags)),
                             merged_into = after.merged_into
             FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::bigint[],
                         $7::bigint[], $8::jsonb[], $9::uuid[])
                  AS after(program_id, member_id, version, status, tier, purchases, inherited, tags,
                           merged_into)
            WHERE member.program_id = after.program_id AND member.member_id = after.member_id""",
        columns(rows),
    )


def _add_consents(program_id: UUID, decision: Decision) -> Iterator[Write]:
    rows = [
        (
            program_id,
            member_id,
            c.consent_id,
            c.purpose,
            c.granted,
            c.policy_version,
            c.channel,
            c.recorded_at,
            c.actor,
        )
        for member_id, c in decision.changes.consents
    ]
    if rows:
        yield Write(
            """INSERT INTO consent (program_id, member_id, consent_id, purpose, granted, policy_version,
                                    channel, recorded_at, actor)
               SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::boolean[],
                                    $6::text[], $7::text[], $8::timestamptz[], $9::text[])""",
            columns(rows),
        )
