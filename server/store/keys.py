"""The two keys by which everything happens once: request keys and business keys."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from server.domain.books import OrderKey, Recorded
from server.store.database import Connection
from server.store.together import Question, Write


class RequestKey(NamedTuple):
    """A caller's own name for one request, unique per program and source system."""

    program_id: UUID
    source_system: str
    request_id: str


class Remembered(NamedTuple):
    """A request that succeeded. ``reply`` is JSON without personal data."""

    request_hash: bytes
    reply: str


def requests_known(keys: Sequence[RequestKey]) -> Question[dict[RequestKey, Remembered]]:
    """What is remembered of these requests."""
    return Question(
        """SELECT ROW(program_id, source_system, request_id, request_hash, reply)::request_key_row
             FROM request_key
             JOIN unnest($1::request_key_asked[]) AS wanted USING (program_id, source_system, request_id)""",
        (keys,),
        lambda rows: {RequestKey(r[0], r[1], r[2]): Remembered(r[3], r[4]) for r in rows},
    )


def remember_requests(
    remembered: Sequence[tuple[RequestKey, Remembered]], recorded_at: datetime
) -> Write | None:
    """Keep the replies. The caller holds the keys' locks, so a clash is a fault."""
    if not remembered:
        return None
    return Write(
        """INSERT INTO request_key (program_id, source_system, request_id, request_hash, reply, recorded_at)
           SELECT *, $2::timestamptz FROM unnest($1::request_key_row[])""",
        ([(*key, *reply) for key, reply in remembered], recorded_at),
    )


OrderOf = tuple[UUID, OrderKey]  # the program, and the business key within it


def orders_known(keys: Sequence[OrderOf]) -> Question[dict[OrderOf, Recorded]]:
    """What is recorded under these business keys."""
    return Question(
        """SELECT ROW(program_id, source_system, store, business_date, order_reference, action, part,
                      member_id, event_id, transaction_ids)::business_key_row
             FROM business_key
             JOIN unnest($1::business_key_asked[]) AS wanted
            USING (program_id, source_system, store, business_date, order_reference, action, part)""",
        ([(program_id, *key) for program_id, key in keys],),
        lambda rows: {(r[0], OrderKey(*r[1:7])): Recorded(r[7], r[8], tuple(r[9])) for r in rows},
    )


def record_orders(orders: Sequence[tuple[OrderOf, Recorded]]) -> Write | None:
    """Write the business keys. The caller holds their locks, so a clash is a fault."""
    if not orders:
        return None
    return Write(
        """INSERT INTO business_key (program_id, source_system, store, business_date, order_reference,
                                     action, part, member_id, event_id, transaction_ids)
           SELECT * FROM unnest($1::business_key_row[])""",
        ([(program_id, *key, *recorded) for (program_id, key), recorded in orders],),
    )


class NamedPurchase(NamedTuple):
    """A purchase as its receipt names it; "" and None are any store, day, part and source system.

    ``exactly``: "" is a purchase without a store and a part, instead of any.
    """

    order_reference: str
    store: str = ""
    business_date: date | None = None
    part: str = ""
    source_system: str = ""
    exactly: bool = False


class FoundPurchase(NamedTuple):
    """A purchase by its whole key."""

    key: OrderKey
    member_id: UUID
    event_id: UUID


async def purchases(connection: Connection, program_id: UUID, receipt: NamedPurchase) -> list[FoundPurchase]:
    """The purchases that it names, at most a hundred: more than one is too many anyway."""
    rows = await connection.fetch(
        """SELECT source_system, store, business_date, order_reference, action, part, member_id, event_id
             FROM business_key
            WHERE program_id = $1 AND order_reference = $2 AND action = 'PURCHASE'
              AND (store = $3 OR ($3 = '' AND NOT $7)) AND ($4::date IS NULL OR business_date = $4)
              AND (part = $5 OR ($5 = '' AND NOT $7)) AND (source_system = $6 OR $6 = '') LIMIT 100""",
        program_id,
        *receipt,
    )
    return [FoundPurchase(OrderKey(*tuple(row)[:6]), row[6], row[7]) for row in rows]


def differing(found: Sequence[OrderKey]) -> list[str]:
    """By which of its parts the keys can be told from each other."""
    names = ("store", "business_date", "part", "source_system")
    return [name for name in names if len({getattr(key, name) for key in found}) > 1]
