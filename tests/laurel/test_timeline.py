"""`laurel members timeline`, and `laurel projections` about what it reads."""

import json
from uuid import uuid4

from loyalty.v1 import points_pb2

from server.domain.actor import CallerKind
from tests.laurel.test_cli import cli
from tests.support.published import publish
from tests.support.relays import caught_up, relaying
from tests.support.servers import Laurel
from tests.support.shop import BASE
from tests.support.watching import buy
from workers.subscriptions import SUBSCRIPTIONS

CONSUMERS = {"history": SUBSCRIPTIONS["history"]}


async def test_a_clerk_sees_what_happened_to_a_member(laurel: Laurel) -> None:
    await publish(laurel, BASE)
    email = f"{uuid4().hex}@example.com"
    member_id = await laurel.register(email=email)
    await buy(laurel.terminal, member_id, 50_000)
    await laurel.terminal.points.Redeem(
        points_pb2.RedeemRequest(request_id=uuid4().hex, member_id=member_id, points=40)
    )
    async with relaying(laurel.database, CONSUMERS):
        await caught_up(laurel.database, CONSUMERS)
    key = await laurel.new_key(CallerKind.STAFF)
    shown = await cli(laurel, "members", "timeline", email, key=key)
    assert shown.returncode == 0, shown.stderr
    head, *lines = shown.stdout.splitlines()
    assert head.split() == ["OCCURRED", "KIND", "WHAT", "LEFT", "ORDER", "STORE", "EVENT"]
    assert [line.split()[2] for line in lines] == ["redeemed", "tier", "earned", "enrolled"]
    assert "You've spent 40 points" in lines[0]
    assert "9,960 points" in lines[0]
    assert "You've unlocked" in lines[1]

    words = ("--kind", "earned", "--from", "2026-11-01", "--limit", "1", "--json")
    only = await cli(laurel, "members", "timeline", email, *words, key=key)
    [entry] = json.loads(only.stdout)
    assert (entry["kind"], entry["points"]["moved"][0]["wallet"]["balance"]) == ("earned", "10000")
    refused = await cli(laurel, "members", "timeline", email, "--kind", "lost", key=key)
    assert refused.returncode == 1
    assert "kinds[0]" in refused.stderr
    redis = {"LAUREL_REDIS_URL": laurel.settings.redis_url.get_secret_value()}
    again = await cli(laurel, "projections", "rebuild", "history", **redis)
    assert again.stdout.startswith("history: rebuilt, ")
    assert (await cli(laurel, "members", "timeline", email, key=key)).stdout == shown.stdout


async def test_who_may_not_read_points_reads_no_timeline(laurel: Laurel) -> None:
    member_id = await laurel.register()
    for scopes, returncode in (
        (["members.read"], 1),
        (["points.read"], 1),
        (["members.read", "points.read"], 0),
    ):
        key = await laurel.new_key(CallerKind.STAFF, scopes=scopes)
        asked = await cli(laurel, "members", "timeline", member_id, key=key)
        assert asked.returncode == returncode, asked.stderr
        assert ("SCOPE_MISSING" in asked.stderr) == bool(returncode)
