"""`laurel points return|refund|transfer` and `laurel holds`, as operators type them."""

import asyncio
import json
import re
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2

from laurel.cli import laurel as command
from tests.support import processes
from tests.support.published import publish
from tests.support.servers import Laurel

BASE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 10, "per": "1.00", "currency": "INR"}}],
}


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """Ten points a rupee, line by line."""
    await publish(laurel, BASE)
    return laurel


async def cli(shop: Laurel, *arguments: object) -> CompletedProcess[str]:
    settings = {"LAUREL_ADDRESS": shop.address, "LAUREL_API_KEY": shop.service.key}
    return await asyncio.to_thread(partial(processes.run, *map(str, arguments), cwd=Path("/"), **settings))


async def told(shop: Laurel, *arguments: object) -> Any:
    """What the command prints with --json."""
    done = await cli(shop, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def lines(done: CompletedProcess[str]) -> list[str]:
    """What it printed, without what aligns it."""
    assert done.returncode == 0, done.stderr
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


async def refused(shop: Laurel, *arguments: object) -> str:
    """The reason why."""
    done = await cli(shop, *arguments)
    found = re.match(r"Error: \w+ \((\w+)\): ", done.stderr)
    assert done.returncode == 1, done.stdout
    assert found, done.stderr
    return found[1]


async def bought(shop: Laurel, member_id: str, store: str = "", **lines: tuple[int, int]) -> str:
    """The receipt of a purchase of sku=(units, rupees of the line); a line's id is its sku in lower case."""
    receipt = uuid4().hex
    await buy(shop, member_id, receipt, store, **lines)
    return receipt


async def buy(shop: Laurel, member_id: str, receipt: str, store: str = "", **lines: tuple[int, int]) -> None:
    await shop.terminal.points.Accrue(
        points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=receipt,
            store=store,
            lines=[
                points_pb2.LineItem(
                    line_id=sku.lower(),
                    sku=sku,
                    quantity=units,
                    amount=Money(currency_code="INR", units=rupees),
                )
                for sku, (units, rupees) in lines.items()
            ],
        )
    )


async def test_goods_come_back_by_sku_by_line_and_as_a_whole(shop: Laurel) -> None:
    receipt = await bought(shop, await shop.register(), LADOO=(4, 4), TEA=(2, 6))
    some = await cli(shop, "points", "return", "--receipt", receipt, "--item", "LADOO=2", "--part", "1")
    assert {"taken back 20 points", "balance 80"} <= set(lines(some))
    assert any(line.startswith("ladoo 2 ") for line in lines(some))
    line = await told(shop, "points", "return", "--receipt", receipt, "--line", "tea=1", "--part", 2)
    assert (line["points"], line["balance"]) == ("30", "50")
    much = ("points", "return", "--receipt", receipt, "--item", "TEA=2", "--credit-note", uuid4().hex)
    assert await refused(shop, *much) == "RETURN_EXCEEDS_PURCHASE"
    rest = await told(shop, "points", "return", "--receipt", receipt, "--credit-note", uuid4().hex)
    assert (rest["points"], rest["balance"]) == ("50", "0")


async def test_what_no_purchase_has_is_shown_and_nothing_taken_for_it(shop: Laurel) -> None:
    email = f"{uuid4().hex}@example.com"
    await bought(shop, await shop.register(email=email), RICE=(2, 8))
    done = await cli(shop, "points", "return", email, "--item", "RICE=3")
    assert "taken back 80 points" in lines(done)
    assert lines(done)[-2:] == ["FOUND IN NO PURCHASE UNITS", "RICE 1"]


async def test_a_receipt_that_two_stores_have_is_told_apart_by_its_store(shop: Laurel) -> None:
    member_id, receipt = await shop.register(), uuid4().hex
    await buy(shop, member_id, receipt, "mumbai-1", OIL=(1, 1))
    await buy(shop, member_id, receipt, "mumbai-2", OIL=(1, 3))
    assert await refused(shop, "points", "return", "--receipt", receipt) == "PURCHASE_AMBIGUOUS"
    done = await told(shop, "points", "return", "--receipt", receipt, "--bought-in", "mumbai-2")
    assert (done["points"], done["balance"]) == ("30", "10")


@pytest.mark.parametrize(
    "wrong",
    [
        ["points", "return"],
        ["points", "return", "asha@example.com"],
        ["points", "return", "asha@example.com", "--line", "1=2"],
        ["points", "return", "--item", "A=1"],
        ["points", "return", "--receipt", "R", "--item", "A"],
        ["points", "return", "--receipt", "R", "--bought-on", "yesterday"],
        ["points", "transfer", "asha@example.com", "ravi@example.com", "0"],
        ["holds", "capture", "x", "--points", "0"],
    ],
)
def test_what_makes_no_sense_is_wrong_usage(wrong: list[str]) -> None:
    assert CliRunner().invoke(command, wrong).exit_code == 2


async def test_a_redemption_is_given_back_in_parts_and_no_more(shop: Laurel) -> None:
    member_id = await shop.register()
    await bought(shop, member_id, SALT=(1, 10))
    spent = (await told(shop, "points", "redeem", member_id, 80))["transactionId"]
    part = await cli(shop, "points", "refund", spent, "--points", 30, "--reason", "no tea left")
    assert lines(part)[:2] == ["given back 30 points", "balance 50"]
    assert await refused(shop, "points", "refund", spent, "--points", 51) == "REFUND_EXCEEDS_REDEMPTION"
    rest = await told(shop, "points", "refund", spent)
    assert (rest["points"], rest["balance"]) == ("50", "100")


async def test_points_are_handed_on_once_however_often_it_is_asked(shop: Laurel) -> None:
    giver, email = await shop.register(), f"{uuid4().hex}@example.com"
    getter = await shop.register(email=email)
    await bought(shop, giver, SALT=(1, 10))
    once = ("points", "transfer", giver, email, 60, "--reason", "a birthday", "--request-id", uuid4().hex)
    first, again = await told(shop, *once), await told(shop, *once)
    assert first == again
    assert (first["points"], first["balance"]) == ("60", "40")
    back = await cli(shop, "points", "transfer", email, giver, 10)
    assert lines(back)[:2] == ["handed on 10 points", "balance 50"]
    assert await refused(shop, "points", "transfer", getter, giver, 51) == "INSUFFICIENT_POINTS"


async def test_a_hold_is_spent_in_part_and_its_rest_given_up(shop: Laurel) -> None:
    email = f"{uuid4().hex}@example.com"
    await bought(shop, await shop.register(email=email), SALT=(1, 10))
    placed = await told(shop, "holds", "place", email, 80, "--seconds", 3600, "--order", uuid4().hex)
    hold_id = placed["hold"]["holdId"]
    assert placed["balance"] == "20"
    assert await refused(shop, "holds", "place", email, 21) == "INSUFFICIENT_POINTS"
    listed = await cli(shop, "holds", "list", email)
    assert lines(listed)[-1].endswith(f" points 80 80 0 {hold_id}")

    part = await cli(shop, "holds", "capture", hold_id, "--points", 50, "--keep-rest")
    assert lines(part)[:3] == ["spent 50 points", "still held 30", "balance 20"]
    given_up = await cli(shop, "holds", "void", hold_id)
    assert lines(given_up) == ["released 30 points", "balance 50"]
    assert await refused(shop, "holds", "capture", hold_id) == "HOLD_NOT_OPEN"
    shown = await cli(shop, "holds", "show", hold_id)
    assert {"status voided", "captured 50", "still held 0"} <= set(lines(shown))
    assert await told(shop, "holds", "list", email) == []

    history = await cli(shop, "points", "history", email)
    moved = re.findall(r"Z +([a-z, _]+?) +points +([+-]\d+) +(\d+)", history.stdout)
    assert moved == [
        ("release", "+30", "50"),
        ("capture, held", "-50", "20"),
        ("hold", "-80", "20"),
        ("earn", "+100", "100"),
    ]
