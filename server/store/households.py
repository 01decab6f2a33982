"""Households: their seats, open and ended, their invitations, and whose gifts the lots of a pool are."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.books import Decision, MemberState
from server.domain.households import Household, Invitation, Role, Seat
from server.store.database import Connection
from server.store.ledger import MemberOf
from server.store.together import Question, Write, columns

InvitationOf = tuple[UUID, UUID]  # the program, and the invitation within it

SEAT_COLUMNS = "seat_id, household_id, member_id, role, may_spend, contributes, joined_at, left_at"
INVITATION_COLUMNS = """invitation_id, household_id, token_hash, may_spend, created_at, created_by,
    expires_at, accepted_by"""


class Gift(NamedTuple):
    """Of a lot that was handed on: the row that its points came from, and in a pool who gave them."""

    origin: UUID
    giver: UUID | None


_SEATS_OF_MEMBERS = f"""
    SELECT ROW(program_id, {SEAT_COLUMNS})
      FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id)
      JOIN seat USING (program_id, member_id)
     WHERE left_at IS NULL"""


def seats_open(
    members: Collection[MemberOf], households: Collection[MemberOf]
) -> Question[dict[MemberOf, Seat]]:
    """The open seats of these members, and all that these households have; by member."""
    own = [program_id for program_id, _ in members], [member_id for _, member_id in members]
    if not households:
        return Question(_SEATS_OF_MEMBERS, own, _seats)
    return Question(
        f"""{_SEATS_OF_MEMBERS}
           UNION
           SELECT ROW(program_id, {SEAT_COLUMNS})
             FROM unnest($3::uuid[], $4::uuid[]) AS wanted(program_id, household_id)
             JOIN seat USING (program_id, household_id)
            WHERE left_at IS NULL""",
        (*own, *columns(list(households))),
        _seats,
    )


def _seats(rows: Sequence[Any]) -> dict[MemberOf, Seat]:
    return {(row[0], row[3]): seat(row[1:]) for row in rows}


def households_named(wanted: Collection[MemberOf]) -> Question[dict[MemberOf, Household]]:
    """These households, dissolved or not."""
    return Question(
        """SELECT ROW(program_id, household_id, created_at, created_by, dissolved_at)
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, household_id)
             JOIN household USING (program_id, household_id)""",
        columns(list(wanted)),
        lambda rows: {(row[0], row[1]): Household(*row[1:]) for row in rows},
    )


def invitations_open(wanted: Collection[MemberOf]) -> Question[dict[InvitationOf, Invitation]]:
    """The invitations of these households that nobody has accepted, expired ones too."""
    return Question(
        f"""SELECT ROW(program_id, {INVITATION_COLUMNS})
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, household_id)
             JOIN household_invitation USING (program_id, household_id)
            WHERE accepted_by IS NULL""",
        columns(list(wanted)),
        lambda rows: {(row[0], row[1]): Invitation(*row[1:]) for row in rows},
    )


def whence(
    wanted: Mapping[MemberOf, bool], spent: Collection[UUID]
) -> Question[dict[MemberOf, dict[UUID, Gift]]]:
    """Where the open lots of these members and pools came from that were handed on; by owner and lot.

    ``wanted``: true for whom all are, otherwise only those that are pending. ``spent``: rows of theirs that
    may be undone, so that the lots which they drew from are open again.
    """
    return Question(
        """SELECT ROW(t.program_id, t.member_id, lot_id, t.trace -> 'origins' ->> lot_id::text,
                      CASE WHEN t.trace -> 'household' ->> 'id' = t.member_id::text
                           THEN t.trace -> 'transfer' ->> 'from' END)
             FROM unnest($1::uuid[], $2::uuid[], $3::boolean[]) AS wanted(program_id, member_id, whole)
            CROSS JOIN LATERAL
                          (SELECT lot_id, transaction_id FROM lot
                            WHERE lot.program_id = wanted.program_id AND lot.member_id = wanted.member_id
                              AND remaining > 0 AND NOT active
                           UNION
                           SELECT lot_id, transaction_id FROM lot
                            WHERE whole
                              AND lot.program_id = wanted.program_id AND lot.member_id = wanted.member_id
                              AND remaining > 0
                           UNION
                           SELECT lot_id, lot.transaction_id
                             FROM allocation a JOIN lot USING (program_id, member_id, lot_id)
                            WHERE a.program_id = wanted.program_id AND a.member_id = wanted.member_id
                              AND a.transaction_id = ANY($4::uuid[])) AS own
             JOIN ledger_transaction t
                  ON t.program_id = wanted.program_id AND t.member_id = wanted.member_id
                     AND t.transaction_id = own.transaction_id
            WHERE t.kind = 'TRANSFER_IN' AND t.trace -> 'origins' ? lot_id::text""",
        (*columns([(*owner, whole) for owner, whole in wanted.items()]), list(spent)),
        _whence,
    )


def _whence(rows: Sequence[Any]) -> dict[MemberOf, dict[UUID, Gift]]:
    found: dict[MemberOf, dict[UUID, Gift]] = {}
    for program_id, owner_id, lot_id, origin, giver in rows:
        gift = Gift(UUID(origin), None if giver is None else UUID(giver))
        found.setdefault((program_id, owner_id), {})[lot_id] = gift
    return found


def seat(row: Sequence[Any]) -> Seat:
    """A seat as the domain knows it, from SEAT_COLUMNS."""
    found = Seat._make(row)
    return found._replace(role=Role(found.role))


def save(decisions: Sequence[tuple[UUID, Decision]]) -> Iterator[Write]:
    """Write households, seats and invitations as they are after a batch."""
    households = [
        (program_id, *household)
        for program_id, decision in decisions
        for household in decision.changes.households.values()
    ]
    if households:
        yield _new_pools(decisions)
        yield Write(SAVE_HOUSEHOLDS, columns(list({row[:2]: row for row in households}.values())))
    seats = {
        seat.seat_id: (program_id, *seat)
        for program_id, decision in decisions
        for seat in decision.changes.seats.values()
    }
    if seats:
        # Who gives something up comes before who takes it: no index ever sees two heads, or two seats of one.
        rows = sorted(seats.values(), key=lambda row: (row[-1] is None, row[4] is Role.HEAD))
        yield Write(SAVE_SEATS, columns(rows))
    invitations = {
        invitation.invitation_id: (program_id, *invitation)
        for program_id, decision in decisions
        for invitation in decision.changes.invitations.values()
    }
    if invitations:
        yield Write(SAVE_INVITATIONS, columns(list(invitations.values())))


SAVE_HOUSEHOLDS = """
    INSERT INTO household (program_id, household_id, created_at, created_by, dissolved_at)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::timestamptz[])
        ON CONFLICT (program_id, household_id) DO UPDATE SET dissolved_at = excluded.dissolved_at"""
SAVE_SEATS = f"""
    INSERT INTO seat (program_id, {SEAT_COLUMNS})
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::boolean[],
                         $7::boolean[], $8::timestamptz[], $9::timestamptz[])
        ON CONFLICT (program_id, household_id, seat_id) DO UPDATE SET
           role = excluded.role, may_spend = excluded.may_spend, contributes = excluded.contributes,
           left_at = excluded.left_at"""
SAVE_INVITATIONS = f"""
    INSERT INTO household_invitation (program_id, {INVITATION_COLUMNS})
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bytea[], $5::boolean[], $6::timestamptz[],
                         $7::text[], $8::timestamptz[], $9::uuid[])
        ON CONFLICT (program_id, household_id, invitation_id)
        DO UPDATE SET accepted_by = excluded.accepted_by"""


def _new_pools(decisions: Sequence[tuple[UUID, Decision]]) -> Write:
    """Pools that there were not, as they are at the end of the batch; others are left alone."""
    formed = {
        (program_id, household_id)
        for program_id, decision in decisions
        for household_id in decision.changes.households
    }
    last: dict[MemberOf, MemberState] = {}
    for program_id, decision in decisions:
        for member_id, state in decision.members.items():
            if (program_id, member_id) in formed:
                last[program_id, member_id] = state
    rows = [
        (*owner, state.status, state.facts.tier, state.facts.joined_at, state.version)
        for owner, state in last.items()
    ]
    return Write(
        """INSERT INTO member (program_id, member_id, status, tier, joined_at, version, kind)
           SELECT *, 'household' FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[],
                                             $5::timestamptz[], $6::bigint[])
               ON CONFLICT (program_id, member_id) DO NOTHING""",
        columns(rows),
    )


async def get(connection: Connection, program_id: UUID, household_id: UUID) -> Household | None:
    """One household, None if the program has none of that id."""
    row = await connection.fetchrow(
        """SELECT household_id, created_at, created_by, dissolved_at FROM household
            WHERE program_id = $1 AND household_id = $2""",
        program_id,
        household_id,
    )
    return None if row is None else Household(*tuple(row))


async def page(
    connection: Connection, program_id: UUID, *, before: UUID | None, size: int, dissolved: bool
) -> list[Household]:
    """At most ``size`` households before that id, newest first; dissolved ones only if asked for."""
    rows = await connection.fetch(
        """SELECT household_id, created_at, created_by, dissolved_at FROM household
            WHERE program_id = $1 AND ($2::uuid IS NULL OR household_id < $2)
              AND (dissolved_at IS NULL OR $3)
            ORDER BY household_id DESC LIMIT $4""",
        program_id,
        before,
        dissolved,
        size,
    )
    return [Household(*tuple(row)) for row in rows]


async def seats(connection: Connection, program_id: UUID, households: Collection[UUID]) -> list[Seat]:
    """All seats that these households have and had, in order of joining."""
    rows = await connection.fetch(
        f"""SELECT {SEAT_COLUMNS} FROM seat WHERE program_id = $1 AND household_id = ANY($2::uuid[])
             ORDER BY household_id, seat_id""",
        program_id,
        list(households),
    )
    return [seat(tuple(row)) for row in rows]


async def seat_of(connection: Connection, program_id: UUID, member_id: UUID) -> Seat | None:
    """Where a member sits, None if nowhere."""
    row = await connection.fetchrow(
        f"""SELECT {SEAT_COLUMNS} FROM seat
             WHERE program_id = $1 AND member_id = $2 AND left_at IS NULL""",
        program_id,
        member_id,
    )
    return None if row is None else seat(tuple(row))


async def invitation(connection: Connection, program_id: UUID, token_hash: bytes) -> Invitation | None:
    """The invitation with that token, whatever became of it."""
    row = await connection.fetchrow(
        f"SELECT {INVITATION_COLUMNS} FROM household_invitation WHERE program_id = $1 AND token_hash = $2",
        program_id,
        token_hash,
    )
    return None if row is None else Invitation(*tuple(row))
