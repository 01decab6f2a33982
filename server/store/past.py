"""Purchases and redemptions of the past, as returns and refunds need them."""

import json
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.ledger import Allocation, Lot
from server.domain.past import Purchase, Spent, earned_by_wallet, sold
from server.store.ledger import LOT_COLUMNS, TOUCHES, MemberOf, lots
from server.store.merges import OWN
from server.store.together import Question

RowOf = tuple[UUID, UUID]  # the program, and the row or event within it

# An event with what it earned and what is back of it.
RECORDED = """
    SELECT ROW(e.program_id, owner_id, e.member_id, e.event_id, e.occurred_at,
               e.payload -> 'activity' ->> 'type',
               e.payload -> 'activity' -> 'lines',
               (SELECT jsonb_agg(jsonb_build_array(t.point_type, t.transaction_id, t.trace)
                                 ORDER BY t.transaction_id)
                  FROM ledger_transaction t
                 WHERE t.program_id = e.program_id AND t.member_id = e.member_id AND t.kind = 'EARN'
                   AND t.transaction_id = ANY(ARRAY(
                       SELECT jsonb_array_elements_text(e.payload -> 'transaction_ids'))::uuid[])),
               (SELECT jsonb_object_agg(r.line_id, r.quantity) FROM returned_line r
                 WHERE r.program_id = e.program_id AND r.member_id = e.member_id
                   AND r.event_id = e.event_id))"""


def purchases_named(wanted: Collection[tuple[UUID, UUID, UUID]]) -> Question[dict[RowOf, Purchase]]:
    """Purchases by program, member and id."""
    return Question(
        f"""{RECORDED}
              FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS wanted(program_id, owner_id, event_id),
                   {OWN}
              JOIN event_log e USING (member_id)
             WHERE e.program_id = wanted.program_id AND e.event_id = wanted.event_id
               AND e.event_type = 'points.earned'""",
        tuple([row[column] for row in wanted] for column in range(3)),
        _purchases,
    )


class Page(NamedTuple):
    """So many of the latest events before that id, of a member and of all who were merged into it."""

    program_id: UUID
    owner_id: UUID
    before: UUID
    size: int


# Newest first by recording, which is what the index has in order. Of each member a page, then of all.
PAGE = f"""
    SELECT e.*, wanted.owner_id
      FROM (SELECT $1::uuid AS program_id, $2::uuid AS owner_id) AS wanted,
           {OWN},
           LATERAL (SELECT * FROM event_log l
                     WHERE l.program_id = wanted.program_id AND l.member_id = own.member_id
                       AND l.event_id < $3::uuid
                     ORDER BY l.event_id DESC LIMIT $4::integer) AS e
     ORDER BY e.event_id DESC LIMIT $4::integer"""


def purchases_on(page: Page, skus: Collection[str]) -> Question[dict[UUID, Purchase]]:
    """The purchases of a page in which any of these SKUs was bought, by id."""
    return Question(
        f"""{RECORDED}
              FROM ({PAGE}) AS e
             WHERE e.event_type = 'points.earned' AND EXISTS (
                   SELECT FROM unnest($5::jsonb[]) AS sold
                    WHERE e.payload -> 'activity' -> 'lines' @> sold)""",
        (*page, [json.dumps([[sku]]) for sku in skus]),
        lambda rows: {event_id: purchase for (_, event_id), purchase in _purchases(rows).items()},
    )


def extent(page: Page) -> Question[tuple[int, UUID]]:
    """How many events a page has, and the oldest of them."""
    return Question(
        f"SELECT ROW(e.event_id) FROM ({PAGE}) AS e",
        tuple(page),
        lambda rows: (len(rows), min((row[0] for row in rows), default=page.before)),
    )


def _purchases(rows: Sequence[Any]) -> dict[RowOf, Purchase]:
    found = {}
    for program_id, owner_id, member_id, event_id, occurred_at, event_type, lines, earned, returned in rows:
        back = {} if returned is None else json.loads(returned)
        own = [] if earned is None else json.loads(earned)
        found[program_id, event_id] = Purchase(
            event_id,
            owner_id,
            occurred_at,
            sold(event_type, json.loads(lines), back),
            earned_by_wallet((point_type, UUID(row), json.dumps(why)) for point_type, row, why in own),
            None if member_id == owner_id else member_id,
        )
    return found


# The longest time without activity that the points of the row t would have seen, had they stayed where they
# were, up to $4; once two members have become one that is with who lives on, and by the activity of both.
# Each row by which a wallet was active ends such a time; so does a merge, and what goes through a pool, which
# bring activity along. Clocks of servers differ, so rows stand in the order of their chain.
IDLE = f"""
    (WITH RECURSIVE merger AS (
         SELECT m.member_id AS merged_id, (e.payload ->> 'survivor_id')::uuid AS survivor_id, e.recorded_at
           FROM member m JOIN event_log e USING (program_id, member_id)
          WHERE m.program_id = t.program_id AND m.merged_into = owner_id
            AND e.event_type = 'member.merged' AND e.payload ->> 'merged_id' = m.member_id::text),
     met(member_id, since) AS (
         SELECT t.member_id, '-infinity'::timestamptz
          UNION
         SELECT CASE met.member_id WHEN merged_id THEN survivor_id ELSE merged_id END,
                greatest(since, recorded_at)
           FROM met JOIN merger ON met.member_id IN (merged_id, survivor_id)),
     one AS (SELECT member_id, min(since) AS since FROM met GROUP BY member_id),
     activity AS (
         SELECT r.member_id, r.sequence, greatest(r.recorded_at, since) AS at,
                greatest(max(r.recorded_at) OVER (PARTITION BY r.member_id ORDER BY r.sequence),
                         since) AS place,
                CASE WHEN kind = 'TRANSFER_IN' AND r.trace ? 'active_at'
                     THEN (r.trace ->> 'active_at')::timestamptz
                     ELSE r.occurred_at END AS moment
           FROM one JOIN ledger_transaction r
                ON r.program_id = t.program_id AND r.member_id = one.member_id
                   AND r.point_type = t.point_type
          WHERE {TOUCHES} OR kind = 'TRANSFER_IN' AND trace ? 'household'
          UNION ALL
         SELECT member_id, 0, since, since, NULL FROM one WHERE member_id <> t.member_id
          UNION ALL
         SELECT t.member_id, NULL, $4::timestamptz, 'infinity', NULL)
     SELECT max(idle)
       FROM (SELECT member_id, sequence, place,
                    at - max(moment) OVER (ORDER BY place, sequence
                                           ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS idle
               FROM activity) AS times
      WHERE CASE member_id WHEN t.member_id THEN coalesce(sequence > t.sequence, true)
                 ELSE place > (SELECT place FROM activity
                                WHERE member_id = t.member_id AND sequence = t.sequence) END)"""


def spent(wanted: Collection[tuple[UUID, UUID, UUID]], now: datetime) -> Question[dict[RowOf, Spent]]:
    """Redemptions and captures by program, member and id, as they stand at ``now``."""
    return Question(
        f"""SELECT ROW(t.program_id, t.transaction_id, owner_id, t.member_id, t.point_type, t.points,
                      coalesce(f.points, 0),
                      (SELECT jsonb_agg(jsonb_build_array(a.lot_id, a.points)
                                        ORDER BY l.expires_at NULLS LAST, a.lot_id)
                         FROM allocation a JOIN lot l USING (program_id, member_id, lot_id)
                        WHERE a.program_id = t.program_id AND a.member_id = t.member_id
                          AND a.transaction_id = t.transaction_id),
                      CASE WHEN EXISTS (
                           SELECT FROM allocation a JOIN lot l USING (program_id, member_id, lot_id)
                            WHERE a.program_id = t.program_id AND a.member_id = t.member_id
                              AND a.transaction_id = t.transaction_id AND l.rolling_days IS NOT NULL)
                           THEN {IDLE} END)
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS wanted(program_id, owner_id, transaction_id),
                  {OWN}
             JOIN ledger_transaction t USING (member_id)
             LEFT JOIN refund f
                  ON f.program_id = t.program_id AND f.member_id = t.member_id
                     AND f.transaction_id = t.transaction_id
            WHERE t.program_id = wanted.program_id AND t.transaction_id = wanted.transaction_id
              AND t.kind IN ('REDEEM', 'CAPTURE')""",
        (*([row[column] for row in wanted] for column in range(3)), now),
        _spent,
    )


def _spent(rows: Sequence[Any]) -> dict[RowOf, Spent]:
    found = {}
    for program_id, transaction_id, owner_id, member_id, point_type, points, refunded, shares, idle in rows:
        found[program_id, transaction_id] = Spent(
            transaction_id,
            owner_id,
            point_type,
            points,
            refunded,
            _shares(shares),
            None if member_id == owner_id else member_id,
            idle or timedelta(0),
        )
    return found


def lots_drawn(wanted: Collection[tuple[UUID, UUID, UUID]]) -> Question[dict[MemberOf, dict[UUID, Lot]]]:
    """The lots that these rows drew from, empty ones too."""
    return Question(
        f"""SELECT ROW(program_id, owner_id, {LOT_COLUMNS})
              FROM (SELECT DISTINCT a.program_id, a.member_id, owner_id, a.lot_id
                      FROM unnest($1::uuid[], $2::uuid[], $3::uuid[])
                           AS wanted(program_id, owner_id, transaction_id),
                           {OWN}
                      JOIN allocation a USING (member_id)
                     WHERE a.program_id = wanted.program_id
                       AND a.transaction_id = wanted.transaction_id) AS drawn
              JOIN lot USING (program_id, member_id, lot_id)""",
        tuple([row[column] for row in wanted] for column in range(3)),
        lots,
    )


def _shares(text: str) -> tuple[Allocation, ...]:
    return tuple(Allocation(UUID(lot_id), points) for lot_id, points in json.loads(text))
