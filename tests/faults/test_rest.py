"""Servers killed behind a shim that stands alone: nobody's retry counts twice, and the shim stays."""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.faults.shop import Shop, opened
from tests.support.processes import Foreground, gateway

pytestmark = pytest.mark.faults

SALES = 600
TILLS = 12
KILLS = 4
CALL_SECONDS = 5.0
PATIENCE_SECONDS = 90.0
# What leaves open whether the request was carried out.
OPEN = (503, 504)


@dataclass
class Sale:
    """A purchase, the reply it got, and the answers that left it open."""

    order: str
    body: dict[str, Any]
    reply: dict[str, Any] | None = None
    open: list[int] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)


class Load(threading.Thread):
    """Tills that send their sales through the shim, again and again until each is answered."""

    def __init__(self, address: str, key: str, sales: Sequence[Sale]) -> None:
        super().__init__()
        self.done = 0
        self._address = address
        self._headers = {"authorization": f"Bearer {key}"}
        self._sales = list(sales)

    def run(self) -> None:
        asyncio.run(self._sell())

    async def _sell(self) -> None:
        limits = httpx.Limits(max_connections=TILLS)
        async with httpx.AsyncClient(
            base_url=f"http://{self._address}", limits=limits, trust_env=False, timeout=CALL_SECONDS
        ) as http:
            line = iter(self._sales)
            await asyncio.gather(*(self._till(http, line) for _ in range(TILLS)))

    async def _till(self, http: httpx.AsyncClient, line: Iterator[Sale]) -> None:
        for sale in line:
            await self._settle(http, sale)
            self.done += 1

    async def _settle(self, http: httpx.AsyncClient, sale: Sale) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            try:
                answer = await http.post(
                    "/transactions/accrue",
                    json=sale.body,
                    headers={**self._headers, "idempotency-key": sale.order},
                )
            except httpx.TimeoutException:
                sale.open.append(504)
                continue
            if answer.status_code == 200:
                sale.reply = answer.json()
                return
            if answer.status_code not in OPEN:
                sale.strange.append(answer.text)
                return
            if answer.status_code == 503 and int(answer.headers.get("retry-after", "0")) < 1:
                sale.strange.append(f"503 without Retry-After: {answer.text}")
            sale.open.append(answer.status_code)
            await asyncio.sleep(0.1)


@pytest.fixture
def shop(folder: Path) -> Iterator[Shop]:
    with opened(folder / f"shop-{uuid4().hex[:8]}") as shop:
        yield shop


@pytest.fixture
def shim(shop: Shop, tmp_path: Path) -> Iterator[tuple[Foreground, dict[str, Any]]]:
    with gateway(shop.addresses[0], tmp_path) as started:
        yield started


def test_a_server_killed_behind_the_shim_costs_retries_and_nothing_else(
    shop: Shop, shim: tuple[Foreground, dict[str, Any]], seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, ready = shim
    source = random.Random(seed)
    address = f"127.0.0.1:{ready['http_port']}"
    sales = [_sale(shop, source, number) for number in range(SALES)]
    load = Load(address, shop.key, sales)
    load.start()
    for kill in range(1, KILLS + 1):
        _wait_for(load, SALES * kill // (KILLS + 2))
        shop.restart_server(0)
    load.join(PATIENCE_SECONDS * 2)
    assert not load.is_alive()

    opens = Counter(status for sale in sales for status in sale.open)
    with capsys.disabled():
        print(f"\nseed {seed}: {KILLS} kills, {SALES} purchases, left open {dict(opens)}", flush=True)
    assert [mistake for sale in sales for mistake in sale.strange] == []
    assert [sale.order for sale in sales if sale.reply is None] == []
    assert opens[503] >= KILLS, "the kills met no call under way"
    assert alone.process.poll() is None
    assert "\n".join(shop.incidents()) == ""
    asyncio.run(_each_happened_once(shop, sales, address))


def _sale(shop: Shop, source: random.Random, number: int) -> Sale:
    order = f"rest-{number}"
    money = {"currencyCode": "INR", "units": str(source.randint(100, 500))}
    member = source.choice(shop.members)
    return Sale(order, {"memberId": member, "orderReference": order, "amount": money})


def _wait_for(load: Load, count: int) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while load.done < count and load.is_alive() and time.monotonic() < until:
        time.sleep(0.005)


async def _each_happened_once(shop: Shop, sales: Sequence[Sale], address: str) -> None:
    """Every purchase has exactly the row that its reply names, and repeating it gives that reply."""
    rows = await shop.rows("SELECT transaction_id, order_reference FROM ledger_transaction")
    assert Counter(row["order_reference"] for row in rows) == Counter(sale.order for sale in sales)
    known = {row["order_reference"]: str(row["transaction_id"]) for row in rows}
    headers = {"authorization": f"Bearer {shop.key}"}
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, timeout=60) as http:
        for sale in sales:
            assert sale.reply is not None
            assert [award["transactionId"] for award in sale.reply["awards"]] == [known[sale.order]]
        for sale in sales[::20]:
            again = await http.post(
                "/transactions/accrue", json=sale.body, headers={**headers, "idempotency-key": sale.order}
            )
            assert again.json() == sale.reply
