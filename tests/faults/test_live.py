"""Streams in every way there is, while servers die and Redis loses all: all is told, and nothing twice."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest
import redis

from tests.faults.load import Tills
from tests.faults.shop import SERVERS, Shop
from tests.faults.telling import orders_in_the_log
from tests.faults.watchers import BROKE_OFF, Door, Watchers
from tests.support.processes import gateway, wait_until

pytestmark = pytest.mark.faults

TILLS = 8
ROUNDS = 2
SALES_PER_ROUND = 80
QUIET_SECONDS = 60.0


def test_streams_over_grpc_sse_and_websocket_go_on_where_they_broke_off(
    shop: Shop, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    with (
        # A shim that outlives its server, beside those that die with theirs.
        gateway(shop.addresses[0], tmp_path) as (_, ready),
        Tills(shop.addresses, shop.key, TILLS, seed) as tills,
        Watchers(
            [*shop.doors, Door(shop.addresses[0], f"127.0.0.1:{ready['http_port']}")], shop.key, shop.members
        ) as watchers,
    ):
        watchers.until_open()
        for number in range(ROUNDS):
            tills.sell(shop.sales(source, SALES_PER_ROUND, f"sale-{number}"))
            time.sleep(source.uniform(0.1, 0.4))
            with redis.Redis.from_url(shop.redis.url) as client:
                client.flushall()
            shop.restart_server(number % SERVERS)
        shop.redis.stop()
        tills.sell(shop.sales(source, SALES_PER_ROUND, "without"))
        tills.settled()
        shop.redis.start()
        tills.sell(shop.sales(source, SALES_PER_ROUND, "after"))
        tills.settled()
        expected = orders_in_the_log(shop)

        def all_told() -> bool:
            return all(len(w.orders) >= len(expected[m]) for m, w in watchers.watched().items())

        wait_until(all_told, QUIET_SECONDS)
        watched = watchers.watched()
    ends = Counter((found.way, end) for found in watched.values() for end in found.ends)
    told = Counter({way: 0 for way, _ in ends})
    for found in watched.values():
        told[found.way] += len(found.orders)
    with capsys.disabled():
        print(f"\nseed {seed}: told {dict(told)}; ended {dict(ends)}", flush=True)
    assert {member: found.orders for member, found in watched.items()} == dict(expected)
    # Begun once, and gone on with after each end.
    assert {found.standings for found in watched.values()} == {1}
    assert {way for way, _ in ends} == {"calls", "events", "frames"}
    assert {end for _, end in ends} <= {"UNAVAILABLE", BROKE_OFF}
    assert "\n".join(shop.incidents()) == ""
