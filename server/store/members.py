"""Members, their identifiers and their decisions.

``member`` holds what rules and the hot path need and nothing personal; the personal
part of a profile is sealed in ``member_profile`` under the key in ``member_key``.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import Any
from uuid import UUID

from server.domain.ledger import Wallet
from server.domain.members import (
    Address,
    Consent,
    ExternalId,
    Identifier,
    Member,
    Preferences,
    Profile,
    Status,
)
from server.store.database import Connection
from server.store.ledger import MemberOf
from server.store.sealing import Sealer, WrappedKey

IdentifierOf = tuple[UUID, str, bytes]  # the program, the kind, the blind index

_MEMBERS = """
    SELECT m.program_id, m.member_id, m.status, m.tier, m.tags, m.segments, m.attributes, m.joined_at,
           m.version, p.sealed, p.preferences, p.updated_at, p.etag, k.master_key_id, k.wrapped,
           ARRAY(SELECT (w.point_type, w.balance, w.pending, w.held, w.debt, w.lifetime,
                         w.sequence, w.head_hash, w.next_due, w.active_at)
                   FROM wallet w
                  WHERE w.program_id = m.program_id AND w.member_id = m.member_id) AS wallets,
           m.merged_into
      FROM member m
      JOIN member_profile p USING (program_id, member_id)
      JOIN member_key k USING (program_id, member_id)"""


async def insert(connection: Connection, sealer: Sealer, member: Member) -> None:
    """Add a member with a key of its own. The identifiers are taken by ``claim``."""
    key = sealer.new_key(member.program_id, member.member_id)
    profile = member.profile
    await connection.execute(
        """WITH key AS (
               INSERT INTO member_key (program_id, member_id, master_key_id, wrapped)
               VALUES ($1, $2, $3, $4)
           ), profile AS (
               INSERT INTO member_profile (program_id, member_id, sealed, preferences, updated_at, etag)
               VALUES ($1, $2, $5, $6, $7, $8)
           )
           INSERT INTO member (program_id, member_id, status, tier, tags, segments, attributes, birth_month,
                               joined_at, version)
           VALUES ($1, $2, $9, $10, $11, $12, $13, $14, $15, $16)""",
        member.program_id,
        member.member_id,
        key.master_key_id,
        key.wrapped,
        sealer.seal(key, member.program_id, member.member_id, _personal(profile)),
        json.dumps(asdict(profile.preferences)),
        member.updated_at,
        member.etag,
        member.status,
        member.tier,
        profile.tags,
        profile.segments,
        json.dumps(dict(profile.attributes)),
        _birth_month(profile),
        member.joined_at,
        member.version,
    )


async def rows(connection: Connection, wanted: Collection[MemberOf]) -> list[Any]:
    """The rows of these members, still sealed; what does not exist is absent."""
    found: list[Any] = await connection.fetch(
        f"""{_MEMBERS}
              JOIN unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id)
             USING (program_id, member_id)""",
        [program_id for program_id, _ in wanted],
        [member_id for _, member_id in wanted],
    )
    return found


async def page(
    connection: Connection,
    program_id: UUID,
    *,
    after: UUID | None,
    size: int,
    status: Status | None = None,
    tier: str = "",
) -> list[Any]:
    """The rows of at most ``size`` members after that id, oldest first: ids are in order of joining."""
    found: list[Any] = await connection.fetch(
        f"""{_MEMBERS}
             WHERE m.program_id = $1
               AND ($2::uuid IS NULL OR m.member_id > $2)
               AND ($3::text IS NULL OR m.status = $3)
               AND ($4::text = '' OR m.tier = $4)
             ORDER BY m.member_id
             LIMIT $5""",
        program_id,
        after,
        status,
        tier,
        size,
    )
    return found


async def keys_after(connection: Connection, after: MemberOf, size: int) -> list[MemberOf]:
    """The next members of all programs, in whatever status, by program and id."""
    found = await connection.fetch(
        """SELECT program_id, member_id FROM member WHERE (program_id, member_id) > ($1, $2)
            ORDER BY program_id, member_id LIMIT $3""",
        *after,
        size,
    )
    return [(r[0], r[1]) for r in found]


async def count(connection: Connection) -> int:
    """How many members there are, in all programs."""
    found: int = await connection.fetchval("SELECT count(*) FROM member")
    return found


async def update_profile(
    connection: Connection, sealer: Sealer, member: Member, updated_at: datetime
) -> None:
    """Write the profile, and raise etag and version. The caller holds the member's lock."""
    [row] = await connection.fetch(
        "SELECT master_key_id, wrapped FROM member_key WHERE program_id = $1 AND member_id = $2",
        member.program_id,
        member.member_id,
    )
    key = WrappedKey(row[0], row[1])
    profile = member.profile
    await connection.execute(
        """WITH profile AS (
               UPDATE member_profile SET sealed = $3, preferences = $4, updated_at = $5, etag = etag + 1
                WHERE program_id = $1 AND member_id = $2
           )
           UPDATE member
              SET tags = $6, segments = $7, attributes = $8, birth_month = $9, version = version + 1
            WHERE program_id = $1 AND member_id = $2""",
        member.program_id,
        member.member_id,
        sealer.seal(key, member.program_id, member.member_id, _personal(profile)),
        json.dumps(asdict(profile.preferences)),
        updated_at,
        profile.tags,
        profile.segments,
        json.dumps(dict(profile.attributes)),
        _birth_month(profile),
    )


async def update_status(connection: Connection, program_id: UUID, member_id: UUID, status: Status) -> None:
    """Write the status and raise the version. The caller holds the member's lock."""
    await connection.execute(
        "UPDATE member SET status = $3, version = version + 1 WHERE program_id = $1 AND member_id = $2",
        program_id,
        member_id,
        status,
    )


async def owners(connection: Connection, wanted: Collection[IdentifierOf]) -> dict[IdentifierOf, UUID]:
    """Whose these identifiers are; what nobody has is absent."""
    rows = await connection.fetch(
        """SELECT program_id, kind, blind, member_id
             FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS wanted(program_id, kind, blind)
             JOIN member_identifier USING (program_id, kind, blind)""",
        [program_id for program_id, _, _ in wanted],
        [kind for _, kind, _ in wanted],
        [blind for _, _, blind in wanted],
    )
    return {(r[0], r[1], r[2]): r[3] for r in rows}


async def claim(
    connection: Connection,
    program_id: UUID,
    member_id: UUID,
    added: Sequence[tuple[str, bytes]],
    removed: Sequence[tuple[str, bytes]],
) -> None:
    """Give identifiers to a member, if they aren't its own already, and free others.

    The caller holds the identifiers' locks, and has made sure that nobody else has them.
    """
    if removed:
        await connection.execute(
            """DELETE FROM member_identifier
                USING unnest($3::text[], $4::bytea[]) AS freed(kind, blind)
                WHERE member_identifier.program_id = $1 AND member_identifier.member_id = $2
                  AND member_identifier.kind = freed.kind AND member_identifier.blind = freed.blind""",
            program_id,
            member_id,
            [kind for kind, _ in removed],
            [blind for _, blind in removed],
        )
    if added:
        await connection.execute(
            """INSERT INTO member_identifier (program_id, member_id, kind, blind)
               SELECT $1, $2, * FROM unnest($3::text[], $4::bytea[])
                   ON CONFLICT (program_id, kind, blind) DO NOTHING""",
            program_id,
            member_id,
            [kind for kind, _ in added],
            [blind for _, blind in added],
        )


async def add_consent(connection: Connection, program_id: UUID, member_id: UUID, consent: Consent) -> None:
    """Append a decision and raise the member's version. The caller holds the member's lock."""
    await connection.execute(
        """WITH touched AS (
               UPDATE member SET version = version + 1 WHERE program_id = $1 AND member_id = $2
           )
           INSERT INTO consent (program_id, member_id, consent_id, purpose, granted, policy_version, channel,
                                recorded_at, actor)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)""",
        program_id,
        member_id,
        consent.consent_id,
        consent.purpose,
        consent.granted,
        consent.policy_version,
        consent.channel,
        consent.recorded_at,
        consent.actor,
    )


async def consents(
    connection: Connection, program_id: UUID, member_id: UUID, before: UUID | None, size: int
) -> list[Consent]:
    """At most ``size`` decisions before that id, newest first."""
    rows = await connection.fetch(
        """SELECT consent_id, purpose, granted, policy_version, channel, recorded_at, actor
             FROM consent
            WHERE program_id = $1 AND member_id = $2 AND ($3::uuid IS NULL OR consent_id < $3)
            ORDER BY consent_id DESC
            LIMIT $4""",
        program_id,
        member_id,
        before,
        size,
    )
    return [Consent(*r) for r in rows]


async def consent(connection: Connection, program_id: UUID, member_id: UUID, consent_id: UUID) -> Consent:
    """One decision, which exists: decisions are never removed."""
    [row] = await connection.fetch(
        """SELECT consent_id, purpose, granted, policy_version, channel, recorded_at, actor
             FROM consent
            WHERE program_id = $1 AND member_id = $2 AND consent_id = $3""",
        program_id,
        member_id,
        consent_id,
    )
    return Consent(*row)


async def exists(connection: Connection, program_id: UUID, member_id: UUID) -> bool:
    """Whether there is such a member."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM member WHERE program_id = $1 AND member_id = $2)", program_id, member_id
    )
    return found


async def status(connection: Connection, program_id: UUID, member_id: UUID) -> Status | None:
    """Where the membership stands, None if there is no such member."""
    found = await connection.fetchval(
        "SELECT status FROM member WHERE program_id = $1 AND member_id = $2", program_id, member_id
    )
    return None if found is None else Status(found)


def lookup(sealer: Sealer, program_id: UUID, identifier: Identifier) -> tuple[str, bytes]:
    """What ``owners`` and ``claim`` know an identifier by."""
    return str(identifier.kind), sealer.blind(program_id, identifier)


def _birth_month(profile: Profile) -> int:
    return profile.birth_date.month if profile.birth_date else 0


def _personal(profile: Profile) -> dict[str, Any]:
    """What is sealed: every field but those that stand in the clear in columns of their own."""
    return {
        "given_name": profile.given_name,
        "family_name": profile.family_name,
        "email": profile.email,
        "phone": profile.phone,
        "birth_date": profile.birth_date.isoformat() if profile.birth_date else None,
        "address": asdict(profile.address) if profile.address else None,
        "external_ids": [[e.system, e.id] for e in profile.external_ids],
        "card_numbers": list(profile.card_numbers),
    }


def member_of(row: Any) -> MemberOf:
    """Whose row it is."""
    return row["program_id"], row["member_id"]


def wallets_of(row: Any) -> tuple[Wallet, ...]:
    """The wallets in a row, as they are written down."""
    return tuple(Wallet(*w) for w in row["wallets"])


def opened(sealer: Sealer, row: Any) -> Member:
    """The member in a row. Raises BrokenSealError."""
    program_id, member_id = row["program_id"], row["member_id"]
    key = WrappedKey(row["master_key_id"], row["wrapped"])
    personal = sealer.open(key, program_id, member_id, row["sealed"])
    return Member(
        program_id=program_id,
        member_id=member_id,
        status=Status(row["status"]),
        tier=row["tier"],
        profile=_profile(personal, row),
        joined_at=row["joined_at"],
        updated_at=row["updated_at"],
        etag=row["etag"],
        version=row["version"],
        wallets=wallets_of(row),
        merged_into=row["merged_into"],
    )


def _profile(personal: dict[str, Any], row: Any) -> Profile:
    preferences, address, born = json.loads(row["preferences"]), personal["address"], personal["birth_date"]
    return Profile(
        given_name=personal["given_name"],
        family_name=personal["family_name"],
        email=personal["email"],
        phone=personal["phone"],
        birth_date=date.fromisoformat(born) if born else None,
        address=Address(**(address | {"lines": tuple(address["lines"])})) if address else None,
        external_ids=tuple(ExternalId(*e) for e in personal["external_ids"]),
        card_numbers=tuple(personal["card_numbers"]),
        preferences=Preferences(**(preferences | {"channels": tuple(preferences["channels"])})),
        tags=tuple(row["tags"]),
        segments=tuple(row["segments"]),
        attributes=json.loads(row["attributes"]),
    )
