"""Servers and PostgreSQL die under load: what was acknowledged stays, and happened once."""

import asyncio
import random
import time
from collections import Counter

import grpc
import pytest
from google.type import money_pb2
from loyalty.v1 import points_pb2

from tests.faults.load import Tills
from tests.faults.proof import each_sale_happened_once, verified, wallets_agree
from tests.faults.shop import SERVERS, Shop

pytestmark = pytest.mark.faults

TILLS = 24
KILLS = 50
SALES_PER_KILL = 150
LONGEST_LULL_SECONDS = 0.4
OUTAGE_SECONDS = 10.0
# Of nineteen in twenty; the others are the machine's, and by then have been answered too.
LONGEST_ANSWER_SECONDS = 6.0
# The one thing a till may be refused: a member has no more points.
POOR = "INSUFFICIENT_POINTS"
RUPEE = money_pb2.Money(currency_code="INR", units=1)


def test_no_kill_loses_or_repeats_a_transaction(
    shop: Shop, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    _tell(capsys, f"seed {seed}")
    began = time.monotonic()
    victims: Counter[str] = Counter()
    with Tills(shop.addresses, shop.key, TILLS, seed) as tills:
        for kill in range(KILLS):
            tills.sell(shop.sales(source, SALES_PER_KILL, f"sale-{kill}"))
            time.sleep(source.uniform(0.0, LONGEST_LULL_SECONDS))
            if source.random() < 0.5:
                victims["PostgreSQL"] += 1
                shop.restart_postgres()
            else:
                victims["server"] += 1
                shop.restart_server(source.randrange(SERVERS))
        sales = tills.settled()
        killed = time.monotonic()
        repeated = tills.repeated()

    acknowledged = [sale for sale in sales if sale.reply is not None]

    unanswered = sum(len(sale.unanswered) for sale in sales)
    _tell(
        capsys,
        f"{dict(victims)} killed in {killed - began:.0f} s; {len(sales)} sales, {len(acknowledged)} "
        f"acknowledged, {sum(bool(sale.unanswered) for sale in sales)} of all sent again, {unanswered} "
        f"times unanswered: {dict(Counter(code for sale in sales for code in sale.unanswered))}; "
        f"repeated in {time.monotonic() - killed:.0f} s",
    )
    assert "\n".join(shop.incidents()) == ""
    assert unanswered > KILLS, "the kills met no call under way"
    assert {sale.refusal for sale in sales} <= {"", POOR}
    assert [
        sale.request.request_id
        for sale, again in zip(acknowledged, repeated, strict=True)
        if again != sale.reply
    ] == []
    asyncio.run(each_sale_happened_once(shop, sales))
    asyncio.run(wallets_agree(shop))
    verified(shop)


def test_while_postgresql_is_away_calls_are_refused_soon_and_afterwards_all_goes_on(
    shop: Shop, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    pids = [server.pid for server in shop.servers]
    member_id = shop.members[0]
    calls = [
        ("Accrue", points_pb2.AccrueRequest(order_reference="probe", member_id=member_id, amount=RUPEE)),
        ("Redeem", points_pb2.RedeemRequest(points=1, member_id=member_id)),
        ("GetBalance", points_pb2.GetBalanceRequest(member_id=member_id)),
    ]
    with Tills(shop.addresses, shop.key, TILLS, seed) as tills:
        tills.sell(shop.sales(source, 100, "before"))
        tills.settled()
        shop.postgres.stop()
        gone = time.monotonic()
        tills.sell(shop.sales(source, 100, "during"))
        probes = tills.probed([call for call in calls for _ in range(2)], OUTAGE_SECONDS)
        back = time.monotonic()
        shop.postgres.start()
        tills.sell(shop.sales(source, 100, "after"))
        sales = tills.settled()
        recovered = time.monotonic() - back

    _tell(
        capsys,
        f"seed {seed}: away for {back - gone:.1f} s, {len(probes)} calls refused, the slowest after "
        f"{max(probe.took for probe in probes):.2f} s; every sale settled {recovered:.1f} s after "
        "PostgreSQL was started again",
    )
    assert "\n".join(shop.incidents()) == ""
    assert {probe.server for probe in probes} == set(range(SERVERS))
    for probe in probes:
        assert probe.refusal is not None, f"{probe} was answered without a database"
        assert probe.refusal.code is grpc.StatusCode.UNAVAILABLE, probe
        assert probe.refusal.reason == "STORAGE_UNAVAILABLE", probe
        assert probe.refusal.retry_seconds, probe
    took = sorted(probe.took for probe in probes)
    assert took[len(took) * 19 // 20] < LONGEST_ANSWER_SECONDS
    assert [server.pid for server in shop.servers if server.running] == pids
    assert {sale.refusal for sale in sales} <= {"", POOR}
    asyncio.run(each_sale_happened_once(shop, sales))
    asyncio.run(wallets_agree(shop))
    verified(shop)


def _tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(f"\n{line}", flush=True)
