"""Summaries in Redis follow what happens, are never older than a reader's token, and mend themselves."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from google.type.money_pb2 import Money
from loyalty.v1 import member_pb2, points_pb2
from redis.asyncio import Redis

from laurel.stack.redis import EmbeddedRedis
from server.domain.errors import FailedPrecondition
from server.domain.program import Program
from server.domain.summary import Summary
from server.operations.summaries import Summaries
from server.settings import Settings
from server.store import projections
from server.store.database import Database
from server.store.log import BEGINNING
from server.store.summaries import PREFIX, PROJECTION, SummaryStore, summary_in, version_in
from tests.support.clocks import Clockwork, opened
from tests.support.movements import once
from tests.support.programs import settings_for, worker_settings_for
from tests.support.published import publish
from tests.support.relays import caught_up, relaying
from tests.support.servers import Laurel, started
from tests.support.waiting import eventually
from workers.main import running
from workers.projections import member_summary
from workers.projections.member_summary import Build, MemberSummaries
from workers.projections.rebuild import rebuild
from workers.subscriptions import in_redis


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="module")
def own_redis(folder: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that may lose everything."""
    embedded = EmbeddedRedis(folder / "redis-summaries")
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture(scope="module")
def settings(database_url: str, own_redis: EmbeddedRedis, secrets_file: Path) -> Settings:
    """Settings of a server with that Redis."""
    return settings_for(database_url, own_redis.url, secrets_file)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at all the time, and built again without a rest: what is waited for comes soon."""
    monkeypatch.setattr(member_summary, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(member_summary, "REST_SECONDS", 0.1)


@pytest.fixture
async def redis(own_redis: EmbeddedRedis) -> AsyncIterator[Redis]:
    client = Redis.from_url(own_redis.url)
    yield client
    await client.aclose()


@pytest.fixture(scope="module")
async def shop(settings: Settings, database: Database) -> AsyncIterator[Laurel]:
    """A point a rupee."""
    async with started(settings, database) as laurel:
        await publish(laurel, {"rule": "base", "then": [{"earn": {"points": 1, "per": "1.00"}}]})
        yield laurel


@asynccontextmanager
async def following(database: Database, summaries: MemberSummaries) -> AsyncIterator[None]:
    """Summaries that follow what happens and mend themselves, for as long as the block lasts."""
    keeping = asyncio.create_task(summaries.keep(database))
    try:
        async with relaying(database, in_redis(summaries)):
            await eventually(lambda: whole(database, summaries), 60)
            yield
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


async def whole(database: Database, summaries: MemberSummaries) -> bool:
    """Whether what is read has been built, and nobody builds."""
    async with database.connection() as connection:
        standing = await projections.standing(connection, PROJECTION)
    mark = await summaries.store.place(standing.generations.current)
    return bool(mark) and standing.generations.building is None


async def settled(database: Database, summaries: MemberSummaries) -> None:
    """Wait until all that has happened is in what is read."""
    await caught_up(database, [PROJECTION])
    await eventually(lambda: whole(database, summaries), 60)


async def written(database: Database, redis: Redis, program: Program) -> dict[bytes, bytes]:
    """What is written of a program's members in the generation that is read, by key."""
    async with database.connection() as connection:
        generation = (await projections.standing(connection, PROJECTION)).generations.current
    start = f"{PREFIX}{generation.hex}:{program.program_id.hex}:"
    keys = [key async for key in redis.scan_iter(f"{start}*", count=1000)]
    return {key[-32:]: text for key, text in zip(keys, await redis.mget(keys), strict=True) if text}


async def right(
    database: Database, summaries: MemberSummaries, program: Program
) -> dict[bytes, tuple[int, Summary | None]]:
    """What should be written."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT program_id, member_id FROM member WHERE program_id = $1", program.program_id
        )
        entries = await summaries.entries(connection, [(r[0], r[1]) for r in rows])
    return {
        key[1].hex.encode(): (entry, None) if isinstance(entry, int) else (entry.version, entry)
        for key, entry in entries.items()
    }


async def agree(database: Database, redis: Redis, summaries: MemberSummaries, program: Program) -> None:
    """What is written is what PostgreSQL says, for every member there is."""
    texts = await written(database, redis, program)
    found = {key: (version_in(text), summary_in(text)) for key, text in texts.items()}
    expected = await right(database, summaries, program)
    assert found.keys() == expected.keys()
    for key, (version, summary) in found.items():
        assert version == expected[key][0]
        assert shown(summary) == shown(expected[key][1])


def shown(summary: Summary | None) -> object:
    """As much of a summary as readers see."""
    if summary is None:
        return None
    wallets = {t: (wallet[:6], coming) for t, (wallet, coming) in summary.wallets.items()}
    return summary._replace(wallets=wallets)


async def trade(clockwork: Clockwork, member_id: UUID, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await clockwork.submit(clockwork.purchase(member_id, 3))
        # What was earned a moment ago may have expired in it.
        with suppress(FailedPrecondition):
            await clockwork.submit(clockwork.redemption(member_id, 2))
            await clockwork.submit(clockwork.reservation(member_id, 1, seconds=60))


async def buy(shop: Laurel, member_id: str, rupees: int) -> str:
    """The token of a purchase."""
    request = points_pb2.AccrueRequest(
        **once(),
        member_id=member_id,
        order_reference=uuid4().hex,
        amount=Money(currency_code="INR", units=rupees),
    )
    return (await shop.terminal.points.Accrue(request)).consistency_token


async def balance(shop: Laurel, member_id: str, token: str = "") -> points_pb2.GetBalanceResponse:
    request = points_pb2.GetBalanceRequest(member_id=member_id, consistency_token=token)
    return await shop.terminal.points.GetBalance(request)


async def mark_all(database: Database, redis: Redis, program: Program) -> None:
    """Write into every summary where it is read from; the versions stay."""
    async with database.connection() as connection:
        generation = (await projections.standing(connection, PROJECTION)).generations.current
    for member, text in (await written(database, redis, program)).items():
        key = f"{PREFIX}{generation.hex}:{program.program_id.hex}:{member.decode()}"
        await redis.set(key, text.replace(b'"bronze"', b'"redis"'))


async def test_a_token_is_answered_from_redis_and_never_with_less(
    shop: Laurel, database: Database, redis: Redis
) -> None:
    summaries = MemberSummaries(redis, now)
    member_id = await shop.register()
    token = await buy(shop, member_id, 50)
    async with following(database, summaries):
        await settled(database, summaries)
    latest = await balance(shop, member_id)
    await mark_all(database, redis, shop.program)

    async def read_there() -> bool:
        return (await balance(shop, member_id, token)).tier == "redis"

    # A server that found nothing in Redis looks there again after a second.
    await eventually(read_there, 60)
    answer = await balance(shop, member_id, token)
    assert answer.consistency_token == latest.consistency_token == token
    answer.tier = "bronze"
    assert answer == latest
    # Without a token the latest is shown, and who has seen more gets no less.
    assert (await balance(shop, member_id)).tier == "bronze"
    newer = await buy(shop, member_id, 7)
    after = await balance(shop, member_id, newer)
    assert (after.tier, after.wallets[0].balance) == ("bronze", 57)
    assert (await balance(shop, member_id, token)).wallets[0].balance == 50
    async with following(database, summaries):
        await settled(database, summaries)
    assert (await balance(shop, member_id, token)).wallets[0].balance == 57


async def test_a_merged_member_is_read_as_the_one_that_lives_on(
    shop: Laurel, database: Database, redis: Redis
) -> None:
    summaries = MemberSummaries(redis, now)
    kept, gone = await shop.register(), await shop.register()
    token = await buy(shop, gone, 20)
    async with following(database, summaries):
        request = member_pb2.MergeMembersRequest(**once(), member_id=kept, merged_member_id=gone)
        await shop.service.members.MergeMembers(request)
        await settled(database, summaries)
        answer = await balance(shop, gone, token)
    assert (answer.member_id, answer.wallets[0].balance) == (kept, 20)


async def test_what_has_fallen_due_is_not_read_from_redis(
    database: Database, own_redis: EmbeddedRedis, redis: Redis, secrets_file: Path
) -> None:
    async with opened(database, own_redis.url, secrets_file, days_ago=0) as clockwork:
        summaries = MemberSummaries(redis, clockwork.clock)
        [member_id] = await clockwork.customers(1)
        async with following(database, summaries):
            await settled(database, summaries)
        reader = Summaries(database, SummaryStore(redis), clockwork.clock)
        found = await reader.get(clockwork.program.program_id, member_id, 1)
        assert found is not None
        assert found.wallet("later")[0].pending == 100
        clockwork.now += timedelta(days=6)
        assert await reader.get(clockwork.program.program_id, member_id, 1) is None


async def test_a_server_reads_on_while_redis_is_away(
    shop: Laurel, database: Database, own_redis: EmbeddedRedis, redis: Redis
) -> None:
    summaries = MemberSummaries(redis, now)
    member_id = await shop.register()
    async with following(database, summaries):
        token = await buy(shop, member_id, 5)
        await settled(database, summaries)
        own_redis.stop()
        try:
            assert (await balance(shop, member_id, token)).wallets[0].balance == 5
            newer = await buy(shop, member_id, 6)
            assert (await balance(shop, member_id, newer)).wallets[0].balance == 11
        finally:
            own_redis.start()
        # Whatever the stop left in Redis, in the end it is right again.
        await eventually(lambda: is_right(database, redis, summaries, shop.program), 60)


async def is_right(database: Database, redis: Redis, summaries: MemberSummaries, program: Program) -> bool:
    try:
        await agree(database, redis, summaries, program)
    except (AssertionError, OSError):
        return False
    return True


async def test_built_again_while_the_shop_is_open_it_is_the_same(
    database: Database, own_redis: EmbeddedRedis, redis: Redis, secrets_file: Path
) -> None:
    async with opened(database, own_redis.url, secrets_file, days_ago=40) as clockwork:
        summaries = MemberSummaries(redis, clockwork.clock)
        members = await clockwork.customers(30)
        stop = asyncio.Event()
        async with following(database, summaries):
            trading = [asyncio.create_task(trade(clockwork, m, stop)) for m in members[:8]]
            for _ in range(2):
                clockwork.now += timedelta(days=12)
                await clockwork.catch_up()
                async for _ in rebuild(database, Build(summaries)):
                    pass
            stop.set()
            await asyncio.gather(*trading)
            await settled(database, summaries)
            live = await written(database, redis, clockwork.program)
            assert len(live) == 30
            await agree(database, redis, summaries, clockwork.program)
            async with database.connection() as connection:
                before = (await projections.standing(connection, PROJECTION)).generations.current
            assert await summaries.store.place(before)
            async for _ in rebuild(database, Build(summaries)):
                pass
            assert await written(database, redis, clockwork.program) == live
            # Of what was built before nothing is left.
            assert await summaries.store.place(before) == ""


async def test_after_redis_lost_everything_or_went_back_it_is_built_again(
    database: Database, own_redis: EmbeddedRedis, redis: Redis, secrets_file: Path
) -> None:
    async with opened(database, own_redis.url, secrets_file, days_ago=0) as clockwork:
        summaries = MemberSummaries(redis, clockwork.clock)
        members = await clockwork.customers(10)
        async with following(database, summaries):
            await settled(database, summaries)
            await redis.flushall()
            await clockwork.submit(clockwork.purchase(members[0], 3))
            await eventually(lambda: is_right(database, redis, summaries, clockwork.program), 60)

            # As when Redis starts from what it had written to its disk a while ago.
            keys = [key async for key in redis.scan_iter(f"{PREFIX}*", count=1000)]
            before = dict(zip(keys, await redis.mget(keys), strict=True))
            await clockwork.together(clockwork.purchase(m, 5) for m in members)
            await settled(database, summaries)
            await redis.flushall()
            await redis.mset(before)
            await eventually(lambda: is_right(database, redis, summaries, clockwork.program), 60)


async def test_a_worker_makes_them_and_mends_them(
    shop: Laurel, settings: Settings, database: Database, redis: Redis
) -> None:
    summaries = MemberSummaries(redis, now)
    async with running(worker_settings_for(settings)):
        token = await buy(shop, member_id := await shop.register(), 12)
        await eventually(lambda: is_right(database, redis, summaries, shop.program), 60)
        await redis.flushall()
        await eventually(lambda: is_right(database, redis, summaries, shop.program), 60)
    assert (await balance(shop, member_id, token)).wallets[0].balance == 12


async def test_nothing_is_replaced_by_what_is_older(redis: Redis) -> None:
    store, generation, member = SummaryStore(redis), uuid4(), (uuid4(), uuid4())
    one, two = BEGINNING._replace(xid=9), BEGINNING._replace(xid=10)
    assert not await store.put(generation, BEGINNING, one, {member: 3})
    await store.begin(generation, BEGINNING)
    assert await store.put(generation, BEGINNING, one, {member: 3})
    assert await store.put(generation, BEGINNING, one, {member: 2})
    assert not await store.put(generation, two, two, {member: 4}), "what happened in between is missing"
    assert await store.put(generation, one, two, {member: 3})
    assert await store.add(generation, {member: 1})
    found = await store.read(generation, [member, (uuid4(), uuid4())])
    assert found is not None
    assert {key: version_in(text) for key, text in found.items()} == {member: 3}
    await store.drop(generation)
    assert await store.read(generation, [member]) is None
    assert not await store.add(generation, {member: 9})
