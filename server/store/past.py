"""Purchases and redemptions of the past, as returns and refunds need them."""

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from server.domain.ledger import Allocation, Lot
from server.domain.past import Purchase, Spent, earned_by_wallet, sold
from server.store.ledger import LOT_COLUMNS, MemberOf, lots
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


def spent(wanted: Collection[tuple[UUID, UUID, UUID]]) -> Question[dict[RowOf, Spent]]:
    """Redemptions and captures by program, member and id."""
    return Question(
        f"""SELECT ROW(t.program_id, t.transaction_id, owner_id, t.member_id, t.point_type, t.points,
                      coalesce(f.points, 0),
                      (SELECT jsonb_agg(jsonb_build_array(a.lot_id, a.points)
                                        ORDER BY l.expires_at NULLS LAST, a.lot_id)
                         FROM allocation a JOIN lot l USING (program_id, member_id, lot_id)
                        WHERE a.program_id = t.program_id AND a.member_id = t.member_id
                          AND a.transaction_id = t.transaction_id))
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS wanted(program_id, owner_id, transaction_id),
                  {OWN}
             JOIN ledger_transaction t USING (member_id)
             LEFT JOIN refund f
                  ON f.program_id = t.program_id AND f.member_id = t.member_id
                     AND f.transaction_id = t.transaction_id
            WHERE t.program_id = wanted.program_id AND t.transaction_id = wanted.transaction_id
              AND t.kind IN ('REDEEM', 'CAPTURE')""",
        tuple([row[column] for row in wanted] for column in range(3)),
        _spent,
    )


def _spent(rows: Sequence[Any]) -> dict[RowOf, Spent]:
    found = {}
    for program_id, transaction_id, owner_id, member_id, point_type, points, refunded, shares in rows:
        found[program_id, transaction_id] = Spent(
            transaction_id,
            owner_id,
            point_type,
            points,
            refunded,
            _shares(shares),
            None if member_id == owner_id else member_id,
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
