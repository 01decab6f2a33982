"""A journal that is cut wherever servers and PostgreSQL die leaves the ledger as one upload."""

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.json_format import MessageToDict
from loyalty.v1 import journal_pb2

from tests.faults.load import Sale
from tests.faults.proof import verified, wallets_agree
from tests.faults.shop import Shop, opened
from tests.support.processes import run, wait_until

pytestmark = pytest.mark.faults

ENTRIES = 6000
UPLOADS = 5
# By which a kill falls amid the upload.
SHARES = (0.15, 0.4, 0.7)


def as_lines(sales: Sequence[Sale]) -> str:
    """Sales as a till writes them down."""
    kinds = {"Accrue": "accrue", "Redeem": "redeem"}
    return "\n".join(
        json.dumps(MessageToDict(journal_pb2.JournalEntry(**{kinds[sale.method]: sale.request})))
        for sale in sales
    )


def upload(shop: Shop, file: Path) -> dict[str, Any]:
    """What the command tells of an upload to the first server, begun anew where the command gave up."""
    for _ in range(UPLOADS):
        done = run(
            "points", "upload", str(file), "--json",
            seconds=300, LAUREL_ADDRESS=shop.addresses[0], LAUREL_API_KEY=shop.key,
        )  # fmt: skip
        if done.stdout:
            break
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


async def movements(shop: Shop) -> list[tuple[Any, ...]]:
    """Of each wallet, in order: what moved for which receipt, and what was left."""
    rows = await shop.rows(
        """SELECT member_id, point_type, sequence, kind, points, balance_after, order_reference
             FROM ledger_transaction ORDER BY member_id, point_type, sequence"""
    )
    return [tuple(row) for row in rows]


def test_a_journal_cut_by_kills_leaves_the_ledger_as_one_upload(
    folder: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = random.Random(seed)
    with opened(folder / f"shop-{uuid4().hex[:8]}") as shop:
        sales, expected = covered(shop.sales(source, ENTRIES, "sale"))
        file = shop.folder / "till.jsonl"
        file.write_text(as_lines(sales))

        def recorded() -> int:
            [row] = asyncio.run(shop.rows("SELECT count(*) AS n FROM ledger_transaction"))
            return int(row["n"])

        told: dict[str, Any] = {}
        uploading = threading.Thread(target=lambda: told.update(upload(shop, file)))
        uploading.start()
        for share in SHARES:
            assert wait_until(lambda share=share: recorded() >= share * len(sales), 120.0)  # type: ignore[misc]
            assert uploading.is_alive(), "the kill comes too late to cut anything"
            if source.random() < 0.5:
                os.kill(shop.servers[0].pid, signal.SIGKILL)
                shop.servers[0].stop()
                time.sleep(source.uniform(0.0, 0.3))
                shop.servers[0].start()
                shop.servers[0].wait_until_serving(shop.addresses[0])
            else:
                shop.restart_postgres()
        uploading.join(310)
        assert (told["entries"], told["accepted"], told["refused"]) == (len(sales), len(sales), [])
        cut = asyncio.run(movements(shop))
        # The receipts of each member in the order in which the till wrote them down.
        assert receipts((row[0], row[6]) for row in cut) == receipts(
            (UUID(sale.request.member_id), sale.request.order_reference) for sale in sales
        )
        assert {str(row[0]): row[5] for row in cut} == expected
        again = upload(shop, file)
        assert (again["accepted"], again["known"]) == (len(sales), len(sales))
        assert asyncio.run(movements(shop)) == cut
        asyncio.run(wallets_agree(shop))
        verified(shop)
        with capsys.disabled():
            print(
                f"\nseed {seed}: {len(sales):,} entries, {told['known']} sent again, "
                f"{told['retries']} streams begun again"
            )


def receipts(moved: Iterable[tuple[UUID, str]]) -> dict[UUID, list[str]]:
    """Of each member, in order."""
    found: dict[UUID, list[str]] = {}
    for member, receipt in moved:
        found.setdefault(member, []).append(receipt)
    return found


def covered(sales: Sequence[Sale]) -> tuple[list[Sale], dict[str, int]]:
    """Sales without redemptions that a member can't pay for, and what each member has after all of them.

    A refusal leaves no trace, so one that was decided and not answered would be decided anew, by what
    stands in the books by then.
    """
    kept: list[Sale] = []
    balances: dict[str, int] = {}
    bonus: dict[str, int] = {}
    for sale in sales:
        member, request = sale.request.member_id, sale.request
        had = balances.get(member, 0)
        if sale.method == "Accrue":
            # 20 for every 100 rupees, and 3 a purchase up to 100 a day.
            extra = min(3, 100 - bonus.get(member, 0))
            bonus[member] = bonus.get(member, 0) + extra
            balances[member] = had + request.amount.units * 20 // 100 + extra
        elif request.points <= had:
            balances[member] = had - request.points
        else:
            continue
        kept.append(sale)
    return kept, balances
