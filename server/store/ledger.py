"""The ledger's tables: loaded under locks, saved by one set-based statement each."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from server.domain.activity import MemberFacts
from server.domain.books import Decision, MemberState
from server.domain.ledger import Account, Kind, Lot, Transaction, Wallet
from server.domain.rules.evaluation import CapKey
from server.store.database import Connection

MemberOf = tuple[UUID, UUID]  # the program, and the member within it

TRANSACTION_COLUMNS = """program_id, member_id, transaction_id, point_type, sequence, kind, points,
    debit_account, credit_account, balance_after, occurred_at, recorded_at, event_id, event_type,
    order_reference, store, channel, source_system, actor, credential_id, reason, trace,
    key_id, previous_hash, hash"""


async def load_members(
    connection: Connection, members: Sequence[MemberOf], main_point_types: Mapping[UUID, str]
) -> dict[MemberOf, MemberState]:
    """The members that exist, with their wallets and without their lots."""
    rows = await connection.fetch(
        """SELECT m.program_id, m.member_id, m.status, m.tier, m.tags, m.segments, m.attributes,
                  m.birth_month, m.joined_at, m.purchases, m.version,
                  w.point_type, w.balance, w.pending, w.held, w.debt, w.lifetime, w.sequence, w.head_hash
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id)
             JOIN member m USING (program_id, member_id)
             LEFT JOIN wallet w USING (program_id, member_id)""",
        [program_id for program_id, _ in members],
        [member_id for _, member_id in members],
    )
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


async def load_open_lots(
    connection: Connection, members: Sequence[MemberOf]
) -> dict[MemberOf, dict[UUID, Lot]]:
    """The lots of these members that still hold points."""
    if not members:
        return {}
    rows = await connection.fetch(
        """SELECT program_id, member_id, lot_id, point_type, transaction_id, points, remaining, active,
                  activates_at, expires_at
             FROM unnest($1::uuid[], $2::uuid[]) AS wanted(program_id, member_id)
             JOIN lot USING (program_id, member_id)
            WHERE remaining > 0""",
        [program_id for program_id, _ in members],
        [member_id for _, member_id in members],
    )
    lots: dict[MemberOf, dict[UUID, Lot]] = {}
    for row in rows:
        lots.setdefault((row[0], row[1]), {})[row[2]] = Lot(*row[2:])
    return lots


async def load_cap_usage(
    connection: Connection, wanted: Sequence[tuple[UUID, UUID, CapKey]]
) -> dict[MemberOf, dict[CapKey, int]]:
    """Points that capped rules have given these members in these periods."""
    if not wanted:
        return {}
    rows = await connection.fetch(
        """SELECT program_id, member_id, rule, period, points
             FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[])
                  AS wanted(program_id, member_id, rule, period)
             JOIN cap_usage USING (program_id, member_id, rule, period)""",
        [program_id for program_id, _, _ in wanted],
        [member_id for _, member_id, _ in wanted],
        [rule for _, _, (rule, _) in wanted],
        [period for _, _, (_, period) in wanted],
    )
    usage: dict[MemberOf, dict[CapKey, int]] = {}
    for row in rows:
        usage.setdefault((row[0], row[1]), {})[CapKey(row[2], row[3])] = row[4]
    return usage


async def save(connection: Connection, decisions: Sequence[tuple[UUID, Decision]]) -> None:
    """Write what the decisions of a batch change, in their order; the key tables and events apart."""
    rows = [m.transaction for _, d in decisions for m in d.movements]
    if rows:
        await _insert_transactions(connection, rows)
        await _insert_lots(connection, decisions)
        await _draw_lots(connection, decisions)
        await _upsert_wallets(connection, decisions)
        await _add_cap_usage(connection, decisions)
    await _update_members(connection, decisions)


async def _insert_transactions(connection: Connection, rows: Sequence[Transaction]) -> None:
    await connection.execute(
        f"""INSERT INTO ledger_transaction ({TRANSACTION_COLUMNS})
            SELECT * FROM unnest(
                $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::text[], $7::bigint[],
                $8::text[], $9::text[], $10::bigint[], $11::timestamptz[], $12::timestamptz[], $13::uuid[],
                $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::uuid[],
                $21::text[], $22::jsonb[], $23::text[], $24::bytea[], $25::bytea[])""",
        [r.program_id for r in rows],
        [r.member_id for r in rows],
        [r.transaction_id for r in rows],
        [r.point_type for r in rows],
        [r.sequence for r in rows],
        [r.kind for r in rows],
        [r.points for r in rows],
        [r.debit_account for r in rows],
        [r.credit_account for r in rows],
        [r.balance_after for r in rows],
        [r.occurred_at for r in rows],
        [r.recorded_at for r in rows],
        [r.event_id for r in rows],
        [r.event_type for r in rows],
        [r.order_reference for r in rows],
        [r.store for r in rows],
        [r.channel for r in rows],
        [r.source_system for r in rows],
        [r.actor for r in rows],
        [r.credential_id for r in rows],
        [r.reason for r in rows],
        [json.dumps(r.trace, ensure_ascii=False) for r in rows],
        [r.key_id for r in rows],
        [r.previous_hash for r in rows],
        [r.hash for r in rows],
    )


async def _insert_lots(connection: Connection, decisions: Sequence[tuple[UUID, Decision]]) -> None:
    # A lot that an earn of this batch created may be drawn from by its neighbour, so what
    # remains of it is what the last movement left.
    left = {lot.lot_id: lot for _, d in decisions for m in d.movements for lot in (*m.created, *m.drawn)}
    created = [
        (m.transaction, left[lot.lot_id]) for _, d in decisions for m in d.movements for lot in m.created
    ]
    if not created:
        return
    await connection.execute(
        """INSERT INTO lot (program_id, member_id, lot_id, point_type, transaction_id, points, remaining,
                            active, activates_at, expires_at)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::uuid[], $6::bigint[],
                                $7::bigint[], $8::boolean[], $9::timestamptz[], $10::timestamptz[])""",
        [row.program_id for row, _ in created],
        [row.member_id for row, _ in created],
        [lot.lot_id for _, lot in created],
        [lot.point_type for _, lot in created],
        [lot.transaction_id for _, lot in created],
        [lot.points for _, lot in created],
        [lot.remaining for _, lot in created],
        [lot.active for _, lot in created],
        [lot.activates_at for _, lot in created],
        [lot.expires_at for _, lot in created],
    )


async def _draw_lots(connection: Connection, decisions: Sequence[tuple[UUID, Decision]]) -> None:
    shares = [(m.transaction, a) for _, d in decisions for m in d.movements for a in m.allocations]
    if not shares:
        return
    await connection.execute(
        """INSERT INTO allocation (program_id, member_id, transaction_id, lot_id, points)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[])""",
        [row.program_id for row, _ in shares],
        [row.member_id for row, _ in shares],
        [row.transaction_id for row, _ in shares],
        [share.lot_id for _, share in shares],
        [share.points for _, share in shares],
    )
    drawn = {lot.lot_id: (m.transaction, lot) for _, d in decisions for m in d.movements for lot in m.drawn}
    await connection.execute(
        """UPDATE lot SET remaining = drawn.remaining
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[])
                  AS drawn(program_id, member_id, lot_id, remaining)
            WHERE lot.program_id = drawn.program_id AND lot.member_id = drawn.member_id
              AND lot.lot_id = drawn.lot_id AND lot.remaining <> drawn.remaining""",
        [row.program_id for row, _ in drawn.values()],
        [row.member_id for row, _ in drawn.values()],
        [lot.lot_id for _, lot in drawn.values()],
        [lot.remaining for _, lot in drawn.values()],
    )


async def _upsert_wallets(connection: Connection, decisions: Sequence[tuple[UUID, Decision]]) -> None:
    last = {
        (program_id, d.outcome.member_id, m.wallet.point_type): m.wallet
        for program_id, d in decisions
        for m in d.movements
    }
    await connection.execute(
        """INSERT INTO wallet (program_id, member_id, point_type, balance, pending, held, debt, lifetime,
                               sequence, head_hash)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                                $7::bigint[], $8::bigint[], $9::bigint[], $10::bytea[])
               ON CONFLICT (program_id, member_id, point_type) DO UPDATE SET
                  balance = excluded.balance, pending = excluded.pending, held = excluded.held,
                  debt = excluded.debt, lifetime = excluded.lifetime, sequence = excluded.sequence,
                  head_hash = excluded.head_hash""",
        [key[0] for key in last],
        [key[1] for key in last],
        [key[2] for key in last],
        [w.balance for w in last.values()],
        [w.pending for w in last.values()],
        [w.held for w in last.values()],
        [w.debt for w in last.values()],
        [w.lifetime for w in last.values()],
        [w.sequence for w in last.values()],
        [w.head_hash for w in last.values()],
    )


async def _add_cap_usage(connection: Connection, decisions: Sequence[tuple[UUID, Decision]]) -> None:
    added: dict[tuple[UUID, UUID, CapKey], int] = {}
    for program_id, decision in decisions:
        for key, points in decision.cap_usage.items():
            where = (program_id, decision.outcome.member_id, key)
            added[where] = added.get(where, 0) + points
    if not added:
        return
    await connection.execute(
        """INSERT INTO cap_usage (program_id, member_id, rule, period, points)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[])
               ON CONFLICT (program_id, member_id, rule, period)
               DO UPDATE SET points = cap_usage.points + excluded.points""",
        [program_id for program_id, _, _ in added],
        [member_id for _, member_id, _ in added],
        [rule for _, _, (rule, _) in added],
        [period for _, _, (_, period) in added],
        list(added.values()),
    )


async def _update_members(connection: Connection, decisions: Sequence[tuple[UUID, Decision]]) -> None:
    last = {(program_id, d.outcome.member_id): d.member for program_id, d in decisions}
    await connection.execute(
        """UPDATE member SET version = after.version, tier = after.tier, purchases = after.purchases,
                             tags = CASE WHEN after.tags IS NULL THEN member.tags
                                         ELSE ARRAY(SELECT jsonb_array_elements_text(after.tags)) END
             FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::jsonb[])
                  AS after(program_id, member_id, version, tier, purchases, tags)
            WHERE member.program_id = after.program_id AND member.member_id = after.member_id""",
        [key[0] for key in last],
        [key[1] for key in last],
        [m.version for m in last.values()],
        [m.facts.tier for m in last.values()],
        [m.facts.purchases for m in last.values()],
        [json.dumps(sorted(m.facts.tags)) if m.facts.tags else None for m in last.values()],
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
    values[21] = json.loads(values[21])
    return Transaction(*values)
