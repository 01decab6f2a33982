"""A ledger filled for the benchmark: its rows are as real ones are, and members can go on with them."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest
from google.type import money_pb2
from loyalty.v1 import points_pb2

from bench import ledgers, shop
from bench.ledgers import TABLES, Size
from laurel.clients import Missing
from tests.support.servers import Laurel

EACH_EARNS = 210  # of a purchase by the rules of bench/shop.py
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY($1::text[]) ORDER BY 1"


async def test_every_copy_is_a_member_of_its_own_who_goes_on(laurel: Laurel, database_url: str) -> None:
    async with laurel.database.connection() as connection:
        indexes = await connection.fetch(INDEXES, list(TABLES))
    key = await shop.found(database_url)
    await asyncio.to_thread(shop.publish, laurel.address, key)
    size, said = Size(rows=50, members=12), list[str]()
    model = await asyncio.to_thread(ledgers.live, laurel.address, key, size.each)
    members = await asyncio.to_thread(ledgers.fill, database_url, model, size, said.append)

    assert len(set(members)) == 12
    assert model in members
    assert any("48 rows of 12 members" in line for line in said)
    async with laurel.database.connection() as connection:
        counts = {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}
        assert counts["ledger_transaction"] == 4 * 12
        assert counts["lot"] == 3 * 12
        assert counts["allocation"] == 12
        assert counts["business_key"] == 4 * 12
        assert counts["request_key"] >= 4 * 12
        assert await connection.fetch(INDEXES, list(TABLES)) == indexes
        # What belongs together does so in the copies too.
        assert not await connection.fetch(
            """SELECT lot_id FROM lot l WHERE NOT EXISTS (
                   SELECT FROM ledger_transaction t WHERE t.transaction_id = l.transaction_id
                      AND t.member_id = l.member_id AND t.points = l.points)"""
        )
        assert not await connection.fetch(
            """SELECT b.event_id FROM business_key b CROSS JOIN unnest(transaction_ids) AS id
                WHERE NOT EXISTS (SELECT FROM ledger_transaction t WHERE t.transaction_id = id
                         AND t.member_id = b.member_id AND t.event_id = b.event_id)"""
        )

    caller = await laurel.caller(key)
    for member_id in members:
        bought = points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=uuid4().hex,
            store=shop.STORE,
            channel=shop.CHANNEL,
            amount=money_pb2.Money(currency_code="INR", units=500),
        )
        reply = await caller.points.Accrue(bought)
        assert (reply.points, reply.balance) == (EACH_EARNS, 4 * EACH_EARNS - 1)


def test_a_ledger_for_which_there_is_no_room_is_not_begun(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(Missing, match="GB are free"):
        ledgers.check_room(Size(rows=10**12, members=10**6), tmp_path, said.append)
    assert "GB below" in said[0]
    ledgers.check_room(Size(rows=1000, members=100), tmp_path, said.append)
    assert len(said) == 1
