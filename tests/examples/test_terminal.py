"""The example tills against a real server: the same story in every language."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from google.protobuf import json_format
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2, rules_pb2

from laurel import clients
from tests.support.processes import ROOT, environment
from tests.support.servers import Laurel
from tests.support.shop import BASE

NOWHERE = "127.0.0.1:1"
EXAMPLES = ROOT / "examples" / "terminal"
Command = list[str]


@pytest.fixture(
    scope="module", params=["python", pytest.param("go", marks=pytest.mark.toolchains)], ids=lambda name: name
)
def terminal(request: pytest.FixtureRequest) -> Command:
    """The command line of a till."""
    build: Callable[[], Command] = {"python": in_python, "go": in_go}[request.param]
    return build()


def in_python() -> Command:
    return [sys.executable, str(EXAMPLES / "python" / "terminal.py")]


def in_go() -> Command:
    try:
        clients.generate("go")
    except clients.Missing as reason:
        pytest.skip(str(reason))
    program = ROOT / "build" / "bin" / "terminal"
    subprocess.run(["go", "build", "-o", program, "."], cwd=EXAMPLES / "go", check=True)
    return [str(program)]


class Till:
    """Runs the commands of one till in its own folder."""

    def __init__(self, command: Command, laurel: Laurel, folder: Path) -> None:
        self.command = command
        self.folder = folder
        self.address = laurel.address
        self.key = laurel.terminal.key

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        """What it printed; it must have ended with ``code``."""

        def run() -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                [*self.command, *arguments],
                env=environment(LAUREL_ADDRESS=self.address, LAUREL_API_KEY=self.key),
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )

        done = await asyncio.to_thread(run)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def outbox(self, ending: str) -> list[Path]:
        return sorted((self.folder / "outbox").glob(f"*.{ending}"))


@pytest.fixture
def till(terminal: Command, laurel: Laurel, tmp_path: Path) -> Till:
    return Till(terminal, laurel, tmp_path)


@pytest.fixture
async def card(till: Till) -> str:
    """Of a member who has joined."""
    number = f"{uuid4().int % 10**12:012}"
    said = await till("join", number, "Asha")
    assert re.fullmatch(r"Asha joined as [0-9a-f-]{36}\n", said)
    return number


@pytest.fixture(scope="module")
async def earning(laurel: Laurel) -> None:
    """20 points for every 100 rupees."""
    create = rules_pb2.CreateRuleRequest()
    json_format.ParseDict(BASE, create.definition)
    rule = (await laurel.service.rules.CreateRule(create)).rule
    version = rules_pb2.RuleVersion(name=rule.name, version=rule.version)
    await laurel.service.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=[version]))


async def points(till: Till, card: str) -> int:
    found = re.match(r"balance (\d+), tier ", await till("balance", card))
    assert found
    return int(found[1])


async def test_a_member_earns_and_spends(till: Till, card: str, earning: None) -> None:
    assert await till("sell", card, "500.50", "R-1" + card) == f"receipt R-1{card}: 100 points, balance 100\n"
    first = await till("redeem", card, "40", "R-2" + card)
    assert first == f"receipt R-2{card}: 40 points redeemed, balance 60\n"
    assert await till("redeem", card, "40", "R-2" + card) == first
    assert await points(till, card) == 60
    assert till.outbox("sale") == []


@pytest.mark.toolchains
async def test_the_till_of_the_readme_sells_in_go(laurel: Laurel, earning: None) -> None:
    if shutil.which("go") is None:
        pytest.skip("go isn't installed")
    section = (ROOT / "README.md").read_text().partition("\nThe till again in Go")[2]
    block = re.search(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert block is not None
    story, keys = re.subn(r"(LAUREL_API_KEY)=\.\.\..*", rf"\1={laurel.terminal.key}", block[1])
    assert keys == 1

    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", story],
            env=environment(LAUREL_ADDRESS=laurel.address),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    outbox = EXAMPLES / "go" / "outbox"
    kept = outbox.exists()
    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stdout + done.stderr
    if not kept:
        outbox.rmdir()
    joined, sold, redeemed, balance = done.stdout.splitlines()[-4:]
    assert joined.startswith("Asha joined as ")
    assert sold == "receipt R-1: 100 points, balance 100"
    assert redeemed == "receipt R-2: 40 points redeemed, balance 60"
    assert balance.startswith("balance 60, tier ")


async def test_a_sale_without_a_server_is_kept_and_counts_once(till: Till, card: str, earning: None) -> None:
    online, till.address = till.address, NOWHERE
    assert "in the outbox" in await till("sell", card, "500.00", "R-1" + card)
    assert "no answer" in await till("deliver", code=3)
    [kept] = till.outbox("sale")
    # The answer may get lost, or the till die before it has crossed the sale off.
    shutil.copy(kept, kept.with_name(f"{kept.stem}-again.sale"))
    till.address = online
    assert await till("deliver") == 2 * f"receipt R-1{card}: 100 points, balance 100\n"
    assert await points(till, card) == 100
    assert till.outbox("sale") == []


async def test_refusals_name_their_reason(till: Till, card: str) -> None:
    assert "INSUFFICIENT_POINTS" in await till("redeem", card, "40", "R-1" + card, code=1)
    assert "MEMBER_NOT_FOUND" in await till("balance", "99990000", code=1)


async def test_a_sale_that_can_not_be_is_set_aside_for_a_person(till: Till, card: str) -> None:
    assert "MEMBER_NOT_FOUND" in await till("sell", "99990000", "500.00", "R-1" + card, code=1)
    assert till.outbox("sale") == []
    assert len(till.outbox("refused")) == 1


async def test_an_outbox_goes_out_in_order_and_what_cannot_be_blocks_nothing(
    till: Till, card: str, earning: None
) -> None:
    online, till.address = till.address, NOWHERE
    for number, buyer in enumerate((card, "99990000", card, card), 1):
        await till("sell", buyer, f"{number}00.00", f"R-{number}{card}")
    till.address = online
    said = (await till("deliver", code=1)).splitlines()
    assert said[0] == f"receipt R-1{card}: 20 points, balance 20"
    assert "MEMBER_NOT_FOUND" in said[1]
    assert said[2:] == [
        f"receipt R-3{card}: 60 points, balance 80",
        f"receipt R-4{card}: 80 points, balance 160",
    ]
    assert till.outbox("sale") == []
    assert len(till.outbox("refused")) == 1


async def test_a_sale_that_is_too_old_is_told_where_it_waits(
    laurel: Laurel, tmp_path: Path, earning: None
) -> None:
    till = Till(in_python(), laurel, tmp_path)
    sale = points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=await laurel.register(),
        order_reference="R-1",
        amount=Money(currency_code="INR", units=500),
    )
    sale.occur_time.FromDatetime(datetime.now(UTC) - timedelta(days=400))
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / "1.sale").write_bytes(sale.SerializeToString())
    assert re.fullmatch(r"receipt R-1: too old, waits for review [0-9a-f-]{36}\n", await till("deliver"))
    assert till.outbox("sale") == []


async def test_an_allowance_is_spent_and_goods_come_back_without_a_server(
    laurel: Laurel, tmp_path: Path, earning: None
) -> None:
    till, card = Till(in_python(), laurel, tmp_path), f"{uuid4().int % 10**12:012}"
    await till("join", card, "Asha")
    await till("sell", card, "1000.00", "R-1" + card)
    assert "NO_ALLOWANCE" in await till("spend", card, "1", "R-2" + card, code=1)
    assert (await till("allow", card, "150")).startswith("150 points may be spent until ")
    assert "ALLOWANCE_OPEN" in await till("allow", card, "1", code=1)
    assert await points(till, card) == 50
    online, till.address = till.address, NOWHERE
    assert "in the outbox" in await till("spend", card, "60", "R-2" + card)
    await till("sell", card, "500.00", "R-3" + card)
    await till("back", "R-3" + card)
    await till("spend", card, "40", "R-4" + card)
    assert "ALLOWANCE_TOO_SMALL" in await till("spend", card, "51", "R-5" + card, code=1)
    await till("release", card)
    till.address = online
    assert (await till("deliver")).splitlines() == [
        f"receipt R-2{card}: 60 points spent, 90 still allowed",
        f"receipt R-3{card}: 100 points, balance 150",
        f"receipt R-3{card}: 100 points taken back, balance 50",
        f"receipt R-4{card}: 40 points spent, 50 still allowed",
        "allowance: 50 points given up, balance 100",
    ]
    assert await points(till, card) == 100
    assert list((tmp_path / "outbox").iterdir()) == []


async def test_a_wrong_key_costs_no_sale(till: Till, card: str) -> None:
    key, till.key = till.key, "lrl_wrong"
    assert "CREDENTIAL_INVALID" in await till("sell", card, "500.00", "R-1" + card, code=1)
    assert len(till.outbox("sale")) == 1
    till.key = key
    assert "receipt R-1" in await till("deliver")


def test_without_a_key_it_says_what_to_set(tmp_path: Path) -> None:
    done = subprocess.run(
        [*in_python(), "deliver"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 2
    assert "set LAUREL_API_KEY" in done.stderr


async def test_wrong_usage_ends_with_2(till: Till) -> None:
    assert "usage" in await till("sell", "4711", code=2)
    assert os.listdir(till.folder) == []
