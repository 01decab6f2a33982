"""`laurel households`, as operators type it."""

import asyncio
import json
import re
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from uuid import uuid4

import pytest
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2

from tests.support import processes
from tests.support.published import publish
from tests.support.servers import Laurel

BASE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 1, "per": "1.00", "currency": "INR"}}],
}


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """A point for each rupee."""
    await publish(laurel, BASE)
    return laurel


async def cli(shop: Laurel, *arguments: object) -> CompletedProcess[str]:
    settings = {"LAUREL_ADDRESS": shop.address, "LAUREL_API_KEY": shop.service.key}
    return await asyncio.to_thread(partial(processes.run, *map(str, arguments), cwd=Path("/"), **settings))


async def told(shop: Laurel, *arguments: object) -> Any:
    """What the command prints with --json."""
    done = await cli(shop, arguments[0], arguments[1], "--json", *arguments[2:])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def lines(done: CompletedProcess[str]) -> list[str]:
    """What it printed, without what aligns it."""
    assert done.returncode == 0, done.stderr
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


async def somebody(shop: Laurel, rupees: int) -> tuple[str, str]:
    """A member with points: its email and id."""
    email = f"{uuid4().hex}@example.com"
    member_id = await shop.register(email=email)
    await shop.terminal.points.Accrue(
        points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=uuid4().hex,
            amount=Money(currency_code="INR", units=rupees),
        )
    )
    return email, member_id


async def test_a_household_from_its_making_to_its_end(shop: Laurel) -> None:
    ann, ann_id = await somebody(shop, 100)
    ben, ben_id = await somebody(shop, 50)
    made = await told(shop, "households", "create", ann)
    household_id = made["householdId"]
    assert household_id in (await cli(shop, "households", "list")).stdout
    token = (await told(shop, "households", "invite", ann, "--may-not-spend"))["token"]
    joined = await told(shop, "households", "join", "--", token, ben)
    assert [seat["memberId"] for seat in joined["seats"]] == [ann_id, ben_id]
    again = await cli(shop, "households", "join", "--", token, ben)
    assert "(INVITATION_NOT_FOUND)" in again.stderr
    given = lines(await cli(shop, "households", "contribute", ben, 30))
    assert given[:3] == ["contributed 30 points", "balance 20", "pool 30"]
    spend = ("points", "redeem", ben, 10, "--household")
    assert "(SPENDING_NOT_ALLOWED)" in (await cli(shop, *spend)).stderr
    seat = await told(shop, "households", "seat", ann, ben, "--may-spend", "--contributes")
    assert (seat["seats"][1]["maySpend"], seat["seats"][1]["contributes"]) == (True, True)
    assert lines(await cli(shop, *spend))[:2] == ["redeemed 10 points", "balance 20"]
    held = await told(shop, "holds", "place", ann, 5, "--household")
    assert (held["hold"]["memberId"], held["hold"]["spenderId"]) == (household_id, ann_id)
    await told(shop, "holds", "void", held["hold"]["holdId"])
    shown = lines(await cli(shop, "households", "show", ben))
    assert f"household {household_id}" in shown
    assert "points 20" in shown
    [of_ben] = [line for line in shown if line.startswith(ben_id)]
    assert re.fullmatch(rf"{ben_id} member yes yes 20 points \d{{4}}-\d\d-\d\d .*", of_ben)
    left = lines(await cli(shop, "households", "leave", household_id, ben, "--reason", "moved out"))
    assert left[:2] == ["came back 20 points", "balance 40"]
    former = await told(shop, "households", "show", household_id, "--former")
    assert [bool(seat.get("leaveTime")) for seat in former["seats"]] == [False, True]
    over = await told(shop, "households", "dissolve", ann)
    assert over["dissolveTime"]
    gone = await cli(shop, "households", "show", ann)
    assert (gone.returncode, "(HOUSEHOLD_NOT_FOUND)" in gone.stderr) == (1, True)
