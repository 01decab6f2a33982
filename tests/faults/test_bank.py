"""Jepsen's bank in our words: members hand points on while servers and PostgreSQL die.

Whoever looks, whenever, sees the same total and no wallet below zero; what was acknowledged is there, once.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from google.type import money_pb2
from loyalty.v1 import holds_pb2, movements_pb2, points_pb2

from tests.faults.load import Sale, Tills
from tests.faults.proof import verified, wallets_agree
from tests.faults.shop import SERVERS, Shop

pytestmark = pytest.mark.faults

MEMBERS = 8
CLIENTS = 16
KILLS = 8
TRANSFERS_PER_KILL = 240
STILL_WAITING = (100, 200)  # of them at a kill: enough for calls to be under way however fast the machine is
MOST_LOOKS = 4
HOLD_SECONDS = 2  # so short that the clock ends most of them amid the kills
RUPEES = 500
POOR = "INSUFFICIENT_POINTS"
TOTAL = """SELECT sum(balance + held) AS total, min(least(balance, held)) AS least, max(debt) AS debt
             FROM wallet"""


def test_points_that_are_handed_on_amid_kills_are_neither_lost_nor_made(
    shop: Shop, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    began, looks = time.monotonic(), 0
    members = shop.members[:MEMBERS]
    with Tills(shop.addresses, shop.key, CLIENTS, seed) as tills:
        tills.sell([_funding(member, n) for n, member in enumerate(members)])
        funded = tills.settled()
        total = sum(sale.reply.awards[0].points for sale in funded)
        for kill in range(KILLS):
            tills.sell([_movement(source, members, f"{kill}-{n}") for n in range(TRANSFERS_PER_KILL)])
            looks += _looked(shop, total, source.randint(1, MOST_LOOKS))
            tills.until_left(source.randint(*STILL_WAITING))
            if source.random() < 0.5:
                shop.restart_postgres()
            else:
                shop.restart_server(source.randrange(SERVERS))
        sales = tills.settled()[MEMBERS:]
        repeated = tills.repeated()[MEMBERS:]
        acknowledged = [sale for sale in sales if sale.reply is not None]
        _each_is_told(tills, acknowledged)
        told = _told(tills, members)

    unanswered = sum(len(sale.unanswered) for sale in sales)
    with capsys.disabled():
        print(
            f"\nseed {seed}: {KILLS} kills in {time.monotonic() - began:.0f} s, {looks} looks at the "
            f"total; {len(sales)} transfers and holds, {len(acknowledged)} acknowledged, "
            f"{unanswered} times unanswered",
            flush=True,
        )
    assert "\n".join(shop.incidents()) == ""
    assert unanswered > KILLS, "the kills met no call under way"
    assert {sale.refusal for sale in sales} <= {"", POOR}
    assert [
        sale.request.request_id
        for sale, again in zip(acknowledged, repeated, strict=True)
        if again != sale.reply
    ] == []
    assert looks
    _look(shop, total)
    held = asyncio.run(shop.rows("SELECT member_id, sum(balance + held) AS points FROM wallet GROUP BY 1"))
    assert told == {str(row["member_id"]): row["points"] for row in held}
    asyncio.run(_each_happened_once(shop, acknowledged))
    asyncio.run(wallets_agree(shop))
    verified(shop)


def _funding(member_id: str, number: int) -> Sale:
    amount = money_pb2.Money(currency_code="INR", units=RUPEES)
    facts = {"request_id": f"fund-{number}", "order_reference": f"fund-{number}"}
    return Sale("Accrue", points_pb2.AccrueRequest(member_id=member_id, amount=amount, **facts), 0)


def _movement(source: random.Random, members: Sequence[str], name: str) -> Sale:
    """A transfer, or now and then a hold that ends by itself."""
    giver, getter = source.sample(members, 2)
    facts: dict[str, Any] = {
        "request_id": f"move-{name}",
        "member_id": giver,
        "points": source.randint(1, 60),
    }
    server = source.randrange(SERVERS)
    if source.random() < 0.1:
        hold = holds_pb2.PlaceHoldRequest(time_limit_seconds=HOLD_SECONDS, **facts)
        return Sale("PlaceHold", hold, server)
    return Sale("TransferPoints", movements_pb2.TransferPointsRequest(to_member_id=getter, **facts), server)


def _looked(shop: Shop, total: int, times: int) -> int:
    """Look at the total so often."""
    for _ in range(times):
        _look(shop, total)
    return times


def _look(shop: Shop, total: int) -> None:
    """All wallets at one moment."""
    [seen] = asyncio.run(shop.rows(TOTAL))
    assert seen["total"] == total
    assert seen["least"] >= 0
    assert seen["debt"] == 0


def _told(tills: Tills, members: Sequence[str]) -> dict[str, int]:
    """What servers say that each member has; what a hold reserves is the member's still."""
    replies = tills.answers([("GetBalance", points_pb2.GetBalanceRequest(member_id=m)) for m in members])
    assert all(wallet.debt == 0 for reply in replies for wallet in reply.wallets)
    return {reply.member_id: sum(w.balance + w.held for w in reply.wallets) for reply in replies}


def _each_is_told(tills: Tills, acknowledged: Sequence[Sale]) -> None:
    """Servers show each transaction that they acknowledged, as it was asked for."""
    shown = tills.answers(
        [
            ("GetTransaction", points_pb2.GetTransactionRequest(transaction_id=sale.reply.transaction_id))
            for sale in acknowledged
        ]
    )
    assert [
        (reply.transaction.transaction_id, reply.transaction.member_id, reply.transaction.points)
        for reply in shown
    ] == [(s.reply.transaction_id, s.request.member_id, s.request.points) for s in acknowledged]


async def _each_happened_once(shop: Shop, acknowledged: Sequence[Sale]) -> None:
    """The rows of who gave and of holds are those of the replies, and each that went out came in."""
    rows = await shop.rows(
        "SELECT transaction_id, kind, points, trace -> 'transfer' AS transfer FROM ledger_transaction"
    )
    of_kind = {
        kind: Counter(row["transaction_id"] for row in rows if row["kind"] == kind)
        for kind in ("TRANSFER_OUT", "HOLD")
    }
    for method, kind in (("TransferPoints", "TRANSFER_OUT"), ("PlaceHold", "HOLD")):
        told = Counter(UUID(s.reply.transaction_id) for s in acknowledged if s.method == method)
        assert told
        assert of_kind[kind] == told
    out, came_in = (
        Counter((row["transfer"], row["points"]) for row in rows if row["kind"] == kind)
        for kind in ("TRANSFER_OUT", "TRANSFER_IN")
    )
    assert out == came_in
    keys = await shop.rows("SELECT request_id FROM request_key WHERE request_id LIKE 'move-%'")
    assert {row["request_id"] for row in keys} == {sale.request.request_id for sale in acknowledged}
