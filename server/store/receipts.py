"""What stands under a receipt's number: business keys, and the rows of the ledger that they name."""

from typing import NamedTuple
from uuid import UUID

from server.domain.books import OrderKey
from server.domain.ledger import Transaction
from server.store.database import Connection
from server.store.ledger import TRANSACTION_COLUMNS, transaction


class Receipt(NamedTuple):
    """One thing that was recorded under a number; ``transactions`` are empty if no points moved."""

    key: OrderKey
    member_id: UUID
    event_id: UUID
    transactions: list[Transaction]


# The keys first, bounded: the number of one receipt may be that of many stores and days.
FIND = f"""
    SELECT t.*, k.source_system, k.store, k.business_date, k.order_reference, k.action, k.part,
           k.member_id, k.event_id
      FROM (SELECT * FROM business_key
             WHERE program_id = $1 AND order_reference = $2 AND ($3 = '' OR store = $3)
             ORDER BY event_id DESC LIMIT $4) AS k
      LEFT JOIN LATERAL (SELECT {TRANSACTION_COLUMNS} FROM ledger_transaction
                          WHERE program_id = k.program_id AND member_id = k.member_id
                            AND transaction_id = ANY(k.transaction_ids)) AS t ON true
     ORDER BY k.event_id DESC, t.transaction_id"""


async def find(
    connection: Connection, program_id: UUID, order_reference: str, store: str, limit: int
) -> list[Receipt]:
    """What is recorded under that number, latest first; "" is any store."""
    rows = await connection.fetch(FIND, program_id, order_reference, store, limit)
    found: dict[UUID, Receipt] = {}
    for row in rows:
        *key, member_id, event_id = tuple(row)[-8:]
        receipt = found.setdefault(event_id, Receipt(OrderKey(*key), member_id, event_id, []))
        if row["transaction_id"] is not None:
            receipt.transactions.append(transaction(row))
    return list(found.values())
