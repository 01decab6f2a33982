"""The ledger's tables: loaded under locks, saved by one set-based statement each."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from server.domain.activity import MemberFacts
from server.domain.books import Effects, MemberState
from server.domain.ledger import Account, Allocation, Hold, HoldStatus, Kind, Lot, Transaction, Wallet
from server.domain.rules import trace
from server.domain.rules.evaluation import CapKey
from server.store.database import Connection
from server.store.together import Common, Question, Write, columns

MemberOf = tuple[UUID, UUID]  # the program, and the member within it
WalletOf = tuple[UUID, UUID, str]  # the program, the member, the point type
HOUSEHOLD = "household"  # the kind of a member that is the pool of one
NO_WALLETS: tuple[tuple[Any, ...], ...] = ((), (), (), ())
NOTHING: Mapping[MemberOf, str] = {}

TRANSACTION_COLUMNS = """program_id, member_id, transaction_id, point_type, sequence, kind, points,
    debit_account, credit_account, balance_after, occurred_at, recorded_at, event_id, event_type,
    order_reference, store, channel, source_system, actor, credential_id, reason, trace,
    key_id, previous_hash, hash"""

# The member counted the moment of such a row as activity.
TOUCHES = """(kind IN ('EARN', 'REDEEM', 'CAPTURE')
              OR kind = 'ADJUST' AND credit_account = 'wallet.balance')"""


def wallets_of(
    members: Mapping[MemberOf, bool], now: datetime, awaited: Mapping[MemberOf, str] = NOTHING
) -> Common:
    """Members' wallets, a row each, which questions about members, their lots and their holds look at.

    ``members``: true for whom all that is open is wanted. ``awaited``: the type of event that each submits.
    """
    return Common(
        "purse",
        """SELECT wanted.program_id, wanted.member_id, event_type,
                  whole OR coalesce(next_due <= $5, false) AS due,
                  point_type, balance, pending, held, debt, lifetime, sequence, head_hash, next_due,
                  active_at
             FROM unnest($1::uuid[], $2::uuid[], $3::boolean[], $4::text[])
                  AS wanted(program_id, member_id, whole, event_type)
             LEFT JOIN wallet w USING (program_id, member_id)""",
        (
            [program_id for program_id, _ in members],
            [member_id for _, member_id in members],
            list(members.values()),
            [awaited.get(member, "") for member in members],
            now,
        ),
    )


def members_known(
    wallets: Common, main_point_types: Mapping[UUID, str]
) -> Question[dict[MemberOf, MemberState]]:
    """The members that exist, with their ``wallets`` and without their lots."""
    return Question(
        """SELECT ROW(m.program_id, m.member_id, m.status, m.tier, m.tags, m.segments, m.attributes,
                      m.birth_month, m.joined_at, m.purchases, m.version, m.inherited, m.kind,
                      p.point_type, p.balance, p.pending, p.held, p.debt, p.lifetime, p.sequence, p.head_hash,
                      p.next_due, p.active_at)::member_known_row
             FROM purse p JOIN member m USING (program_id, member_id)""",
        (),
        partial(_members, main_point_types=main_point_types),
        wallets,
    )


def _members(rows: Sequence[Any], main_point_types: Mapping[UUID, str]) -> dict[MemberOf, MemberState]:
    wallets: dict[MemberOf, dict[str, Wallet]] = {}
    first: dict[MemberOf, Any] = {}
    for row in rows:
        key = (row[0], row[1])
        first.setdefault(key, row)
        own = wallets.setdefault(key, {})
        if row[13] is not None:
            own[row[13]] = Wallet(*row[13:])
    return {key: _member(row, wallets[key], main_point_types[key[0]]) for key, row in first.items()}


def _member(row: Any, wallets: dict[str, Wallet], main_point_type: str) -> MemberState:
    main = wallets.get(main_point_type)
    facts = MemberFacts(
        tier=row[3],
        joined_at=row[8],
        lifetime=row[11] + (0 if main is None else main.lifetime),
        purchases=row[9],
        birth_month=row[7],
        tags=frozenset(row[4]),
        segments=frozenset(row[5]),
        attributes={} if row[6] == "{}" else json.loads(row[6]),
    )
    return MemberState(
        status=row[2],
        facts=facts,
        version=row[10],
        wallets=wallets,
        inherited=row[11],
        household=row[12] == HOUSEHOLD,
    )


LOT_COLUMNS = """lot_id, lot.point_type, transaction_id, points, remaining, active, activates_at,
    expires_at, lot.held, activates_on, rolling_days"""
# A rolling lot counts from the wallet's last activity.
EXPIRES = "coalesce(expires_at, w.active_at + make_interval(days => rolling_days))"


def lots_to_spend(wanted: Mapping[WalletOf, int]) -> Question[dict[MemberOf, dict[UUID, Lot]]]:
    """Of each wallet the lots that are spent first, as many as hold so many points, or all it has.

    Of rolling lots and of others so many each: activity between two spendings puts the former behind the
    latter, and leaves each kind in its own order.
    """
    return Question(
        f"""SELECT ROW(wanted.program_id, wanted.member_id, own.*)::lot_row
             FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[])
                  AS wanted(program_id, member_id, point_type, asked)
             JOIN wallet w USING (program_id, member_id, point_type),
                  LATERAL (SELECT {LOT_COLUMNS} FROM
                           (SELECT *, sum(remaining - held)
                                        OVER (PARTITION BY rolling_days IS NULL
                                              ORDER BY {EXPIRES} NULLS LAST, lot_id) AS so_far
                              FROM lot
                             WHERE program_id = w.program_id AND member_id = w.member_id
                               AND point_type = w.point_type AND remaining > 0
                               AND active AND remaining > held) AS lot
                            WHERE so_far - (remaining - held) < asked) AS own""",
        columns([(*wallet, points) for wallet, points in wanted.items()]) or NO_WALLETS,
        lots,
    )


def lots_open(wallets: Common) -> Question[dict[MemberOf, dict[UUID, Lot]]]:
    """The open lots of those ``wallets`` in which something has fallen due, and what waits for an event."""
    return Question(
        f"""SELECT ROW(program_id, member_id, {LOT_COLUMNS})::lot_row
             FROM purse p JOIN lot USING (program_id, member_id)
            WHERE (due OR pending > 0) AND lot.point_type = p.point_type AND remaining > 0
              AND (due OR (NOT active AND activates_on = event_type))""",
        (),
        lots,
        wallets,
    )


def lots_that_change(wallets: Common) -> Question[dict[MemberOf, dict[UUID, Lot]]]:
    """The open lots of those ``wallets`` in which the clock, or an event, will change something."""
    return Question(
        f"""SELECT ROW(program_id, member_id, {LOT_COLUMNS})::lot_row
             FROM purse p JOIN lot USING (program_id, member_id)
            WHERE (next_due IS NOT NULL OR pending > 0) AND lot.point_type = p.point_type
              AND remaining > 0""",
        (),
        lots,
        wallets,
    )


def holds_open(
    wallets: Common, hold_ids: Collection[UUID] = ()
) -> Question[dict[MemberOf, dict[UUID, Hold]]]:
    """The open holds of those ``wallets`` in which something has fallen due, and those of these ids."""
    return Question(
        """SELECT ROW(program_id, member_id, hold_id, point_type, points, open_points, captured, status,
                      expires_at, shares, spender_id)
             FROM purse p JOIN hold h USING (program_id, member_id, point_type)
            WHERE hold_id = ANY($1::uuid[]) OR (open_points > 0 AND due)""",
        (list(hold_ids),),
        _holds,
        wallets,
    )


def _holds(rows: Sequence[Any]) -> dict[MemberOf, dict[UUID, Hold]]:
    holds: dict[MemberOf, dict[UUID, Hold]] = {}
    for row in rows:
        holds.setdefault((row[0], row[1]), {})[row[2]] = hold(row[2:])
    return holds


def hold(row: Sequence[Any]) -> Hold:
    """A hold as the domain knows it."""
    hold_id, point_type, points, open_points, captured, status, expires_at, shares, spender_id = row
    return Hold(
        hold_id,
        point_type,
        points,
        open_points,
        captured,
        HoldStatus(status),
        expires_at,
        tuple(Allocation(UUID(lot_id), share) for lot_id, share in json.loads(shares)),
        spender_id,
    )


def lots(rows: Sequence[Any]) -> dict[MemberOf, dict[UUID, Lot]]:
    """Rows of program, member and LOT_COLUMNS, by member and id."""
    found: dict[MemberOf, dict[UUID, Lot]] = {}
    for row in rows:
        found.setdefault((row[0], row[1]), {})[row[2]] = Lot(*row[2:])
    return found


def cap_usage(
    wanted: Collection[tuple[UUID, UUID, CapKey]],
) -> Question[dict[MemberOf, dict[CapKey, int]]]:
    """Points that capped rules have given these members in these periods."""
    return Question(
        """SELECT ROW(program_id, member_id, rule, period, points)::cap_usage_row
             FROM unnest($1::cap_usage_asked[]) AS wanted
             JOIN cap_usage USING (program_id, member_id, rule, period)""",
        ([(program_id, member_id, *counter) for program_id, member_id, counter in wanted],),
        _usage,
    )


def _usage(rows: Sequence[Any]) -> dict[MemberOf, dict[CapKey, int]]:
    usage: dict[MemberOf, dict[CapKey, int]] = {}
    for row in rows:
        usage.setdefault((row[0], row[1]), {})[CapKey(row[2], row[3])] = row[4]
    return usage


def save(decisions: Sequence[tuple[UUID, Effects]]) -> list[Write | None]:
    """Write what the decisions of a batch change, in their order; the key tables and events apart."""
    rows = [m.transaction for _, d in decisions for m in d.movements]
    return [
        _insert_transactions(rows),
        _insert_lots(decisions),
        _insert_allocations(decisions),
        _change_lots(decisions),
        _upsert_wallets(decisions),
        *_cap_usage(decisions),
        _update_members(decisions),
        _upsert_holds(decisions),
        _add_returned(decisions),
        _add_refunded(decisions),
    ]


def _insert_transactions(rows: Sequence[Transaction]) -> Write | None:
    if not rows:
        return None
    return Write(
        f"""INSERT INTO ledger_transaction ({TRANSACTION_COLUMNS})
            SELECT * FROM unnest($1::ledger_transaction_row[])""",
        (rows,),
    )


def _insert_lots(decisions: Sequence[tuple[UUID, Effects]]) -> Write | None:
    # A lot that one decision of this batch created may be changed by the next, so it is written as
    # the last movement left it.
    left = {lot.lot_id: lot for _, d in decisions for m in d.movements for lot in (*m.created, *m.changed)}
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
                            active, activates_at, expires_at, held, activates_on, rolling_days)
           SELECT * FROM unnest($1::lot_row[])""",
        (rows,),
    )


def _insert_allocations(decisions: Sequence[tuple[UUID, Effects]]) -> Write | None:
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
           SELECT * FROM unnest($1::allocation_row[])""",
        (rows,),
    )


def _change_lots(decisions: Sequence[tuple[UUID, Effects]]) -> Write | None:
    """Lots of earlier batches as they are now; those of this one are written as they are at its end."""
    changed = {
        lot.lot_id: (
            m.transaction.program_id,
            m.transaction.member_id,
            lot.lot_id,
            lot.remaining,
            lot.active,
            lot.held,
        )
        for _, d in decisions
        for m in d.movements
        for lot in m.changed
    }
    if not changed:
        return None
    return Write(
        """UPDATE lot SET remaining = now.remaining, active = now.active, held = now.held
             FROM unnest($1::lot_left_row[]) AS now
            WHERE lot.program_id = now.program_id AND lot.member_id = now.member_id
              AND lot.lot_id = now.lot_id""",
        (list(changed.values()),),
    )


def _upsert_wallets(decisions: Sequence[tuple[UUID, Effects]]) -> Write | None:
    last = {
        (program_id, member_id, wallet.point_type): (program_id, member_id, *wallet)
        for program_id, d in decisions
        for member_id, member in d.members.items()
        for wallet in member.wallets.values()
        if wallet.sequence
    }
    if not last:
        return None
    return Write(
        """INSERT INTO wallet (program_id, member_id, point_type, balance, pending, held, debt, lifetime,
                               sequence, head_hash, next_due, active_at)
           SELECT * FROM unnest($1::wallet_row[])
               ON CONFLICT (program_id, member_id, point_type) DO UPDATE SET
                  balance = excluded.balance, pending = excluded.pending, held = excluded.held,
                  debt = excluded.debt, lifetime = excluded.lifetime, sequence = excluded.sequence,
                  head_hash = excluded.head_hash, next_due = excluded.next_due,
                  active_at = excluded.active_at""",
        (list(last.values()),),
    )


def _cap_usage(decisions: Sequence[tuple[UUID, Effects]]) -> Iterator[Write | None]:
    """What counters of caps gain, and what returns give back to them, each counter once."""
    change: dict[tuple[UUID, UUID, CapKey], int] = {}
    for program_id, decision in decisions:
        for (member_id, key), points in decision.changes.cap_usage.items():
            where = (program_id, member_id, key)
            change[where] = change.get(where, 0) + points
    gained = [(p, m, *key, points) for (p, m, key), points in change.items() if points > 0]
    given_back = [(p, m, *key, -points) for (p, m, key), points in change.items() if points < 0]
    yield Write(ADD_CAP_USAGE, (gained,)) if gained else None
    yield Write(GIVE_BACK_CAP_USAGE, (given_back,)) if given_back else None


ADD_CAP_USAGE = """
    INSERT INTO cap_usage (program_id, member_id, rule, period, points)
    SELECT * FROM unnest($1::cap_usage_row[])
        ON CONFLICT (program_id, member_id, rule, period)
        DO UPDATE SET points = cap_usage.points + excluded.points"""
GIVE_BACK_CAP_USAGE = """
    UPDATE cap_usage SET points = greatest(cap_usage.points - back.points, 0)
      FROM unnest($1::cap_usage_row[]) AS back
     WHERE cap_usage.program_id = back.program_id AND cap_usage.member_id = back.member_id
       AND cap_usage.rule = back.rule AND cap_usage.period = back.period"""


def _update_members(decisions: Sequence[tuple[UUID, Effects]]) -> Write | None:
    last = {
        (program_id, member_id): member
        for program_id, d in decisions
        if not d.changes.merged  # written apart
        for member_id, member in d.members.items()
    }
    if not last:
        return None
    return Write(
        """UPDATE member SET version = after.version, status = after.status, tier = after.tier,
                             purchases = after.purchases,
                             tags = CASE WHEN after.tags IS NULL THEN member.tags
                                         ELSE ARRAY(SELECT jsonb_array_elements_text(after.tags)) END
             FROM unnest($1::member_row[]) AS after
            WHERE member.program_id = after.program_id AND member.member_id = after.member_id""",
        (
            [
                (
                    *key,
                    member.version,
                    member.status,
                    member.facts.tier,
                    member.facts.purchases,
                    json.dumps(sorted(member.facts.tags)) if member.facts.tags else None,
                )
                for key, member in last.items()
            ],
        ),
    )


def _upsert_holds(decisions: Sequence[tuple[UUID, Effects]]) -> Write | None:
    last = {
        hold_id: (
            program_id,
            member_id,
            *hold[:7],
            json.dumps([[share.lot_id.hex, share.points] for share in hold.shares]),
            hold.spender_id,
        )
        for program_id, d in decisions
        for (member_id, hold_id), hold in d.changes.holds.items()
    }
    if not last:
        return None
    return Write(
        """INSERT INTO hold (program_id, member_id, hold_id, point_type, points, open_points, captured,
                             status, expires_at, shares, spender_id)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::bigint[],
                                $7::bigint[], $8::text[], $9::timestamptz[], $10::jsonb[], $11::uuid[])
               ON CONFLICT (program_id, member_id, hold_id) DO UPDATE SET
                  open_points = excluded.open_points, captured = excluded.captured,
                  status = excluded.status, shares = excluded.shares""",
        columns(list(last.values())),
    )


def _add_returned(decisions: Sequence[tuple[UUID, Effects]]) -> Write | None:
    units: dict[tuple[UUID, UUID, UUID, str], int] = {}
    for program_id, decision in decisions:
        for line, quantity in decision.changes.returned.items():
            units[program_id, *line] = units.get((program_id, *line), 0) + quantity
    if not units:
        return None
    return Write(
        """INSERT INTO returned_line (program_id, member_id, event_id, line_id, quantity)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[])
               ON CONFLICT (program_id, member_id, event_id, line_id)
               DO UPDATE SET quantity = returned_line.quantity + excluded.quantity""",
        columns([(*line, quantity) for line, quantity in units.items()]),
    )


def _add_refunded(decisions: Sequence[tuple[UUID, Effects]]) -> Write | None:
    given: dict[tuple[UUID, UUID, UUID], int] = {}
    for program_id, decision in decisions:
        for row, points in decision.changes.refunded.items():
            given[program_id, *row] = given.get((program_id, *row), 0) + points
    if not given:
        return None
    return Write(
        """INSERT INTO refund (program_id, member_id, transaction_id, points)
           SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[])
               ON CONFLICT (program_id, member_id, transaction_id)
               DO UPDATE SET points = refund.points + excluded.points""",
        columns([(*row, points) for row, points in given.items()]),
    )


HOLD_COLUMNS = "hold_id, point_type, points, open_points, captured, status, expires_at, shares, spender_id"


async def get_hold(connection: Connection, program_id: UUID, hold_id: UUID) -> tuple[UUID, Hold] | None:
    """The member and the hold, None if the program has none of that id."""
    row = await connection.fetchrow(
        f"SELECT member_id, {HOLD_COLUMNS} FROM hold WHERE hold_id = $1 AND program_id = $2",
        hold_id,
        program_id,
    )
    return None if row is None else (row[0], hold(tuple(row)[1:]))


async def list_holds(connection: Connection, program_id: UUID, member_id: UUID, limit: int) -> list[Hold]:
    """A member's open holds that have not reached their time limit, the soonest to end first."""
    rows = await connection.fetch(
        f"""SELECT {HOLD_COLUMNS} FROM hold
             WHERE program_id = $1 AND member_id = $2 AND open_points > 0 AND expires_at > now()
             ORDER BY expires_at, hold_id LIMIT $3""",
        program_id,
        member_id,
        limit,
    )
    return [hold(tuple(row)) for row in rows]


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
                  l.expires_at, l.held, l.activates_on, l.rolling_days, a.points AS moved
             FROM allocation a JOIN lot l USING (program_id, member_id, lot_id)
            WHERE a.program_id = $1 AND a.member_id = $2 AND a.transaction_id = $3
           UNION ALL
           SELECT lot_id, point_type, transaction_id, points, remaining, active, activates_at, expires_at,
                  held, activates_on, rolling_days, points FROM lot
            WHERE program_id = $1 AND member_id = $2 AND transaction_id = $3
            ORDER BY expires_at NULLS LAST, lot_id""",
        row.program_id,
        row.member_id,
        row.transaction_id,
    )
    return [(Lot(*r[:-1]), r[-1]) for r in rows]


def transaction(row: Any) -> Transaction:
    """The row as the domain knows it. ``row`` has TRANSACTION_COLUMNS, in that order, first."""
    values = list(row.values())[:25]
    values[5], values[7], values[8] = Kind(values[5]), Account(values[7]), Account(values[8])
    # PostgreSQL keeps JSON in an order of its own.
    values[21] = trace.canonical(json.loads(values[21]))
    return Transaction(*values)
