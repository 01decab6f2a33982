"""Servers are replaced one by one under load: nobody is cut off, and nothing happens twice."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.load import Tills
from tests.faults.proof import each_sale_happened_once, verified
from tests.faults.shop import SERVERS, Shop, opened

pytestmark = pytest.mark.faults

TILLS = 24
# So long that nobody gives up a call by themselves.
CALL_SECONDS = 60.0
ROUNDS = 3
# The one thing a till may be refused: a member has no more points.
POOR = "INSUFFICIENT_POINTS"
SALES_PER_STOP = 200
# What gRPC says when nobody listens, and of a call that the server had not begun when it
# stopped (grpc/grpc#41785). Anything else would be a call that was cut off.
NOT_BEGUN = ("failed to connect to all addresses", "CANCELLED")


@pytest.fixture
def shop(folder: Path) -> Iterator[Shop]:
    with opened(folder / f"shop-{uuid4().hex[:8]}", LAUREL_GRACE_SECONDS="0.3") as shop:
        yield shop


def test_servers_replaced_one_by_one_under_load_cut_nobody_off(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(7)
    began = time.monotonic()
    with Tills(shop.addresses, shop.key, TILLS, 7, CALL_SECONDS) as tills:
        for stop in range(ROUNDS * SERVERS):
            tills.sell(shop.sales(source, SALES_PER_STOP, f"sale-{stop}"))
            shop.replace_server(stop % SERVERS)
        sales = tills.settled()
        took = time.monotonic() - began

    words = Counter(word for sale in sales for word in sale.words)
    with capsys.disabled():
        print(
            f"\n{ROUNDS * SERVERS} servers replaced in {took:.0f} s under {len(sales)} sales, of which "
            f"{sum(bool(sale.unanswered) for sale in sales)} were sent again: {dict(words)}"
        )
    assert "\n".join(shop.incidents()) == ""
    assert {sale.refusal for sale in sales} <= {"", POOR}
    assert [word for word in words if not any(known in word for known in NOT_BEGUN)] == []
    assert [drained["cut_off"] for drained in shop.logged("drained")] == [0] * ROUNDS * SERVERS
    asyncio.run(each_sale_happened_once(shop, sales))
    verified(shop)
