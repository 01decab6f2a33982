"""What must be true of the books after all that befell the servers."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from tests.faults.load import Sale
from tests.faults.shop import Shop
from tests.support.processes import run


async def each_sale_happened_once(shop: Shop, sales: Sequence[Sale]) -> None:
    """Every reply's row is there, every request has exactly its rows, and no row is nobody's."""
    rows = await shop.rows("SELECT transaction_id, order_reference, points FROM ledger_transaction")
    known = Counter(row["transaction_id"] for row in rows)
    told = [UUID(i) for sale in sales for i in sale.transaction_ids]
    assert [i for i in told if known[i] != 1] == []
    rows_of = Counter(row["order_reference"] for row in rows)
    due = Counter({sale.request.order_reference: len(sale.transaction_ids) for sale in sales if sale.reply})
    assert due
    assert set(due.values()) == {1}
    assert rows_of == due
    keys = await shop.rows("SELECT request_id FROM request_key WHERE request_id LIKE 'request-%'")
    assert {row["request_id"] for row in keys} == {s.request.request_id for s in sales if s.reply}
    orders = await shop.rows("SELECT order_reference FROM business_key")
    assert Counter(row["order_reference"] for row in orders) == due


async def wallets_agree(shop: Shop) -> None:
    """Balance = sum over rows = what lots have left; chains without gaps; caps not exceeded."""
    wrong = await shop.rows(
        """WITH moves AS (
               SELECT program_id, member_id, point_type, sequence, balance_after,
                      sum(CASE WHEN credit_account = 'wallet.balance' THEN points
                               WHEN debit_account = 'wallet.balance' THEN -points ELSE 0 END)
                          OVER (PARTITION BY program_id, member_id, point_type ORDER BY sequence) AS balance,
                      row_number() OVER (PARTITION BY program_id, member_id, point_type
                                         ORDER BY transaction_id) AS place
                 FROM ledger_transaction)
           SELECT 'row' AS what, member_id, sequence, balance_after, balance FROM moves
            WHERE sequence <> place OR balance_after <> balance
           UNION ALL
           SELECT 'wallet', w.member_id, w.sequence, w.balance, last.balance
             FROM wallet w
             LEFT JOIN LATERAL (SELECT count(*) AS rows,
                                       (array_agg(m.balance ORDER BY m.sequence DESC))[1] AS balance
                                  FROM moves m
                                 WHERE (m.program_id, m.member_id, m.point_type)
                                     = (w.program_id, w.member_id, w.point_type)) AS last ON true
            WHERE w.sequence <> last.rows OR w.balance <> coalesce(last.balance, 0)
           UNION ALL
           SELECT 'lots', w.member_id, w.sequence, w.balance, coalesce(left_over.points, 0)
             FROM wallet w
             LEFT JOIN LATERAL (SELECT sum(remaining - held) AS points FROM lot l
                                 WHERE active AND (l.program_id, l.member_id, l.point_type)
                                     = (w.program_id, w.member_id, w.point_type)) AS left_over ON true
            WHERE w.balance <> coalesce(left_over.points, 0)"""
    )
    assert wrong == []
    caps = await shop.rows("SELECT points FROM cap_usage WHERE rule = 'daily'")
    assert caps
    assert max(row["points"] for row in caps) <= 100


def verified(shop: Shop) -> None:
    """The product's own check finds nothing either."""
    checked = run("verify", **shop.settings)
    assert checked.returncode == 0, checked.stdout + checked.stderr
