"""What must hold between the ledger's tables, each as a query for where it doesn't.

Every query yields program_id, member_id, point_type, sequence, transaction_id and the
problem, and reads the tables within a ``Scope`` of programs or members.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.proof import ALLOCATED, Check
from server.store.standing import ISO, STANDING


class Scope(NamedTuple):
    """Which rows are looked at: a condition on program_id and member_id, and its arguments from $1 on."""

    condition: str
    arguments: tuple[Any, ...] = ()

    @property
    def tables(self) -> str:
        """The tables within it, to go before a query; each query reads them as it likes."""
        return TABLES.format(within=self.condition)


EVERYTHING = Scope("TRUE")

# These hold of all members of a program together, and of no part of them.
OF_ALL = frozenset({Check.TRANSFERS, Check.REQUESTS, Check.REMEMBERED})


def of_program(program_id: UUID) -> Scope:
    """What belongs to one program."""
    return Scope("program_id = $1::uuid", (program_id,))


def of_members(members: Collection[tuple[UUID, UUID]]) -> Scope:
    """What belongs to these members, each named with its program."""
    return Scope(
        "(program_id, member_id) IN (SELECT * FROM unnest($1::uuid[], $2::uuid[]))",
        ([program_id for program_id, _ in members], [member_id for _, member_id in members]),
    )


# Of a row: whether its points are in lots that it created, and whether they are of lots that were there.
# A debt that goes over with a merge is in no lot.
CREATES = """(kind = 'EARN' OR kind = 'TRANSFER_IN' AND credit_account <> 'wallet.debt'
              OR kind = 'ADJUST' AND credit_account = 'wallet.balance')"""
ALLOCATES = """(kind IN ('REDEEM', 'EXPIRE', 'SETTLE', 'REVERSE_REDEEM', 'HOLD', 'RELEASE', 'CAPTURE',
                         'ACTIVATE')
                OR kind = 'TRANSFER_OUT' AND debit_account <> 'wallet.debt'
                OR kind = 'REVERSE_EARN' AND debit_account IN ('wallet.balance', 'wallet.pending')
                OR kind = 'ADJUST' AND debit_account = 'wallet.balance')"""
_TAKING = ", ".join(f"('{kind}', {left}, {held})" for kind, (left, held) in ALLOCATED.items())

TABLES = """WITH
    entry AS NOT MATERIALIZED (SELECT * FROM ledger_transaction WHERE {within}),
    purse AS NOT MATERIALIZED (SELECT * FROM wallet WHERE {within}),
    batch AS NOT MATERIALIZED (SELECT * FROM lot WHERE {within}),
    share AS NOT MATERIALIZED (SELECT * FROM allocation WHERE {within}),
    receipt AS NOT MATERIALIZED (SELECT * FROM business_key WHERE {within}),
    usage AS NOT MATERIALIZED (SELECT * FROM cap_usage WHERE {within}),
    logged AS NOT MATERIALIZED (
        SELECT * FROM event_log
         WHERE event_type LIKE 'points.%' AND event_type <> 'points.expiring' AND {within}),
    reserved AS NOT MATERIALIZED (SELECT * FROM hold WHERE {within}),
    refunded AS NOT MATERIALIZED (SELECT * FROM refund WHERE {within}),
    returned AS NOT MATERIALIZED (SELECT * FROM returned_line WHERE {within}),
    asked AS NOT MATERIALIZED (SELECT * FROM adjustment WHERE {within}),
    known AS NOT MATERIALIZED (SELECT * FROM member WHERE {within}),
    proposed AS NOT MATERIALIZED (
        SELECT * FROM event_log
         WHERE event_type IN ('adjustment.requested', 'adjustment.rejected') AND {within}),
    -- A request names no member by itself.
    remembered AS NOT MATERIALIZED (
        SELECT * FROM (SELECT *, NULL::uuid AS member_id FROM request_key) AS k WHERE {within}),
    placed AS NOT MATERIALIZED (SELECT * FROM seat WHERE left_at IS NULL AND {within}),
    formed AS NOT MATERIALIZED (
        SELECT * FROM (SELECT program_id, household_id AS member_id, dissolved_at FROM household) AS h
         WHERE {within}),
    -- As text: what somebody tampered with need not be a UUID.
    named AS NOT MATERIALIZED (
        SELECT program_id, member_id, event_id, transaction_id
          FROM logged, LATERAL jsonb_array_elements_text(
               CASE WHEN event_type = 'points.redeemed' THEN jsonb_build_array(payload -> 'transaction_id')
                    WHEN jsonb_typeof(payload -> 'transaction_ids') = 'array'
                    THEN payload -> 'transaction_ids'
                    ELSE '[null]' END) AS transaction_id)"""

IDENTITIES: Mapping[Check, str] = {
    Check.WALLETS: """
        SELECT p.program_id, p.member_id, p.point_type, p.sequence, NULL::uuid,
               'the wallet has no rows, and a balance of ' || p.balance
          FROM purse p
         WHERE NOT EXISTS (SELECT FROM ledger_transaction t WHERE t.program_id = p.program_id
                              AND t.member_id = p.member_id AND t.point_type = p.point_type)""",
    Check.WALLET_LOTS: """
        SELECT program_id, member_id, point_type, p.sequence, t.transaction_id,
               'the wallet holds ' || coalesce(p.balance + p.held, 0) || ', ' || coalesce(p.held, 0)
               || ' of them held, and ' || coalesce(p.pending, 0) || ' pending; its lots '
               || coalesce(l.active, 0) || ', ' || coalesce(l.held, 0) || ' and ' || coalesce(l.pending, 0)
          FROM purse p
          FULL JOIN (SELECT program_id, member_id, point_type,
                            coalesce(sum(remaining) FILTER (WHERE active), 0) AS active,
                            coalesce(sum(remaining) FILTER (WHERE NOT active), 0) AS pending,
                            sum(held) AS held
                       FROM batch GROUP BY 1, 2, 3) l USING (program_id, member_id, point_type)
          LEFT JOIN ledger_transaction t USING (program_id, member_id, point_type, sequence)
         WHERE coalesce(p.balance + p.held, 0) <> coalesce(l.active, 0)
            OR coalesce(p.pending, 0) <> coalesce(l.pending, 0)
            OR coalesce(p.held, 0) <> coalesce(l.held, 0)""",
    Check.DEBTS: """
        SELECT program_id, member_id, point_type, sequence, NULL::uuid,
               'the wallet owes ' || debt || ' and has ' || balance || ' to spend'
          FROM purse WHERE debt > 0 AND balance > 0""",
    Check.HOLDS: """
        SELECT program_id, member_id, point_type, p.sequence, NULL::uuid,
               coalesce(p.held, 0) || ' are held, open holds reserve ' || coalesce(h.points, 0)
          FROM purse p
          FULL JOIN (SELECT program_id, member_id, point_type, sum(open_points) AS points
                       FROM reserved GROUP BY 1, 2, 3) h USING (program_id, member_id, point_type)
         WHERE coalesce(p.held, 0) <> coalesce(h.points, 0)""",
    # The rows of a hold name it in their traces. How it ended is told by the last of them, for whom it is and
    # until when it lasts by the first: in the oldest ledgers by its event.
    Check.HELD: f"""
        SELECT program_id, member_id, coalesce(r.point_type, h.point_type), r.sequence, r.transaction_id,
               'hold ' || hold || CASE
                    WHEN h.points IS NULL THEN ' of ' || r.placed || ' points is gone'
                    WHEN r.placed IS NULL THEN ' of ' || h.points || ' points was never placed'
                    ELSE ' is ' || h.said || '; its rows say ' || r.said END
          FROM (SELECT program_id, member_id, hold_id::text AS hold, point_type, points,
                       concat_ws(', ', points || ' ' || point_type, open_points || ' open',
                                 captured || ' captured', status,
                                 'until ' || {ISO.format("expires_at")}, 'for ' || spender_id,
                                 'of lots ' || (
                                     SELECT jsonb_object_agg(x ->> 0, x -> 1)::text FROM jsonb_array_elements(
                                         CASE WHEN jsonb_typeof(shares) = 'array' THEN shares END) AS x)
                                ) AS said
                  FROM reserved) h
          FULL JOIN (SELECT program_id, member_id, hold, point_type, sequence, transaction_id, placed,
                            concat_ws(', ', placed || ' ' || point_type, placed - gone || ' open',
                                      captured || ' captured',
                                      CASE WHEN placed > gone THEN 'open'
                                           WHEN last = 'CAPTURE' THEN 'captured'
                                           WHEN last = 'VOID' THEN 'voided' ELSE 'expired' END,
                                      'until ' || coalesce(until, (
                                          SELECT payload ->> 'until' FROM logged l
                                           WHERE l.program_id = moved.program_id
                                             AND l.member_id = moved.member_id
                                             AND l.event_id = moved.event_id)),
                                      'for ' || spender,
                                      'of lots ' || (
                                          SELECT jsonb_object_agg(lot, left_there)::text
                                            FROM (SELECT replace(lot_id::text, '-', '') AS lot,
                                                         sum(CASE e.kind WHEN 'HOLD' THEN s.points
                                                             ELSE -s.points END) AS left_there
                                                    FROM unnest(rows) AS own(transaction_id)
                                                    JOIN entry e USING (transaction_id)
                                                    JOIN share s USING (program_id, member_id, transaction_id)
                                                   WHERE e.program_id = moved.program_id
                                                     AND e.member_id = moved.member_id
                                                   GROUP BY 1) AS lots
                                           WHERE left_there <> 0)) AS said
                       FROM (SELECT program_id, member_id, trace ->> 'hold' AS hold,
                                    (array_agg(point_type ORDER BY sequence))[1] AS point_type,
                                    min(sequence) AS sequence,
                                    (array_agg(transaction_id ORDER BY sequence))[1] AS transaction_id,
                                    (array_agg(event_id ORDER BY sequence))[1] AS event_id,
                                    (array_agg(event_type ORDER BY sequence DESC))[1] AS last,
                                    array_agg(transaction_id) AS rows,
                                    min(trace ->> 'until') FILTER (WHERE kind = 'HOLD') AS until,
                                    min(trace #>> '{{household,spender}}') FILTER (WHERE kind = 'HOLD')
                                        AS spender,
                                    coalesce(sum(points) FILTER (WHERE kind = 'HOLD'), 0) AS placed,
                                    coalesce(sum(points) FILTER (WHERE kind = 'CAPTURE'), 0) AS captured,
                                    coalesce(sum(points) FILTER (WHERE kind <> 'HOLD'), 0) AS gone
                               FROM entry WHERE kind IN ('HOLD', 'CAPTURE', 'RELEASE')
                              GROUP BY 1, 2, 3) AS moved) r USING (program_id, member_id, hold)
         WHERE h.said IS DISTINCT FROM r.said""",
    Check.EARNED_LOTS: f"""
        SELECT program_id, member_id, point_type, e.sequence, transaction_id,
               CASE WHEN e.points IS NULL
                    THEN 'brought nothing in, yet it has lots of ' || l.points || ' points'
                    ELSE 'brought in ' || e.points || ', its lots are of ' || coalesce(l.points, 0) END
          FROM (SELECT * FROM entry WHERE {CREATES} OR kind = 'REVERSE_REDEEM') e
          FULL JOIN (SELECT program_id, member_id, point_type, transaction_id, sum(points) AS points
                       FROM batch GROUP BY 1, 2, 3, 4) l
               USING (program_id, member_id, point_type, transaction_id)
         WHERE CASE WHEN e.kind = 'REVERSE_REDEEM' THEN l.points > e.points
                    ELSE e.points IS DISTINCT FROM l.points END""",
    Check.DRAWN_LOTS: f"""
        SELECT program_id, member_id, point_type, t.sequence, transaction_id, problem
          FROM (SELECT program_id, member_id, coalesce(l.transaction_id, a.transaction_id) AS transaction_id,
                       CASE WHEN l.points IS NULL
                            THEN a.points || ' points are of lot ' || lot_id || ', which is gone'
                            ELSE 'its lot ' || lot_id || ' lacks ' || l.points - l.remaining
                                 || ' points and holds ' || l.held || ', ' || coalesce(-a.remaining, 0)
                                 || ' and ' || coalesce(a.held, 0) || ' were allocated' END AS problem
                  FROM batch l
                  FULL JOIN (SELECT program_id, member_id, lot_id, sum(s.points) AS points,
                                    sum(s.points * coalesce(k.remaining, -1)) AS remaining,
                                    sum(s.points * coalesce(k.held, 0)) AS held,
                                    (array_agg(transaction_id ORDER BY transaction_id))[1] AS transaction_id
                               FROM share s
                               LEFT JOIN entry e USING (program_id, member_id, transaction_id)
                               LEFT JOIN (VALUES {_TAKING}) AS k(kind, remaining, held) USING (kind)
                              GROUP BY 1, 2, 3) a USING (program_id, member_id, lot_id)
                 WHERE l.points IS NULL OR l.points - l.remaining <> coalesce(-a.remaining, 0)
                    OR l.held <> coalesce(a.held, 0)) bad
          LEFT JOIN ledger_transaction t USING (program_id, member_id, transaction_id)""",
    Check.ALLOCATIONS: f"""
        SELECT program_id, member_id, r.point_type, r.sequence, transaction_id,
               CASE WHEN r.points IS NULL THEN 'moved no points of lots, yet says so of ' || a.points
                    ELSE 'moved ' || r.points || ' points of lots, says of which of '
                         || coalesce(a.points, 0) END
          FROM (SELECT program_id, member_id, transaction_id, point_type, sequence,
                       points - CASE WHEN kind = 'REVERSE_REDEEM'
                                     THEN (SELECT coalesce(sum(l.points), 0) FROM lot l
                                            WHERE l.program_id = entry.program_id
                                              AND l.member_id = entry.member_id
                                              AND l.transaction_id = entry.transaction_id)
                                     ELSE 0 END AS points
                  FROM entry WHERE {ALLOCATES}) r
          FULL JOIN (SELECT program_id, member_id, transaction_id, sum(points) AS points
                       FROM share GROUP BY 1, 2, 3) a USING (program_id, member_id, transaction_id)
         WHERE r.points IS NULL OR r.points <> coalesce(a.points, 0)""",
    # What a return could not take back was issued and is outstanding nowhere: it isn't counted as reversed.
    Check.TOTALS: """
        SELECT program_id, NULL::uuid, point_type, NULL::bigint, NULL::uuid,
               'issued ' || coalesce(m.issued, 0) || ', adjusted ' || coalesce(m.adjusted, 0)
               || ', outstanding ' || coalesce(w.outstanding, 0) || ', redeemed ' || coalesce(m.redeemed, 0)
               || ', expired ' || coalesce(m.expired, 0) || ', reversed ' || coalesce(m.reversed, 0)
               || CASE WHEN m.transferred <> 0 THEN ', transferred ' || m.transferred ELSE '' END
          FROM (SELECT program_id, point_type,
                       sum(points) FILTER (WHERE debit_account = 'program.issuance') AS issued,
                       sum(points) FILTER (WHERE credit_account = 'program.issuance'
                                             AND debit_account <> 'program.shortfall') AS reversed,
                       sum(CASE 'program.adjustment' WHEN debit_account THEN points
                                                     WHEN credit_account THEN -points END) AS adjusted,
                       sum(CASE 'program.redemption' WHEN credit_account THEN points
                                                     WHEN debit_account THEN -points END) AS redeemed,
                       sum(points) FILTER (WHERE credit_account = 'program.breakage') AS expired,
                       sum(CASE 'program.transfer' WHEN debit_account THEN points
                                                   WHEN credit_account THEN -points END) AS transferred
                  FROM entry GROUP BY 1, 2) m
          FULL JOIN (SELECT program_id, point_type, sum(balance + pending + held - debt) AS outstanding
                       FROM purse GROUP BY 1, 2) w USING (program_id, point_type)
         WHERE coalesce(m.issued, 0) + coalesce(m.adjusted, 0) + coalesce(m.transferred, 0)
               <> coalesce(w.outstanding, 0) + coalesce(m.redeemed, 0) + coalesce(m.expired, 0)
                  + coalesce(m.reversed, 0)""",
    Check.TRANSFERS: """
        SELECT program_id, NULL::uuid, point_type, NULL::bigint, NULL::uuid,
               given || ' were transferred out, ' || got || ' came in'
          FROM (SELECT program_id, point_type,
                       coalesce(sum(points) FILTER (WHERE credit_account = 'program.transfer'), 0) AS given,
                       coalesce(sum(points) FILTER (WHERE debit_account = 'program.transfer'), 0) AS got
                  FROM entry GROUP BY 1, 2) moved
         WHERE given <> got""",
    Check.ORDERS: """
        SELECT r.program_id, r.member_id, NULL::text, NULL::bigint, moved.transaction_id,
               'order ' || r.order_reference || ' names a transaction that is not its own or is gone'
          FROM receipt r CROSS JOIN LATERAL unnest(r.transaction_ids) AS moved(transaction_id)
          LEFT JOIN ledger_transaction t
               ON t.program_id = r.program_id AND t.member_id = r.member_id
                  AND t.transaction_id = moved.transaction_id AND t.event_id = r.event_id
         WHERE t.transaction_id IS NULL""",
    # An order that earned nothing has an event and no row.
    Check.ORDERED: """
        SELECT l.program_id, l.member_id, NULL::text, NULL::bigint, NULL::uuid,
               'event ' || l.event_id || ' is of an order that is not recorded: it could be recorded again'
          FROM logged l
          LEFT JOIN receipt r USING (program_id, member_id, event_id)
         WHERE r.event_id IS NULL
           AND coalesce(payload #>> '{activity,reference}', payload ->> 'order_reference',
                        payload ->> 'reference', '') <> ''
        UNION ALL
        SELECT t.program_id, t.member_id, t.point_type, t.sequence, t.transaction_id,
               'order ' || t.order_reference || ' does not name it: it could be recorded again'
          FROM entry t
          LEFT JOIN (SELECT program_id, order_reference, member_id, event_id,
                            unnest(transaction_ids) AS transaction_id FROM receipt) r
               USING (program_id, order_reference, member_id, event_id, transaction_id)
         WHERE t.order_reference <> '' AND r.event_id IS NULL""",
    Check.EVENTS: """
        SELECT n.program_id, n.member_id, NULL::text, NULL::bigint, NULL::uuid,
               'event ' || n.event_id || ' names transaction ' || coalesce(n.transaction_id, 'null')
               || ', which is not its own or is gone'
          FROM named n
          LEFT JOIN entry t ON t.program_id = n.program_id AND t.member_id = n.member_id
                           AND t.event_id = n.event_id AND t.transaction_id::text = n.transaction_id
         WHERE t.transaction_id IS NULL""",
    Check.LOGGED: """
        SELECT t.program_id, t.member_id, t.point_type, t.sequence, t.transaction_id,
               'event ' || t.event_id || ' is not in the log or does not name it'
          FROM entry t
          LEFT JOIN named n ON t.program_id = n.program_id AND t.member_id = n.member_id
                           AND t.event_id = n.event_id AND t.transaction_id::text = n.transaction_id
         WHERE n.event_id IS NULL""",
    Check.MEMBERS: """
        SELECT owned.*
          FROM (SELECT program_id, member_id, point_type, sequence, transaction_id,
                       'the row is of a member whom there is not' FROM entry
                 UNION ALL
                SELECT program_id, member_id, NULL, NULL, transaction_ids[1],
                       'order ' || order_reference || ' is of a member whom there is not' FROM receipt) owned
         WHERE NOT EXISTS (SELECT FROM member m WHERE m.program_id = owned.program_id
                              AND m.member_id = owned.member_id)""",
    Check.SEATS: """
        SELECT p.program_id, p.member_id, NULL::text, NULL::bigint, NULL::uuid,
               'sits in household ' || p.household_id || ', and '
               || CASE WHEN h.household_id IS NULL THEN 'there is none'
                       WHEN h.dissolved_at IS NOT NULL THEN 'it was dissolved'
                       ELSE 'is no member of the program any more' END
          FROM placed p
          LEFT JOIN household h USING (program_id, household_id)
          LEFT JOIN member m ON m.program_id = p.program_id AND m.member_id = p.member_id
                            AND m.kind = 'person' AND m.status IN ('active', 'suspended')
         WHERE h.household_id IS NULL OR h.dissolved_at IS NOT NULL OR m.member_id IS NULL
        UNION ALL
        SELECT f.program_id, f.member_id, NULL, NULL, NULL,
               CASE WHEN m.member_id IS NULL THEN 'the household has no pool'
                    WHEN f.dissolved_at IS NULL THEN 'the household has ' || heads.number || ' heads'
                    ELSE 'the household was dissolved, and its pool has points' END
          FROM formed f
          LEFT JOIN member m ON m.program_id = f.program_id AND m.member_id = f.member_id
                            AND m.kind = 'household'
         CROSS JOIN LATERAL (SELECT count(*) AS number FROM seat s
                              WHERE s.program_id = f.program_id AND s.household_id = f.member_id
                                AND s.left_at IS NULL AND s.role = 'head') AS heads
         WHERE m.member_id IS NULL
            OR CASE WHEN f.dissolved_at IS NULL THEN heads.number <> 1
                    ELSE EXISTS (SELECT FROM wallet w WHERE w.program_id = f.program_id
                                    AND w.member_id = f.member_id
                                    AND w.balance + w.pending + w.held > 0) END""",
    **STANDING,
}
