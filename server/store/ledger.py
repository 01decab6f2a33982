"""The ledger's tables: loaded under locks, saved by one set-based statement each."""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from server.domain.activity import MemberFacts
from server.domain.books import Decision, MemberState
from server.domain.ledger import Account, Kind, Lot, Transaction, Wallet
from server.domain.rules import trace
from server.domain.rules.evaluation import CapKey
from server.store.database import Connection
from server.store.together import Question, Write, columns

MemberOf = tuple[UUID, UUID]  # the program, and the member within it
WalletOf = tuple[UUID, UUID, str]  # the program, the member, the point type
NO_WALLETS: tuple[tuple[Any, ...], ...] = ((), (), (), ())

TRANSACTION_COLUMNS = """program_id, member_id, transaction_id, point_type, sequence, kind, points,
    debit_account, credit_account, balance_after, occurred_at, recorded_at, event_id, event_type,
    order_reference, store, channel, source_system, actor, credential_id, reason, trace,
    key_id, previous_hash, hash"""


def members_known(
    members: Collection[MemberOf], main_point_types: Mapping[UUID, str]
) -> Question[dict[MemberOf, MemberState]]:
    """The members that exist, with their wallets and without their lots."""
    return Question(
        """SELECT ROW(m.program_id, m.member_id, m.status, m.tier, m.tags, m.segments, m.attributes,
                      m.birth_month, m.joined_at, m.purchases, m.version,
                      w.point_type, w.balance, w.pending, w.held, w.debt, w.lifetime, w.sequence, w.head_hash)
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id)
             JOIN member m USING (program_id, member_id)
             LEFT JOIN wallet w USING (program_id, member_id)""",
        ([program_id for program_id, _ in members], [member_id for _, member_id in members]),
        partial(_members, main_point_types=main_point_types),
    )


def _members(rows: Sequence[Any], main_point_types: Mapping[UUID, str]) -> dict[MemberOf, MemberState]:
    wallets: dict[MemberOf, dict[str, Wallet]] = {}
    first: dict[MemberOf, Any] = {}
    for row in rows:
        key = (row[0], row[1])
        first.setdefault(key, row)
        own = wallets.setdefault(key, {})
        if row[11] is not None:
            own[row[11]] = Wallet(*row[11:])
    return {key: _member(row, wallets[key], main_point_types[key[0]]) for key, row in first.items()}


def _member(row: Any, wallets: dict[str, Wallet], main_point_type: str) -> MemberState:
    main = wallets.get(main_point_type)
    facts = MemberFacts(
        tier=row[3],
        joined_at=row[8],
        lifetime=0 if main is None else main.lifetime,
        purchases=row[9],
        birth_month=row[7],
        tags=frozenset(row[4]),
        segments=frozenset(row[5]),
        attributes={} if row[6] == "{}" else json.loads(row[6]),
    )
    return MemberState(status=row[2], facts=facts, version=row[10], wallets=wallets)


def lots_to_spend(wanted: Mapping[WalletOf, int]) -> Question[dict[MemberOf, dict[UUID, Lot]]]:
    """Of each wallet the lots that are spent first, as many as hold so many points, or all it has."""
    return Question(
        """SELECT ROW(wanted.program_id, wanted.member_id, lot_id, wanted.point_type, transaction_id, points,
                      remaining, active, activates_at, expires_at)
             FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[])
                  AS wanted(program_id, member_id, point_type, asked),
                  LATERAL (SELECT *, sum(remaining) FILTER (WHERE active)
                                     OVER (ORDER BY expires_at NULLS LAST, lot_id) AS so_far
                             FROM lot
                            WHERE program_id = wanted.program_id AND member_id = wanted.member_id
                              AND point_type = wanted.point_type AND remaining > 0) AS own
            WHERE active AND so_far - remaining < asked""",
        columns([(*wallet, points) for wallet, points in wanted.items()]) or NO_WALLETS,
        _lots,
    )


def _lots(rows: Sequence[Any]) -> dict[MemberOf, dict[UUID, Lot]]:
    lots: dict[MemberOf, dict[UUID, Lot]] = {}
    for row in rows:
        lots.setdefault((row[0], row[1]), {})[row[2]] = Lot(*row[2:])
    return lots


def cap_usage(
    wanted: Collection[tuple[UUID, UUID, CapKey]],
) -> Question[dict[MemberOf, dict[CapKey, int]]]:
    """Points that capped rules have given these members in these periods."""
    return Question(
        """SELECT ROW(program_id, member_id, rule, period, points)
             FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[])
                  AS wanted(program_id, member_id, rule, period)
             JOIN cap_usage USING (program_id, member_id, rule, period)""",
        (
            [program_id for program_id, _, _ in wanted],
            [member_id for _, member_id, _ in wanted],
            [rule for _, _, (rule, _) in wanted],
            [period for _, _, (_, period) in wanted],
        ),
        _usage,
    )


def _usage(rows: Sequence[Any]) -> dict[MemberOf, dict[CapKey, int]]:
    usage: dict[MemberOf, dict[CapKey, int]] = {}
    for row in rows:
        usage.setdefault((row[0], row[1]), {})[CapKey(row[2], row[3])] = row[4]
    return usage


def save(decisions: Sequence[tuple[UUID, Decision]]) -> list[Write | None]:
    """Write what the decisions of a batch change, in their order; the key tables and events apart."""
    rows = [m.transaction for _, d in decisions for m in d.movements]
    return [
        _insert_transactions(rows),
        _insert_lots(decisions),
        _insert_allocations(decisions),
        _draw_lots(decisions),
        _upsert_wallets(decisions),
        _add_cap_usage(decisions),
        _update_members(decisions),
    ]


def _insert_transactions(rows: Sequence[Transaction]) -> Write | None:
    if not rows:
        return None
    return Write(
        f"""INSERT INTO ledger_transaction ({TRANSACTION_COLUMNS})
            SELECT * FROM unnest(
                $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::text[], $7::bigint[],
                $8::text[], $9::text[], $10::bigint[], $11::timestamptz[], $12::timestamptz[], $13::uuid[],
                $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::uuid[],
                $21::text[], $22::jsonb[], $23::text[], $24::bytea[], $25::bytea[])""",
        columns(rows),
    )


def _insert_lots(decisions: Sequence[tuple[UUID, Decision]]) -> Write | None:
    # A lot that an earn of this batch created may be drawn from by its neighbour, so what
    # remains of it is what the last movement left.
    left = {lot.lot_id: lot for _, d in decisions for m in d.movements for lot in (*m.created, *m.drawn)}
    rows = [
        (m.transaction.program_id, m.transaction.member_id, *left[lot.lot_id])
        for _, d in decisions
        for m in d.movements
        for lot in m.created
    ]
    if not rows:
        return None
    return Write(
        """INSERT INTO lot (program_id, member_id, lot_id, point_type, transaction_id, points, remaining,
                            active, activates_at, expires_at)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::uuid[], $6::bigint[],
                                $7::bigint[], $8::boolean[], $9::timestamptz[], $10::timestamptz[])""",
        columns(rows),
    )


def _insert_allocations(decisions: Sequence[tuple[UUID, Decision]]) -> Write | None:
    rows = [
        (m.transaction.program_id, m.transaction.member_id, m.transaction.transaction_id, *share)
        for _, d in decisions
        for m in d.movements
        for share in m.allocations
    ]
    if not rows:
        return None
    return Write(
        """INSERT INTO allocation (program_id, member_id, transaction_id, lot_id, points)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[])""",
        columns(rows),
    )


def _draw_lots(decisions: Sequence[tuple[UUID, Decision]]) -> Write | None:
    """What is left in lots of earlier batches; those of this one are written as they are at its end."""
    drawn = {
        lot.lot_id: (m.transaction.program_id, m.transaction.member_id, lot.lot_id, lot.remaining)
        for _, d in decisions
        for m in d.movements
        for lot in m.drawn
    }
    if not drawn:
        return None
    return Write(
        """UPDATE lot SET remaining = drawn.remaining
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[])
                  AS drawn(program_id, member_id, lot_id, remaining)
            WHERE lot.program_id = drawn.program_id AND lot.member_id = drawn.member_id
              AND lot.lot_id = drawn.lot_id""",
        columns(list(drawn.values())),
    )


def _upsert_wallets(decisions: Sequence[tuple[UUID, Decision]]) -> Write | None:
    last = {
        (program_id, d.outcome.member_id, m.wallet.point_type): (program_id, d.outcome.member_id, *m.wallet)
        for program_id, d in decisions
        for m in d.movements
    }
    if not last:
        return None
    return Write(
        """INSERT INTO wallet (program_id, member_id, point_type, balance, pending, held, debt, lifetime,
                               sequence, head_hash)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                                $7::bigint[], $8::bigint[], $9::bigint[], $10::bytea[])
               ON CONFLICT (program_id, member_id, point_type) DO UPDATE SET
                  balance = excluded.balance, pending = excluded.pending, held = excluded.held,
                  debt = excluded.debt, lifetime = excluded.lifetime, sequence = excluded.sequence,
                  head_hash = excluded.head_hash""",
        columns(list(last.values())),
    )


def _add_cap_usage(decisions: Sequence[tuple[UUID, Decision]]) -> Write | None:
    added: dict[tuple[UUID, UUID, CapKey], int] = {}
    for program_id, decision in decisions:
        for key, points in decision.cap_usage.items():
            where = (program_id, decision.outcome.member_id, key)
            added[where] = added.get(where, 0) + points
    if not added:
        return None
    return Write(
        """INSERT INTO cap_usage (program_id, member_id, rule, period, points)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[])
               ON CONFLICT (program_id, member_id, rule, period)
               DO UPDATE SET points = cap_usage.points + excluded.points""",
        columns(
            [(program_id, member_id, *key, points) for (program_id, member_id, key), points in added.items()]
        ),
    )


def _update_members(decisions: Sequence[tuple[UUID, Decision]]) -> Write | None:
    last = {(program_id, d.outcome.member_id): d.member for program_id, d in decisions}
    if not last:
        return None
    return Write(
        """UPDATE member SET version = after.version, tier = after.tier, purchases = after.purchases,
                             tags = CASE WHEN after.tags IS NULL THEN member.tags
                                         ELSE ARRAY(SELECT jsonb_array_elements_text(after.tags)) END
             FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::jsonb[])
                  AS after(program_id, member_id, version, tier, purchases, tags)
            WHERE member.program_id = after.program_id AND member.member_id = after.member_id""",
        columns(
            [
                (
                    *key,
                    member.version,
                    member.facts.tier,
                    member.facts.purchases,
                    json.dumps(sorted(member.facts.tags)) if member.facts.tags else None,
                )
                for key, member in last.items()
            ]
        ),
    )


async def get_transaction(
    connection: Connection, program_id: UUID, transaction_id: UUID
) -> Transaction | None:
    """One row, None if the program has none of that id."""
    row = await connection.fetchrow(
        f"""SELECT {TRANSACTION_COLUMNS} FROM ledger_transaction
             WHERE transaction_id = $1 AND program_id = $2""",
        transaction_id,
        program_id,
    )
    return None if row is None else transaction(row)


async def list_transactions(
    connection: Connection,
    program_id: UUID,
    member_id: UUID,
    limit: int,
    before: UUID | None = None,
    point_type: str = "",
) -> list[Transaction]:
    """A member's rows, newest first, those before the id ``before``."""
    rows = await connection.fetch(
        f"""SELECT {TRANSACTION_COLUMNS} FROM ledger_transaction
             WHERE program_id = $1 AND member_id = $2
               AND ($3::uuid IS NULL OR transaction_id < $3) AND ($4 = '' OR point_type = $4)
             ORDER BY transaction_id DESC LIMIT $5""",
        program_id,
        member_id,
        before,
        point_type,
        limit,
    )
    return [transaction(row) for row in rows]


async def lots_of(connection: Connection, row: Transaction) -> list[tuple[Lot, int]]:
    """The lots that a row created or drew from, each with the points that this row moved."""
    rows = await connection.fetch(
        """SELECT l.lot_id, l.point_type, l.transaction_id, l.points, l.remaining, l.active, l.activates_at,
                  l.expires_at, a.points AS moved
             FROM allocation a JOIN lot l USING (program_id, member_id, lot_id)
            WHERE a.program_id = $1 AND a.member_id = $2 AND a.transaction_id = $3
           UNION ALL
           SELECT lot_id, point_type, transaction_id, points, remaining, active, activates_at, expires_at,
                  points FROM lot
            WHERE program_id = $1 AND member_id = $2 AND transaction_id = $3
            ORDER BY expires_at NULLS LAST, lot_id""",
        row.program_id,
        row.member_id,
        row.transaction_id,
    )
    return [(Lot(*r[:8]), r[8]) for r in rows]


def transaction(row: Any) -> Transaction:
    """The row as the domain knows it. ``row`` has TRANSACTION_COLUMNS, in that order, first."""
    values = list(row.values())[:25]
    values[5], values[7], values[8] = Kind(values[5]), Account(values[7]), Account(values[8])
    # PostgreSQL keeps JSON in an order of its own.
    values[21] = trace.canonical(json.loads(values[21]))
    return Transaction(*values)
