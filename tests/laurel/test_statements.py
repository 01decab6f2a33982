"""`laurel points statement`: the last day, and the last moment, are part of it, as they are of reports."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import click
import pytest
from google.type.money_pb2 import Money
from loyalty.v1 import points_pb2

from laurel.commands.identifiers import end_after
from tests.laurel.test_cli import cli
from tests.support.published import publish
from tests.support.servers import Laurel
from tests.support.shop import BASE

NOWHERE: Any = None


@pytest.mark.parametrize(
    ("said", "end"),
    [
        ("2026-11-30", datetime(2026, 12, 1, tzinfo=UTC)),
        ("2026-11-30T00:00", datetime(2026, 11, 30, 0, 0, 0, 1, tzinfo=UTC)),
        ("2026-11-30T12:00+05:30", datetime(2026, 11, 30, 6, 30, 0, 1, tzinfo=UTC)),
    ],
)
def test_a_span_ends_after_the_day_or_the_moment_that_is_named(said: str, end: datetime) -> None:
    assert end_after(NOWHERE, NOWHERE, said) == end


def test_after_the_last_day_there_is_no_other() -> None:
    with pytest.raises(click.BadParameter, match="is too late"):
        end_after(NOWHERE, NOWHERE, "9999-12-31")


async def test_a_statement_shows_the_last_day_and_the_last_moment(laurel: Laurel) -> None:
    await publish(laurel, BASE)
    member_id = await laurel.register()
    request = points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=uuid4().hex,
        amount=Money(currency_code="INR", units=500),
    )
    request.occur_time.FromJsonString("2026-11-20T23:59:59.999999Z")
    await laurel.terminal.points.Accrue(request)

    async def shown(since: str, until: str) -> int:
        words = ("points", "statement", member_id, "--from", since, "--to", until, "--json")
        done = await cli(laurel, *words, key=laurel.staff.key)
        assert done.returncode == 0, done.stderr
        return len(json.loads(done.stdout).get("transactions", []))

    assert await shown("2026-11-20", "2026-11-20") == 1
    assert await shown("2026-11-01", "2026-11-19") == 0
    assert await shown("2026-11-20", "2026-11-20T23:59:59.999999") == 1
    assert await shown("2026-11-20", "2026-11-20T23:59:59.999998") == 0


async def test_what_was_spent_is_less_in_a_statement_and_under_its_receipt(laurel: Laurel) -> None:
    member_id, receipt = await laurel.register(), uuid4().hex
    buying = points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=receipt,
        amount=Money(currency_code="INR", units=500),
    )
    earned = (await laurel.terminal.points.Accrue(buying)).points
    spending = points_pb2.RedeemRequest(
        request_id=uuid4().hex, member_id=member_id, points=40, order_reference=receipt
    )
    await laurel.terminal.points.Redeem(spending)
    today = datetime.now(UTC).date().isoformat()
    statement = ("points", "statement", member_id, "--from", "2026-01-01", "--to", today)
    for words in (statement, ("points", "find", receipt)):
        shown = await cli(laurel, *words, key=laurel.staff.key)
        assert shown.returncode == 0, shown.stderr
        rows = {
            line.split("points")[0].split()[-1]: line
            for line in shown.stdout.splitlines()
            if " points " in line
        }
        assert f" +{earned} " in rows["earn"]
        assert " -40 " in rows["redeem"]
        assert rows["earn"].index(f"+{earned}") + len(f"+{earned}") == rows["redeem"].index("-40") + len(
            "-40"
        )
