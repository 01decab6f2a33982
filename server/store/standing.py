"""What must hold of what decisions look at beside the ledger's rows, each as a query for where it doesn't.

How far goods are back and redemptions refunded, what caps have counted, when the clock is due: it stands
in tables of its own, which change. Here it is worked out again from rows and events. Queries are as those
of ``server.store.identities``; what somebody tampered with must break none, so JSON is read warily.
"""

from collections.abc import Mapping

from server.domain.proof import Check
from server.store.ledger import TOUCHES

UUID_TEXT = "'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'"
HEX = "'^[0-9a-f]{32}$'"  # a UUID in a reply
# Of pg_trigger.tgtype: before the statement, and on which of them.
_BEFORE, _DELETE, _UPDATE, _TRUNCATE = 2, 8, 16, 32
IMMUTABLE = (
    "ledger_transaction", "allocation", "event_log", "business_key", "request_key", "rule", "rule_set",
    "consent", "access_audit", "template",
)  # fmt: skip
PERMANENT = ("wallet", "lot", "hold", "refund", "returned_line", "cap_usage", "adjustment")
_GUARDED = ", ".join(
    [f"('{table}', 'immutable', {_BEFORE | _DELETE | _UPDATE | _TRUNCATE})" for table in IMMUTABLE]
    + [f"('{table}', 'permanent', {_BEFORE | _DELETE | _TRUNCATE})" for table in PERMANENT]
)
# As Python writes it.
ISO = """replace(to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '.000000', '') || '+00:00'"""

# Of a row: whether somebody's request was for it, and it is none of the clock's and came of no other row.
ASKED_FOR = """(kind IN ('EARN', 'REDEEM', 'HOLD', 'CAPTURE', 'ADJUST', 'REVERSE_EARN', 'REVERSE_REDEEM')
                OR kind = 'RELEASE' AND event_type = 'VOID'
                OR kind = 'TRANSFER_OUT' AND event_type = 'TRANSFER')"""

STANDING: Mapping[Check, str] = {
    # Where a member was merged, the redemption is the one's and the refund the other's.
    Check.REFUNDED: """
        SELECT coalesce(f.program_id, b.program_id), coalesce(f.member_id, b.member_id), b.point_type,
               b.sequence, b.transaction_id,
               coalesce(b.points, 0) || ' points of redemption ' || redemption || ' were given back, '
               || coalesce(f.points, 0) || ' are noted' || coalesce(' of ' || t.points, '')
          FROM (SELECT program_id, trace ->> 'reverses' AS redemption, sum(points) AS points,
                       (array_agg(member_id ORDER BY transaction_id DESC))[1] AS member_id,
                       (array_agg(point_type ORDER BY transaction_id DESC))[1] AS point_type,
                       (array_agg(sequence ORDER BY transaction_id DESC))[1] AS sequence,
                       (array_agg(transaction_id ORDER BY transaction_id DESC))[1] AS transaction_id
                  FROM entry WHERE kind = 'REVERSE_REDEEM' GROUP BY 1, 2) b
          FULL JOIN (SELECT *, transaction_id::text AS redemption FROM refunded) f
               USING (program_id, redemption)
          LEFT JOIN ledger_transaction t
               ON t.program_id = f.program_id AND t.member_id = f.member_id
                  AND t.transaction_id = f.transaction_id AND t.kind IN ('REDEEM', 'CAPTURE')
         WHERE b.points IS DISTINCT FROM f.points OR t.points IS NULL OR t.points < b.points""",
    # Of what earned something a row tells, of the rest the event alone; where both do they must agree. It is
    # noted with whose purchase it was.
    Check.RETURNED: """
        SELECT coalesce(n.program_id, b.program_id), coalesce(b.member_id, n.member_id), NULL::text,
               NULL::bigint, NULL::uuid,
               coalesce(b.units, 0) || ' units of line ' || line_id || ' of purchase ' || purchase
               || ' are back, ' || coalesce(n.quantity, 0) || ' are noted'
               || CASE WHEN n.event_id IS NOT NULL AND e.event_id IS NULL
                       THEN ' of member ' || n.member_id || ', whose it is not' ELSE '' END
          FROM (SELECT program_id, purchase, line_id, sum(units) AS units,
                       (array_agg(member_id))[1] AS member_id
                  FROM (SELECT program_id, member_id, event_id, trace ->> 'purchase' AS purchase,
                               line ->> 'key' AS line_id, line ->> 'value' AS said,
                               CASE jsonb_typeof(line -> 'value')
                                    WHEN 'number' THEN (line -> 'value')::numeric END AS units
                          FROM entry, jsonb_path_query(trace, '$.lines.keyvalue()', silent => true) AS line
                         WHERE kind = 'REVERSE_EARN'
                         UNION
                        SELECT program_id, member_id, event_id, line ->> 0, line ->> 1, line ->> 2,
                               CASE jsonb_typeof(line -> 2) WHEN 'number' THEN (line -> 2)::numeric END
                          FROM logged, jsonb_path_query(payload, '$.lines[*]') AS line
                         WHERE event_type = 'points.returned') AS said
                 GROUP BY 1, 2, 3) b
          FULL JOIN (SELECT *, event_id::text AS purchase FROM returned) n
               USING (program_id, purchase, line_id)
          LEFT JOIN event_log e
               ON e.program_id = n.program_id AND e.member_id = n.member_id AND e.event_id = n.event_id
                  AND e.event_type = 'points.earned'
         WHERE b.units IS DISTINCT FROM n.quantity OR e.event_id IS NULL""",
    Check.DUE: """
        SELECT program_id, member_id, point_type, p.sequence, NULL::uuid,
               'the clock changes the wallet at ' || d.first || ', it waits '
               || coalesce('until ' || p.next_due, 'for nothing')
          FROM purse p
          JOIN (SELECT program_id, member_id, point_type, min(due) AS first
                  FROM (SELECT program_id, member_id, point_type,
                               least(CASE WHEN NOT active THEN activates_at END,
                                     CASE WHEN remaining > CASE WHEN active THEN b.held ELSE 0 END
                                          THEN coalesce(
                                              w.active_at + make_interval(hours => 24 * rolling_days),
                                              expires_at) END) AS due
                          FROM batch b JOIN wallet w USING (program_id, member_id, point_type)
                         WHERE remaining > 0
                         UNION ALL
                        SELECT program_id, member_id, point_type, expires_at
                          FROM reserved WHERE open_points > 0) AS moments
                 GROUP BY 1, 2, 3) d USING (program_id, member_id, point_type)
         WHERE d.first < coalesce(p.next_due, 'infinity')""",
    # Activity goes on to a pool, out of it and to who lives on after a merge, with the points. So of a wallet
    # that some were handed to, it may be a moment of who gave them, or of who gave them those. Who was merged
    # into a giver that was merged in turn is known by who lives on, as the giver is.
    Check.ACTIVE: f"""
        WITH RECURSIVE doubtful AS (
            SELECT program_id, member_id, point_type, p.sequence, p.active_at, own.moment
              FROM purse p
              LEFT JOIN (SELECT program_id, member_id, point_type, max(occurred_at) AS moment
                           FROM entry WHERE {TOUCHES} GROUP BY 1, 2, 3) own
                   USING (program_id, member_id, point_type)
             WHERE p.active_at IS DISTINCT FROM own.moment),
        whence AS (
            SELECT program_id, member_id, point_type, member_id AS giver FROM doubtful
            UNION
            SELECT w.program_id, w.member_id, w.point_type, g.giver
              FROM whence w CROSS JOIN LATERAL (
                   SELECT CASE WHEN t.trace #>> '{{transfer,from}}' ~ {UUID_TEXT}
                               THEN (t.trace #>> '{{transfer,from}}')::uuid END AS giver
                     FROM ledger_transaction t
                    WHERE t.program_id = w.program_id AND t.member_id = w.giver
                      AND t.point_type = w.point_type AND t.kind = 'TRANSFER_IN' AND t.trace ? 'origins'
                    UNION ALL
                   SELECT m.member_id FROM member m
                    WHERE m.program_id = w.program_id
                      AND m.merged_into IN (
                          w.giver,
                          (SELECT o.merged_into FROM member o
                            WHERE o.program_id = w.program_id AND o.member_id = w.giver))) AS g
             WHERE g.giver IS NOT NULL)
        SELECT d.program_id, d.member_id, d.point_type, d.sequence, NULL::uuid,
               'the wallet was last active ' || coalesce('at ' || d.active_at, 'never') || ', its rows say '
               || coalesce('at ' || d.moment, 'never')
          FROM doubtful d
          JOIN member m USING (program_id, member_id)
         WHERE m.merged_into IS NULL
           AND (coalesce(d.active_at <= d.moment, d.active_at IS NULL) OR NOT EXISTS (
                SELECT FROM whence w
                  JOIN ledger_transaction t
                       ON t.program_id = w.program_id AND t.member_id = w.giver
                          AND t.point_type = w.point_type AND t.occurred_at = d.active_at AND {TOUCHES}
                 WHERE (w.program_id, w.member_id, w.point_type)
                       = (d.program_id, d.member_id, d.point_type)))""",
    Check.ACTIVE_LOTS: """
        SELECT l.program_id, l.member_id, l.point_type, c.sequence, c.transaction_id,
               'its lot ' || lot_id || CASE WHEN l.active THEN ' can be spent, and nothing has activated it'
                                            ELSE ' waits, and can be spent by its rows' END
          FROM batch l
          JOIN entry c USING (program_id, member_id, transaction_id)
          LEFT JOIN (SELECT DISTINCT program_id, member_id, lot_id
                       FROM share JOIN entry e USING (program_id, member_id, transaction_id)
                      WHERE e.kind = 'ACTIVATE') a USING (program_id, member_id, lot_id)
         WHERE l.active <> (c.credit_account <> 'wallet.pending' OR a.lot_id IS NOT NULL)""",
    # What waits for a second person has no row in any chain yet: the event of whoever asked is what there is.
    # Those of old don't tell how long the points last.
    Check.ADJUSTMENTS: f"""
        SELECT program_id, coalesce(a.member_id, q.member_id), a.point_type, q.sequence, q.transaction_id,
               'adjustment ' || adjustment || CASE
                    WHEN a.said IS NULL THEN ' of ' || q.said || ' is gone'
                    WHEN q.said IS NULL THEN ' of ' || a.said || ' was never asked for'
                    ELSE ' is of ' || concat_ws(', until ', a.said, a.until) || '; what is recorded says '
                         || concat_ws(', until ', q.said, q.until) END
          FROM (SELECT program_id, member_id, adjustment_id::text AS adjustment, point_type,
                       {ISO.format("expires_at")} AS until,
                       concat_ws(', ', points || ' ' || point_type, 'for ' || member_id,
                                 'asked by ' || requested_by, reason,
                                 CASE WHEN status = 'approved' THEN 'approved as ' || transaction_id
                                      ELSE status END,
                                 CASE WHEN status = 'approved' THEN 'of ' || points END) AS said
                  FROM asked) a
          FULL JOIN (
               SELECT program_id, q.member_id, adjustment, r.sequence, r.transaction_id,
                      payload ? 'expires_at' AS tells_until, payload ->> 'expires_at' AS until,
                      concat_ws(', ', (payload ->> 'points') || ' ' || (payload ->> 'point_type'),
                                'for ' || q.member_id, 'asked by ' || (payload ->> 'actor'),
                                payload ->> 'reason',
                                CASE WHEN r.transaction_id IS NOT NULL THEN 'approved as ' || r.transaction_id
                                     WHEN x.adjustment IS NOT NULL THEN 'rejected' ELSE 'pending' END,
                                'of ' || r.points) AS said
                 FROM (SELECT *, payload ->> 'adjustment_id' AS adjustment FROM proposed
                        WHERE event_type = 'adjustment.requested') q
                 LEFT JOIN (SELECT DISTINCT program_id, payload ->> 'adjustment_id' AS adjustment
                              FROM proposed WHERE event_type = 'adjustment.rejected') x
                      USING (program_id, adjustment)
                 LEFT JOIN (SELECT program_id, sequence, transaction_id,
                                   trace #>> '{{adjustment,id}}' AS adjustment,
                                   CASE debit_account WHEN 'wallet.balance' THEN -points ELSE points END
                                       AS points
                              FROM entry WHERE kind = 'ADJUST') r USING (program_id, adjustment)) q
               USING (program_id, adjustment)
         WHERE a.said IS DISTINCT FROM q.said OR q.tells_until AND a.until IS DISTINCT FROM q.until""",
    # A rule that a cap counts has its counters in the trace. Of a purchase that is back in part, as much was
    # given back as of its points. What belonged to a merged member counts for who lives on.
    Check.CAPS: """
        SELECT program_id, member_id, NULL::text, NULL::bigint, NULL::uuid,
               'rule ' || rule || ' has given ' || coalesce(g.points, 0) || ' points in ' || period || ', '
               || coalesce(u.points, 0) || ' are counted'
          FROM (SELECT program_id, coalesce(m.merged_into, member_id) AS member_id, rule, period,
                       sum(points - div(points * coalesce(b.back, 0), coalesce(b.sold, 1))) AS points
                  FROM (SELECT DISTINCT program_id, member_id, event_id, r ->> 'rule' AS rule,
                               p #>> '{}' AS period, line ->> 'key' AS line_id,
                               CASE jsonb_typeof(line -> 'value')
                                    WHEN 'number' THEN (line -> 'value')::numeric END AS points
                          FROM entry,
                               jsonb_path_query(trace, '$.rules[*] ? (exists(@.periods[*]))') AS r,
                               jsonb_path_query(r, '$.periods[*]') AS p,
                               jsonb_path_query(
                                   CASE WHEN r -> 'lines' = '{}'
                                        THEN jsonb_build_object(
                                            'lines', jsonb_build_object('', r -> 'points'))
                                        ELSE r END,
                                   '$.lines.keyvalue()', silent => true) AS line
                         WHERE kind = 'EARN') AS counted
                  LEFT JOIN member m USING (program_id, member_id)
                  LEFT JOIN (SELECT n.program_id, n.event_id, n.line_id, n.quantity AS back,
                                    coalesce((SELECT sum((line -> 3)::numeric)
                                                FROM jsonb_path_query(
                                                         e.payload, '$.activity.lines[*]') AS line
                                               WHERE line ->> 0 = n.line_id
                                                 AND jsonb_typeof(line -> 3) = 'number'), 1) AS sold
                               FROM returned n
                               JOIN event_log e USING (program_id, member_id, event_id)
                              WHERE e.event_type = 'points.earned') b USING (program_id, event_id, line_id)
                 GROUP BY 1, 2, 3, 4) g
          FULL JOIN (SELECT u.* FROM usage u JOIN member m USING (program_id, member_id)
                      WHERE m.merged_into IS NULL) u USING (program_id, member_id, rule, period)
         WHERE coalesce(g.points, 0) <> coalesce(u.points, 0)""",
    Check.COUNTED: """
        SELECT m.program_id, m.member_id, NULL::text, NULL::bigint, NULL::uuid,
               'the member has ' || m.purchases || ' purchases and took over ' || m.inherited
               || ' lifetime points; recorded are ' || coalesce(e.purchases, 0) || ' and '
               || coalesce(i.lifetime, 0)
          FROM known m
          JOIN program p USING (program_id)
          LEFT JOIN (SELECT program_id, coalesce(o.merged_into, member_id) AS member_id, count(*) AS purchases
                       FROM logged JOIN member o USING (program_id, member_id)
                      WHERE event_type = 'points.earned' AND payload #>> '{activity,type}' = 'PURCHASE'
                      GROUP BY 1, 2) e USING (program_id, member_id)
          LEFT JOIN (SELECT o.program_id, o.merged_into AS member_id, w.point_type,
                            sum(w.lifetime) AS lifetime
                       FROM known o JOIN wallet w USING (program_id, member_id)
                      WHERE o.merged_into IS NOT NULL GROUP BY 1, 2, 3) i
               ON i.program_id = m.program_id AND i.member_id = m.member_id
                  AND i.point_type = p.point_types[1]
         WHERE m.merged_into IS NULL
           AND (m.purchases <> coalesce(e.purchases, 0) OR m.inherited <> coalesce(i.lifetime, 0))""",
    # What was answered in the words of a request is answered again: with an event that was recorded with
    # it, its rows, what they add up to, a balance that the wallet had then, and the hold that it was about.
    # Where nothing moved in that wallet, the balance is one that it had at any time. What is handed on, and
    # what is done to a household, has events of its own; an entry that waits has none.
    Check.REQUESTS: f"""
        WITH said AS (
            SELECT program_id, source_system, request_id, recorded_at, reply,
                   reply ->> 'point_type' AS point_type,
                   CASE WHEN reply ->> 'event_id' ~ {HEX} THEN (reply ->> 'event_id')::uuid END AS event_id,
                   CASE WHEN reply ->> 'member_id' ~ {HEX} THEN (reply ->> 'member_id')::uuid END AS member_id
              FROM remembered WHERE reply ? 'event_id'),
        brought AS (
            SELECT k.program_id, k.source_system, k.request_id,
                   sum(t.points) FILTER (WHERE t.point_type = k.point_type) AS points,
                   min(t.sequence) FILTER (WHERE t.member_id = k.member_id AND t.point_type = k.point_type)
                       AS moved,
                   min((award ->> 2) || ' points of transaction ' || (award ->> 0))
                       FILTER (WHERE t.transaction_id IS NULL) AS foreign_row
              FROM said k CROSS JOIN LATERAL jsonb_path_query(reply, '$.awards[*]') AS award
              LEFT JOIN ledger_transaction t
                   ON t.transaction_id = CASE WHEN award ->> 0 ~ {HEX} THEN (award ->> 0)::uuid END
                      AND t.program_id = k.program_id AND t.point_type = award ->> 1
                      AND t.points::text = award ->> 2 AND t.recorded_at = k.recorded_at
                      AND (t.event_id = k.event_id AND t.member_id = k.member_id
                           OR t.kind IN ('TRANSFER_IN', 'TRANSFER_OUT'))
             GROUP BY 1, 2, 3)
        SELECT program_id, NULL::uuid, NULL::text, NULL::bigint, NULL::uuid,
               'request ' || request_id || ' of ' || source_system || ' is answered with ' || problem
          FROM (SELECT k.*, CASE
                    WHEN foreign_row IS NOT NULL THEN foreign_row || ', which is none of its rows'
                    WHEN e.event_id IS NULL AND NOT reply ?| ARRAY['review', 'household_id']
                    THEN 'event ' || coalesce(reply ->> 'event_id', '') || ', which did not come of it'
                    WHEN ltrim(reply ->> 'points', '-') <> b.points::text
                    THEN (reply ->> 'points') || ' points, its rows have ' || b.points
                    WHEN (moved > 0 OR reply ->> 'balance' <> '0') AND NOT EXISTS (
                         SELECT FROM ledger_transaction r
                          WHERE r.program_id = k.program_id AND r.member_id = k.member_id
                            AND r.point_type = k.point_type AND r.sequence >= coalesce(moved, 1)
                            AND r.balance_after::text = reply ->> 'balance'
                            AND (r.recorded_at = k.recorded_at OR moved IS NULL))
                    THEN 'a balance of ' || (reply ->> 'balance') || ', which the wallet did not have'
                    WHEN reply ? 'hold' AND h.hold_id IS NULL
                    THEN 'hold ' || coalesce(reply #>> '{{hold,0}}', '') || ', which is another' END
                    AS problem
                  FROM said k
                  LEFT JOIN brought b USING (program_id, source_system, request_id)
                  LEFT JOIN hold h
                       ON h.hold_id = CASE WHEN reply #>> '{{hold,0}}' ~ {HEX}
                                           THEN (reply #>> '{{hold,0}}')::uuid END
                          AND h.program_id = k.program_id AND h.member_id = k.member_id
                          AND h.point_type = reply #>> '{{hold,1}}'
                          AND h.points::text = reply #>> '{{hold,2}}'
                          AND {ISO.format("h.expires_at")} = reply #>> '{{hold,6}}'
                  LEFT JOIN event_log e
                       ON e.program_id = k.program_id AND e.member_id = k.member_id
                          AND e.event_id = k.event_id AND e.recorded_at = k.recorded_at) AS answered
         WHERE problem IS NOT NULL""",
    # Of what earned nothing there is the event alone.
    Check.REMEMBERED: f"""
        SELECT program_id, member_id, point_type, sequence, transaction_id,
               'its request is not remembered: sent again, it would be done again'
          FROM (SELECT program_id, member_id, point_type, sequence, transaction_id, event_id
                  FROM entry WHERE {ASKED_FOR}
                 UNION ALL
                SELECT program_id, member_id, NULL, NULL, NULL, event_id
                  FROM logged WHERE event_type = 'points.earned' AND payload -> 'transaction_ids' = '[]')
               AS done(program_id, member_id, point_type, sequence, transaction_id, event_id)
         WHERE NOT EXISTS (SELECT FROM remembered k WHERE k.program_id = done.program_id
                              AND k.reply ->> 'event_id' = replace(done.event_id::text, '-', ''))""",
    Check.GUARDS: f"""
        SELECT NULL::uuid, NULL::uuid, NULL::text, NULL::bigint, NULL::uuid,
               'the trigger ' || kind || ' of ' || guarded
               || CASE WHEN g.tgenabled IS NULL THEN ' is missing' ELSE ' is switched off' END
          FROM (VALUES {_GUARDED}) AS wanted(guarded, kind, event_bits)
          LEFT JOIN pg_trigger g
               ON g.tgrelid = to_regclass(guarded) AND g.tgname = kind AND g.tgtype & event_bits = event_bits
                  AND g.tgfoid = to_regproc('refuse_change')
         WHERE coalesce(g.tgenabled, 'D') NOT IN ('O', 'A')""",
}
