"""Live streams against a real database and Redis: nothing is missed, nothing told twice, nobody waits."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from laurel.stack.redis import EmbeddedRedis
from server.domain.errors import NotFound
from server.domain.live import Place, PointsMoved, TierReached
from server.operations.hints import Hints
from server.operations.live import Live, Told
from server.operations.programs import Programs
from server.store.database import Database
from server.store.hints import MEMBERS_CHANNEL
from tests.server.operations.test_committer import Shop, opened
from tests.support.waiting import eventually

NEVER = 3600.0
PATIENCE_SECONDS = 60.0


class House:
    """A shop whose commits give hints, and live streams of other processes: with a Redis client each."""

    def __init__(self, shop: Shop, redis: Redis, new_live: Callable[..., Live]) -> None:
        self.shop = shop
        self.redis = redis
        self.new_live = new_live

    async def buy(self, member_id: UUID, rupees: int = 100) -> None:
        """A purchase that earns so many points."""
        await self.shop.submit(self.shop.purchase(member_id, rupees))

    async def listening(self) -> None:
        """Wait until a process listens for hints."""

        async def somebody() -> bool:
            try:
                ((_, count),) = await self.redis.pubsub_numsub(MEMBERS_CHANNEL)
            except (RedisError, OSError):
                return False
            return int(count) > 0

        await eventually(somebody, PATIENCE_SECONDS)


@asynccontextmanager
async def house(database: Database, redis_url: str, secrets_file: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        clients = [Redis.from_url(redis_url, socket_timeout=0.5, socket_connect_timeout=0.5) for _ in "ab"]
        for client in clients:
            stack.push_async_callback(client.aclose)
        hints = Hints(clients[0])
        stack.push_async_callback(hints.close)
        shop = await stack.enter_async_context(opened(database, redis_url, secrets_file, hints=hints))

        def new_live(**terms: Any) -> Live:
            live = Live(database, Programs(), clients[1], lambda: datetime.now(UTC), **terms)
            stack.push_async_callback(live.close)
            return live

        yield House(shop, clients[1], new_live)


@pytest.fixture
async def home(database: Database, redis_url: str, secrets_file: Path) -> AsyncIterator[House]:
    async with house(database, redis_url, secrets_file) as home:
        yield home


@asynccontextmanager
async def watched(
    live: Live, shop: Shop, member_id: UUID, since: Place | None = None
) -> AsyncIterator[Callable[[], Any]]:
    """A stream; call what it gives for the next thing told."""
    async with aclosing(live.watch(shop.program.program_id, member_id, since)) as stream:

        async def heard() -> Told:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await anext(stream)

        yield heard


async def test_a_hint_of_another_process_brings_the_news(home: House) -> None:
    member_id = await home.shop.member(balance=300)
    live = home.new_live(look_seconds=NEVER)
    async with watched(live, home.shop, member_id) as heard:
        begun = await heard()
        assert begun.standing.tier == "bronze"
        assert [wallet.balance for wallet in begun.standing.wallets] == [300]
        await home.listening()
        # The first look is over when that has been found; from here on only hints tell.
        await home.buy(member_id, 9)
        assert (await heard()).update.points == {"points": 9}
        for rupees in (500, 250):
            await home.buy(member_id, rupees)
            news = await heard()
            assert news.update.points == {"points": rupees}
        assert [wallet.balance for wallet in news.standing.wallets] == [1059]
        tier = await heard()
        assert tier.update == TierReached("bronze", "silver", promoted=True, message="You've unlocked Silver")


async def test_what_no_hint_told_of_is_found_by_looking(
    database: Database, redis_url: str, secrets_file: Path
) -> None:
    async with house(database, redis_url, secrets_file) as home:
        live = home.new_live(look_seconds=0.1)
        async with opened(database, redis_url, secrets_file) as silent:
            members = [await silent.member() for _ in range(3)]
            async with AsyncExitStack() as streams:
                ears = [
                    await streams.enter_async_context(watched(live, silent, member)) for member in members
                ]
                for hear in ears:
                    assert (await hear()).standing is not None
                for _ in range(2):
                    for member_id, hear in zip(members, ears, strict=True):
                        await silent.submit(silent.purchase(member_id, 7))
                        assert (await hear()).update.points == {"points": 7}


async def test_an_open_transaction_of_somebody_else_delays_nothing(home: House, database_url: str) -> None:
    member_id = await home.shop.member()
    early = await asyncpg.connect(database_url)
    try:
        async with early.transaction():
            await early.execute("SELECT pg_current_xact_id()")
            async with watched(home.new_live(), home.shop, member_id) as heard:
                assert (await heard()).standing is not None
                await home.buy(member_id, 5)
                assert (await heard()).update.points == {"points": 5}
    finally:
        await early.close()


async def test_whoever_comes_back_is_told_everything_since_and_nothing_twice(home: House) -> None:
    member_id = await home.shop.member()
    async with watched(home.new_live(), home.shop, member_id) as heard:
        place = (await heard()).place
    # More than one page of them, some of one commit.
    bought = list(range(1, 121))
    await home.shop.together(home.shop.purchase(member_id, rupees) for rupees in bought)
    told: list[int] = []
    while len(told) < len(bought):
        # Another process each time.
        async with watched(home.new_live(), home.shop, member_id, place) as heard:
            for _ in range(17):
                news = await heard()
                place = news.place
                if isinstance(news.update, PointsMoved):
                    told.append(news.update.points["points"])
                if len(told) == len(bought):
                    break
    assert sorted(told) == bought
    await home.buy(member_id, 1000)
    async with watched(home.new_live(), home.shop, member_id, place) as heard:
        rest = [await heard()]
        while not isinstance(rest[-1].update, PointsMoved):
            rest.append(await heard())
        assert rest[-1].update.points == {"points": 1000}


async def test_a_stream_on_which_nothing_happens_gives_signs_of_life(home: House) -> None:
    member_id = await home.shop.member()
    async with watched(home.new_live(heartbeat_seconds=0.05), home.shop, member_id) as heard:
        begun = await heard()
        for _ in range(2):
            sign = await heard()
            assert (sign.place, sign.standing, sign.update) == (begun.place, None, None)


async def test_a_place_of_another_epoch_brings_the_standing_first(home: House) -> None:
    member_id = await home.shop.member(balance=30)
    foreign = Place(999, 1, 1, uuid4())
    async with watched(home.new_live(), home.shop, member_id, foreign) as heard:
        begun = await heard()
        assert begun.update is None
        assert [wallet.balance for wallet in begun.standing.wallets] == [30]
        await home.buy(member_id, 5)
        assert (await heard()).update.points == {"points": 5}


async def test_after_a_restore_the_first_news_is_told_as_such(
    postgres: Callable[[str], str], template: str, redis_url: str, secrets_file: Path
) -> None:
    name = f"laurel_restored_{uuid4().hex}"
    anywhere = await Database.open(postgres("postgres"), connections=1)
    async with anywhere.connection() as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    await anywhere.close()
    database = await Database.open(postgres(name), connections=4)
    async with house(database, redis_url, secrets_file) as home:
        member_id = await home.shop.member(balance=300)
        async with database.connection() as connection:
            await connection.execute("UPDATE log_epoch SET system_identifier = 1")
        # Whoever connects anew finds another cluster than the log's.
        await (await Database.open(postgres(name), connections=1)).close()
        async with watched(home.new_live(), home.shop, member_id) as heard:
            assert (await heard()).standing is not None
            for rupees in (5, 6):
                await home.buy(member_id, rupees)
                assert (await heard()).update.points == {"points": rupees}
    await database.close()


async def test_of_who_is_not_there_nothing_is_told(home: House) -> None:
    with pytest.raises(NotFound):
        async with watched(home.new_live(), home.shop, uuid4()) as heard:
            await heard()


async def test_without_redis_news_comes_by_looking_and_by_hints_again_afterwards(
    database: Database, secrets_file: Path
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="laurel-test-"))
    redis, door = EmbeddedRedis(folder / "redis"), folder / "door"

    def start() -> None:
        """Its socket has a new place each time, and one door."""
        redis.start()
        door.unlink(missing_ok=True)
        door.symlink_to(urlsplit(redis.url).path)

    start()
    try:
        async with house(database, f"unix://{door}", secrets_file) as home:
            member_id = await home.shop.member()
            async with watched(home.new_live(look_seconds=NEVER), home.shop, member_id) as heard:
                assert (await heard()).standing is not None
                await home.listening()
                await home.redis.flushall()
                await home.buy(member_id, 1)
                assert (await heard()).update.points == {"points": 1}
                await asyncio.to_thread(redis.stop)
                for rupees in (2, 3):
                    await home.buy(member_id, rupees)
                    assert (await heard()).update.points == {"points": rupees}
                start()
                await home.listening()
                # Found by the look that follows listening anew; what comes after it only hints can tell.
                for rupees in (4, 5, 6):
                    await home.buy(member_id, rupees)
                    assert (await heard()).update.points == {"points": rupees}
    finally:
        redis.stop()
        shutil.rmtree(folder, ignore_errors=True)
