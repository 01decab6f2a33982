"""`laurel replay`: real invoices in, and what every customer holds counted again by hand."""

import asyncio
import csv
import gzip
import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from loyalty.v1 import member_pb2, rules_pb2
from uuid_utils.compat import uuid7

from laurel import demo
from server.domain.actor import CallerKind
from tests.support import processes
from tests.support.programs import new_key, new_program
from tests.support.servers import Caller, Laurel

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "online-retail"
MONTHS = [FOLDER / f"{month}.csv.gz" for month in ("2010-12", "2011-01", "2011-02")]

needs_data = pytest.mark.skipif(
    not all(path.exists() for path in MONTHS),
    reason=f"the Online Retail data set is not in {FOLDER}",
)


class Shop:
    """A program in pounds with the demo's rule, and `laurel replay` into it."""

    def __init__(self, laurel: Laurel, key: str, terminal: Caller) -> None:
        self._settings = {"LAUREL_ADDRESS": laurel.address, "LAUREL_API_KEY": key}
        self._terminal = terminal

    async def replay(self, paths: Sequence[Path]) -> CompletedProcess[str]:
        arguments = ["replay", "online-retail", *map(str, paths), "--terminals", "8"]
        return await asyncio.to_thread(
            partial(processes.run, *arguments, cwd=Path("/"), seconds=300, **self._settings)
        )

    async def balances(self, customers: Sequence[str]) -> dict[str, int]:
        """What the API says that each customer of the data set holds."""
        found = {}
        for customer in customers:
            external_id = member_pb2.ExternalId(system="online-retail", id=customer)
            request = member_pb2.FindMemberRequest(identifier=member_pb2.Identifier(external_id=external_id))
            member = (await self._terminal.members.FindMember(request)).member
            found[customer] = member.wallets[0].balance
        return found


async def open_shop(laurel: Laurel) -> Shop:
    (terms,) = (each for each in demo.programs() if each["name"] == "online-retail")
    program = await new_program(
        laurel.database,
        program_id=uuid7(),
        currency=terms["currency"],
        time_zone=terms["time_zone"],
        past_limit_days=terms["past_limit_days"],
    )
    service = await laurel.caller(await new_key(laurel.database, program, CallerKind.SERVICE))
    versions = []
    for rule in terms["rules"]:
        definition = Struct()
        definition.update(rule)
        made = (await service.rules.CreateRule(rules_pb2.CreateRuleRequest(definition=definition))).rule
        versions.append(rules_pb2.RuleVersion(name=made.name, version=made.version))
    await service.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=versions))
    key = await new_key(laurel.database, program, CallerKind.TERMINAL)
    return Shop(laurel, key, await laurel.caller(key))


def rows_of(paths: Sequence[Path]) -> list[dict[str, str]]:
    rows = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows += list(csv.DictReader(file))
    return rows


def customer_of(row: dict[str, str]) -> str:
    return row["CustomerID"].split(".")[0]


def moment(row: dict[str, str]) -> datetime:
    return datetime.strptime(row["InvoiceDate"], "%Y-%m-%d %H:%M:%S")


def by_hand(rows: Sequence[dict[str, str]]) -> dict[str, int]:
    """What each customer holds: a point for each whole pound of a line, less what goods that came back had.

    A cancellation names no purchase: units come from the latest invoices that still have them, and
    the points of a line go as its units go, rounded down. Arithmetic and nothing else.
    """
    invoices: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["CustomerID"]:
            invoices.setdefault(row["InvoiceNo"], []).append(row)
    points = {customer_of(row): 0 for row in rows if row["CustomerID"]}
    bought: dict[str, list[list[list[Any]]]] = {}  # by customer: invoices of [sku, units, back, points]
    for number, own in sorted(invoices.items(), key=lambda item: (min(map(moment, item[1])), item[0])):
        customer = customer_of(own[0])
        if not number.startswith("C"):
            lines = []
            for row in own:
                units = int(row["Quantity"])
                worth = int(units * Decimal(row["UnitPrice"]) // 1)
                points[customer] += worth
                lines.append([row["StockCode"], units, 0, worth])
            bought.setdefault(customer, []).append(lines)
            continue
        for row in own:
            missing = -int(row["Quantity"])
            for lines in reversed(bought.get(customer, [])):
                for line in lines:
                    sku, units, back, worth = line
                    if sku == row["StockCode"] and missing:
                        part = min(units - back, missing)
                        points[customer] -= worth * (back + part) // units - worth * back // units
                        line[2] += part
                        missing -= part
    return points


def invoices_of(rows: Sequence[dict[str, str]], *, cancelled: bool) -> int:
    """How many purchases, or cancellations, known customers have."""
    return len(
        {r["InvoiceNo"] for r in rows if r["CustomerID"] and r["InvoiceNo"].startswith("C") is cancelled}
    )


def count(output: str, what: str) -> int:
    found = re.search(rf"^{re.escape(what)} +([\d,]+) *$", output, re.MULTILINE)
    assert found, output
    return int(found[1].replace(",", ""))


async def check(shop: Shop, paths: Sequence[Path], rows: Sequence[dict[str, str]]) -> None:
    """Replay them once, and hold what every customer has against a computation with nothing of ours."""
    expected = by_hand(rows)
    first = await shop.replay(paths)
    assert first.returncode == 0, first.stderr
    print(first.stdout)  # `pytest -s` shows rate and latencies
    assert await shop.balances(list(expected)) == expected
    assert count(first.stdout, "purchases recorded") == invoices_of(rows, cancelled=False)
    assert count(first.stdout, "returns recorded") == invoices_of(rows, cancelled=True)
    assert count(first.stdout, "members new") == len(expected)
    taken_back = count(first.stdout, "points taken back")
    assert taken_back
    assert count(first.stdout, "points earned") - taken_back == sum(expected.values())
    assert "Nothing changed" not in first.stdout


async def check_again(shop: Shop, paths: Sequence[Path], rows: Sequence[dict[str, str]]) -> None:
    """Replay what has been replayed: nothing changes."""
    expected = by_hand(rows)
    second = await shop.replay(paths)
    assert second.returncode == 0, second.stderr
    assert await shop.balances(list(expected)) == expected
    assert count(second.stdout, "purchases recorded") == 0
    assert count(second.stdout, "purchases already there") == invoices_of(rows, cancelled=False)
    assert count(second.stdout, "returns recorded") == 0
    assert count(second.stdout, "returns already there") == invoices_of(rows, cancelled=True)
    assert count(second.stdout, "points earned") == 0
    assert f"Nothing changed: all {len(expected):,} customers" in second.stdout


@needs_data
async def test_every_customer_of_the_first_days_holds_what_arithmetic_says(
    laurel: Laurel, tmp_path: Path
) -> None:
    rows = rows_of(MONTHS[:1])
    chosen = set(list(dict.fromkeys(row["InvoiceNo"] for row in rows))[:400])
    rows = [row for row in rows if row["InvoiceNo"] in chosen]
    path = tmp_path / "first-days.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    shop = await open_shop(laurel)
    await check(shop, [path], rows)
    await check_again(shop, [path], rows)


@needs_data
@pytest.mark.long
async def test_every_customer_of_three_months_holds_what_arithmetic_says(laurel: Laurel) -> None:
    await check(await open_shop(laurel), MONTHS, rows_of(MONTHS))


async def test_a_program_of_another_currency_is_told_at_once(laurel: Laurel, tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_text(
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
        "C1,A,x,-1,2010-12-01 08:26:00,1.00,5,UK\n"
        + "".join(f"{n},A,x,1,2010-12-01 09:{n}:00,1.00,{n},UK\n" for n in range(10, 30))
    )
    program = await new_program(laurel.database, currency="INR")
    key = await new_key(laurel.database, program, CallerKind.TERMINAL)
    done = await Shop(laurel, key, await laurel.caller(key)).replay([path])
    assert (done.returncode, done.stdout) == (1, "")
    assert "the data is in GBP, for which the program has no rate: it counts in INR" in done.stderr
    async with laurel.database.connection() as connection:
        made = await connection.fetchval(
            "SELECT count(*) FROM member WHERE program_id = $1", program.program_id
        )
    assert made == 1


async def test_without_a_server_it_says_so_and_fails(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    path.write_text(
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
        "1,A,x,1,2010-12-01 08:26:00,1.00,5,UK\n"
    )
    settings = {"LAUREL_ADDRESS": "127.0.0.1:1", "LAUREL_API_KEY": "lk_x_y"}
    arguments = ["replay", "online-retail", str(path), "--terminals", "1"]
    done = await asyncio.to_thread(partial(processes.run, *arguments, **settings))
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr
