"""`laurel report` and `laurel projections`, as operators type them."""

import asyncio
import csv
import json
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from uuid import uuid4

import pytest
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2

from server.store.database import Database
from tests.support import processes
from tests.support.movements import once
from tests.support.published import publish
from tests.support.relays import caught_up, relaying
from tests.support.servers import Laurel
from workers.subscriptions import SUBSCRIPTIONS

RANGE = ("--from", "2026-01-01", "--to", "2099-12-31")


@pytest.fixture(scope="module")
async def shop(laurel: Laurel, database: Database) -> Laurel:
    """A member who has bought something in a store whose name a spreadsheet could run."""
    await publish(laurel, {"rule": "base", "then": [{"earn": {"points": 1, "per": "1.00"}}]})
    request = points_pb2.AccrueRequest(
        **once(),
        member_id=await laurel.register(),
        order_reference=uuid4().hex,
        store="=1+1",
        amount=Money(currency_code="INR", units=99, nanos=500_000_000),
    )
    await laurel.service.points.Accrue(request)
    followers = {"daily_figures": SUBSCRIPTIONS["daily_figures"]}
    async with relaying(database, followers):
        await caught_up(database, followers)
    return laurel


async def cli(shop: Laurel, *arguments: str) -> CompletedProcess[str]:
    settings = {
        "LAUREL_ADDRESS": shop.address,
        "LAUREL_API_KEY": shop.staff.key,
        "LAUREL_DATABASE_URL": shop.settings.database_url.get_secret_value(),
        "LAUREL_REDIS_URL": shop.settings.redis_url.get_secret_value(),
    }
    done = await asyncio.to_thread(partial(processes.run, *arguments, cwd=Path("/"), **settings))
    assert done.returncode == 0, done.stderr
    return done


async def told(shop: Laurel, *arguments: str) -> Any:
    return json.loads((await cli(shop, *arguments, "--json")).stdout)


async def test_figures_as_table_json_and_csv(shop: Laurel) -> None:
    done = await cli(shop, "report", "days", *RANGE)
    assert done.stderr.startswith("as of 2")
    heading, *rows = [line.split() for line in done.stdout.splitlines()]
    assert heading[:4] == ["DAY", "STORE", "JOINED", "PURCHASES"]
    assert [row[1:] for row in rows if "=1+1" in row] == [
        ["=1+1", "0", "1", "99.50", "INR", "points", "99", "0", "0", "0", "0", "0"]
    ]
    figures = (await told(shop, "report", "days", *RANGE, "--store", "=1+1", "--rule", "base"))["figures"]
    assert [f["rules"] for f in figures] == [
        [{"rule": "base", "activities": "1", "points": [{"pointType": "points", "earned": "99"}]}]
    ]
    sheet = csv.reader((await cli(shop, "report", "days", *RANGE, "--csv")).stdout.splitlines())
    assert next(sheet) == ["date", "store", "rule", "measure", "unit", "amount"]
    assert [row[1:] for row in sheet if row[1]] == [
        ["'=1+1", "", "purchases", "", "1"],
        ["'=1+1", "", "amount", "INR", "99.5"],
        ["'=1+1", "", "earned", "points", "99"],
        ["'=1+1", "base", "activities", "", "1"],
        ["'=1+1", "base", "earned", "points", "99"],
    ]


async def test_a_projection_is_rebuilt_and_says_so(shop: Laurel) -> None:
    async def standing() -> dict[str, Any]:
        found: dict[str, Any] = {one["name"]: one for one in await told(shop, "projections", "status")}
        one: dict[str, Any] = found["daily_figures"]
        return one

    before = await told(shop, "report", "days", *RANGE)
    first = await standing()
    assert (first["behind"], first["rebuiltTime"], first["rebuilding"]) == (0, None, None)
    done = await cli(shop, "projections", "rebuild", "daily_figures")
    assert done.stdout.startswith("daily_figures: rebuilt, ")
    assert (await standing())["rebuiltTime"] is not None
    after = await told(shop, "report", "days", *RANGE)
    assert after["figures"] == before["figures"]
    assert "REBUILT" in (await cli(shop, "projections", "status")).stdout
