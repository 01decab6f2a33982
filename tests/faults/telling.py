"""What must be true of all that was told, within and without, once it is quiet."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import redis
from loyalty.v1 import webhooks_pb2, webhooks_pb2_grpc

from server.domain.actor import CallerKind
from server.domain.notifications.quiet_hours import NONE
from server.domain.notifications.terms import NotificationTerms
from server.store import programs, subscriptions, templates
from server.store.database import Database
from server.store.summaries import PREFIX
from tests.faults.peers import Peers
from tests.faults.shop import Shop
from tests.support.processes import run
from tests.support.programs import new_key
from tests.support.servers import WithKey

# Of points.earned alone: what a message is told of, and what partners are.
FIGURES = """SELECT f.program_id, day, store, rule, measure, unit, amount
               FROM daily_figure AS f JOIN projection USING (generation) ORDER BY 1, 2, 3, 4, 5, 6"""
TIMELINES = """SELECT e.program_id, member_id, occurred_at, epoch, xid::text, position, kind
                 FROM timeline_entry AS e JOIN projection USING (generation) ORDER BY 1, 2, 3, 4, 5, 6, 7"""
# What the members of a shop are told of as it happens.
WATCHED = """SELECT member_id, coalesce(payload ->> 'reference', payload ->> 'order_reference',
                                        payload -> 'activity' ->> 'reference') AS order_reference
               FROM event_log WHERE event_type IN ('points.earned', 'points.redeemed')
              ORDER BY epoch, xid, position"""


async def tell(shop: Shop, peers: Peers) -> None:
    """Have a partner told of what becomes of points, and members at any hour, each time anew."""
    database = await Database.open(shop.postgres.url(), connections=2)
    try:
        async with database.transaction() as connection:
            [program] = await programs.every(connection)
            terms = NotificationTerms(quiet_hours=NONE, join_seconds=0)
            await templates.set_terms(connection, program.program_id, terms)
        key = await new_key(database, program, CallerKind.STAFF, scopes=["webhooks.*"])
    finally:
        await database.close()
    request = webhooks_pb2.RegisterWebhookRequest(
        request_id=uuid4().hex, url=peers.partner.url(), event_types=["points.*"]
    )
    async with grpc.aio.insecure_channel(shop.addresses[0], interceptors=[WithKey(key)]) as channel:
        await webhooks_pb2_grpc.WebhookServiceStub(channel).RegisterWebhook(request)


def behind(shop: Shop) -> dict[str, int]:
    """How many events each consumer of the log has before it."""

    async def ask() -> dict[str, int]:
        connection = await asyncpg.connect(shop.postgres.url())
        try:
            return {s.consumer: s.behind for s in await subscriptions.standings(connection)}
        finally:
            await connection.close()

    return asyncio.run(ask())


def caught_up(shop: Shop, consumers: Collection[str] = ()) -> bool:
    """Whether these, or all, are at the end of the log."""
    found = behind(shop)
    return all(found.get(name) == 0 for name in consumers or found)


def all_sent(shop: Shop) -> bool:
    """Whether nothing waits to be sent."""
    return not _rows(shop, "SELECT FROM delivery WHERE status = 'pending' LIMIT 1")


def everything_arrived(shop: Shop, peers: Peers) -> str:
    """Each event was told to whom it concerns; what arrived twice had been taken twice. Says how much."""
    rows = _rows(shop, "SELECT delivery_id, channel, status, token FROM delivery")
    assert {row["status"] for row in rows} == {"sent"}
    taken = {str(row["delivery_id"]): row["token"] for row in rows}
    arrived = peers.arrived()
    times = Counter(message_id for _, message_id, _ in arrived)
    assert times.keys() == taken.keys()
    # Nobody sends what somebody else has taken: repeated is only what its worker may have died over.
    assert [i for i, count in times.items() if count > taken[i]] == []
    assert len({(message_id, str(said)) for _, message_id, said in arrived}) == len(times), "says the same"

    told = Counter(row["channel"] for row in rows)
    moved = _rows(shop, "SELECT event_id FROM event_log WHERE event_type LIKE 'points.%'")
    heard = {str(json.loads(call.body)["data"]["event_id"]) for call in peers.partner.received}
    assert heard == {str(row["event_id"]) for row in moved}
    assert told["webhook"] == len(moved)
    [[earned]] = _rows(shop, "SELECT count(*) FROM event_log WHERE event_type = 'points.earned'")
    messages = Counter(row["occasion"] for row in _rows(shop, "SELECT occasion FROM message"))
    assert messages["points_earned"] == earned
    assert told["email"] == told["push"] == messages.total()
    return f"{dict(told)} told, {times.total() - len(times)} repeats"


def read_models_equal_a_rebuild(shop: Shop) -> None:
    """Counted and written again from the log, they are what they were."""
    before = _figures(shop), _timelines(shop), _summaries(shop)
    assert all(before)
    for name in ("daily_figures", "history", "member_summary"):
        done = run("projections", "rebuild", name, seconds=120, **shop.settings)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (_figures(shop), _timelines(shop), _summaries(shop)) == before


def orders_in_the_log(shop: Shop) -> Mapping[str, list[str]]:
    """Of each member, in order: what they are told of as it happens."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for member_id, order in _rows(shop, WATCHED):
        found[str(member_id)].append(order)
    return found


def _figures(shop: Shop) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in _rows(shop, FIGURES)]


def _timelines(shop: Shop) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in _rows(shop, TIMELINES)]


def _summaries(shop: Shop) -> dict[str, bytes]:
    [[generation]] = _rows(shop, "SELECT generation FROM projection WHERE name = 'member_summary'")
    prefix = f"{PREFIX}{UUID(str(generation)).hex}:"
    with closing(redis.Redis.from_url(shop.redis.url)) as client:
        return {key.decode().removeprefix(prefix): client.get(key) for key in client.scan_iter(f"{prefix}*")}


def _rows(shop: Shop, query: str) -> list[asyncpg.Record]:
    return asyncio.run(shop.rows(query))
