"""Servers and PostgreSQL die under load: what was acknowledged stays, and happened once."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
from google.type import money_pb2
from loyalty.v1 import points_pb2

from tests.faults.load import Sale, Tills
from tests.faults.shop import SERVERS, Shop, opened
from tests.support.processes import run

pytestmark = pytest.mark.faults

TILLS = 24
KILLS = 50
SALES_PER_KILL = 150
LONGEST_LULL_SECONDS = 0.4
OUTAGE_SECONDS = 10.0
LONGEST_ANSWER_SECONDS = 6.0
# The one thing a till may be refused: a member has no more points.
POOR = "INSUFFICIENT_POINTS"
RUPEE = money_pb2.Money(currency_code="INR", units=1)


@pytest.fixture
def shop(folder: Path) -> Iterator[Shop]:
    with opened(folder / f"shop-{uuid4().hex[:8]}") as shop:
        yield shop


@pytest.fixture
def seed() -> int:
    """LAUREL_FAULTS_SEED repeats a run as far as a race can be repeated."""
    return int(os.environ.get("LAUREL_FAULTS_SEED") or random.SystemRandom().randrange(2**32))


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
        sales = tills.settled(90.0)
        killed = time.monotonic()
        repeated = tills.repeated(90.0)

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
    asyncio.run(_each_sale_happened_once(shop, sales))
    asyncio.run(_wallets_agree(shop))
    _verified(shop)


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
        tills.settled(60.0)
        shop.postgres.stop()
        gone = time.monotonic()
        tills.sell(shop.sales(source, 100, "during"))
        probes = tills.probed([call for call in calls for _ in range(2)], OUTAGE_SECONDS)
        back = time.monotonic()
        shop.postgres.start()
        tills.sell(shop.sales(source, 100, "after"))
        sales = tills.settled(60.0)
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
        assert probe.took < LONGEST_ANSWER_SECONDS, probe
    assert [server.pid for server in shop.servers if server.running] == pids
    assert {sale.refusal for sale in sales} <= {"", POOR}
    asyncio.run(_each_sale_happened_once(shop, sales))
    asyncio.run(_wallets_agree(shop))
    _verified(shop)


async def _each_sale_happened_once(shop: Shop, sales: Sequence[Sale]) -> None:
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


async def _wallets_agree(shop: Shop) -> None:
    """Balance = sum over rows = what lots have left; chains without gaps; caps not exceeded."""
    wrong = await shop.rows(
        """WITH moves AS (
               SELECT program_id, member_id, point_type, sequence, balance_after,
                      sum(CASE kind WHEN 'EARN' THEN points WHEN 'REDEEM' THEN -points END)
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
             LEFT JOIN LATERAL (SELECT sum(remaining) AS points FROM lot l
                                 WHERE (l.program_id, l.member_id, l.point_type)
                                     = (w.program_id, w.member_id, w.point_type)) AS left_over ON true
            WHERE w.balance <> coalesce(left_over.points, 0)"""
    )
    assert wrong == []
    caps = await shop.rows("SELECT points FROM cap_usage WHERE rule = 'daily'")
    assert caps
    assert max(row["points"] for row in caps) <= 100


def _verified(shop: Shop) -> None:
    """The product's own check finds nothing either."""
    checked = run("verify", **shop.settings)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def _tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(f"\n{line}", flush=True)
