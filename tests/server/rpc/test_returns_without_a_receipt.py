"""Goods that come back without a receipt, of members who have bought for years."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.type import money_pb2
from loyalty.v1 import movements_pb2, points_pb2
from uuid_utils.compat import uuid7

from server.operations.matching import MOST_LOOKED_AT, PAGE
from tests.support.published import publish
from tests.support.servers import Laurel

BASE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 10, "per": "1.00", "currency": "INR"}}],
}


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    await publish(laurel, BASE)
    return laurel


async def buy(shop: Laurel, member_id: str, units: int, days_ago: int = 0, sku: str = "TEA") -> str:
    """A purchase of so many units at a rupee each; its event."""
    request = points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=uuid4().hex,
        lines=[
            points_pb2.LineItem(
                sku=sku, quantity=units, amount=money_pb2.Money(currency_code="INR", units=units)
            )
        ],
    )
    if days_ago:
        request.occur_time.FromDatetime(datetime.now(UTC) - timedelta(days=days_ago))
    return (await shop.terminal.points.Accrue(request)).event_id


async def back(shop: Laurel, member_id: str, units: int) -> movements_pb2.ReturnPurchaseResponse:
    return await shop.terminal.points.ReturnPurchase(bringing(member_id, units))


def bringing(member_id: str, units: int) -> movements_pb2.ReturnPurchaseRequest:
    return movements_pb2.ReturnPurchaseRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        items=[movements_pb2.ReturnItem(sku="TEA", quantity=units)],
    )


async def years_go_by(shop: Laurel, member_id: str, events: int) -> None:
    """So many things happen to the member that are no purchases of tea."""
    async with shop.database.connection() as connection:
        await connection.execute(
            """INSERT INTO event_log (epoch, event_id, event_type, program_id, member_id, occurred_at,
                                      recorded_at, payload)
               SELECT (SELECT max(epoch) FROM log_epoch), id, 'points.earned', $2, $3, now(), now(), $4
                 FROM unnest($1::uuid[]) AS id""",
            [uuid7() for _ in range(events)],
            shop.program.program_id,
            UUID(member_id),
            json.dumps(
                {
                    "activity": {"type": "PURCHASE", "lines": [["1", "COFFEE", "", 1, "1", {}]]},
                    "transaction_ids": [],
                }
            ),
        )


def found(reply: Any) -> tuple[dict[str, int], int]:
    """Units by purchase, and those that none was found for."""
    return {line.event_id: line.quantity for line in reply.lines}, sum(i.quantity for i in reply.unmatched)


async def test_what_was_bought_long_ago_is_found_behind_everything_else(shop: Laurel) -> None:
    member_id = await shop.register()
    first = await buy(shop, member_id, 5)
    await years_go_by(shop, member_id, PAGE)
    second = await buy(shop, member_id, 2)
    assert found(await back(shop, member_id, 1)) == ({second: 1}, 0)
    assert found(await back(shop, member_id, 7)) == ({second: 1, first: 5}, 1)


async def test_there_is_an_end_to_looking_and_what_lies_behind_is_reported(shop: Laurel) -> None:
    member_id = await shop.register()
    await buy(shop, member_id, 5)
    await years_go_by(shop, member_id, MOST_LOOKED_AT - 1)
    last = await buy(shop, member_id, 2)
    reply = await back(shop, member_id, 3)
    assert found(reply) == ({last: 2}, 1)
    assert reply.points == 20


async def test_the_latest_is_the_latest_that_was_bought_not_that_was_recorded(shop: Laurel) -> None:
    member_id = await shop.register()
    bought_last = await buy(shop, member_id, 2)
    await years_go_by(shop, member_id, PAGE)
    uploaded_last = await buy(shop, member_id, 2, days_ago=3)
    assert found(await back(shop, member_id, 3)) == ({bought_last: 2, uploaded_last: 1}, 0)


async def test_returns_of_one_batch_share_what_there_is(shop: Laurel) -> None:
    member_id = await shop.register()
    purchases = []
    for _ in range(4):
        purchases.append(await buy(shop, member_id, 3))
        await years_go_by(shop, member_id, PAGE)
    # Together in the committer's queue, while it is busy with the first.
    calls = [shop.terminal.points.ReturnPurchase(bringing(member_id, 2)) for _ in range(7)]
    units: dict[str, int] = {}
    missing = 0
    for call in calls:
        lines, unmatched = found(await call)
        missing += unmatched
        for event_id, count in lines.items():
            units[event_id] = units.get(event_id, 0) + count
    assert units == dict.fromkeys(purchases, 3)
    assert missing == 2
