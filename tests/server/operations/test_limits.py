"""Limits with a real Redis, between processes, and while Redis is away."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from redis.asyncio import Redis

from laurel.stack.redis import EmbeddedRedis
from server.domain.errors import ResourceExhausted
from server.domain.limits import Limit, RateClass
from server.operations.limits import Limits
from server.store.limits import PREFIX, Charge, LimitStore

WRITE = RateClass.WRITE
# So slow that nothing comes back while a test runs.
FIFTY = Limit(rate=0.001, burst=50)
NOW = 1_764_000_000_000_000


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, socket_timeout=5) as client:
        yield client


@pytest.fixture
def own_redis(folder: Path) -> Iterator[EmbeddedRedis]:
    """One that may be stopped and emptied."""
    embedded = EmbeddedRedis(folder / f"redis-{uuid4().hex[:8]}")
    embedded.start()
    yield embedded
    embedded.stop()


@asynccontextmanager
async def process(redis: Redis | None, limit: Limit = FIFTY, **options: Any) -> AsyncIterator[Limits]:
    """The limits of one process, the same for credentials and members."""
    store = None if redis is None else LimitStore(redis)
    limits = Limits(store, {WRITE: limit}, {WRITE: limit}, **options)
    try:
        yield limits
    finally:
        await limits.close()


async def admitted(limits: Limits, subject: UUID) -> bool:
    return await _admitted(limits.credential(subject, WRITE))


async def _admitted(pending: Awaitable[None] | None) -> bool:
    try:
        if pending is not None:
            await pending
    except ResourceExhausted:
        return False
    return True


async def how_many(limits: Limits, subject: UUID, calls: int) -> int:
    return sum([await admitted(limits, subject) for _ in range(calls)])


CHARGES = some.lists(
    some.tuples(
        some.integers(0, 40), some.sampled_from([0, 0, 10_000, 3_000_000, 10**12]), some.integers(0, 10**6)
    ),
    max_size=8,
)


@settings(max_examples=50)
@given(some.floats(0.01, 10_000), some.integers(1, 5000), CHARGES)
async def test_redis_and_the_domain_reckon_alike(
    redis_url: str, rate: float, burst: int, charges: list[tuple[int, int, int]]
) -> None:
    limit, subject = Limit(rate, burst), uuid4().hex
    now, tat = NOW, 0
    async with Redis.from_url(redis_url, socket_timeout=5) as redis:
        store = LimitStore(redis)
        for used, known, pause in charges:
            tat = limit.charge(tat, now, used, known)
            assert await store.charge([Charge(subject, limit, used, known)], at=now) == [tat - now]
            # Redis forgets by a clock of its own, which has nothing to do with this one: what it
            # forgot before it could be told not to is put back.
            if not await redis.persist(PREFIX + subject):
                await redis.set(PREFIX + subject, tat)
            now += pause
        await redis.delete(PREFIX + subject)


async def test_redis_forgets_whoever_has_the_whole_burst_again(redis: Redis) -> None:
    store, quick, slow = LimitStore(redis), uuid4().hex, uuid4().hex
    await store.charge([Charge(quick, Limit(10, 50), 50, 0), Charge(slow, Limit(1, 50), 50, 0)])
    assert 0 < await redis.pttl(PREFIX + quick) <= 5_000
    assert 40_000 < await redis.pttl(PREFIX + slow) <= 50_000


async def test_one_process_alone_lets_exactly_the_burst_through(redis: Redis) -> None:
    async with process(redis) as limits:
        assert await how_many(limits, uuid4(), 200) == 50


async def test_calls_at_the_same_moment_share_what_is_left(redis: Redis) -> None:
    subject = uuid4()
    async with process(redis) as limits:
        results = await asyncio.gather(*(admitted(limits, subject) for _ in range(300)))
    assert sum(results) == 50


async def test_a_refusal_says_what_was_exceeded_and_when_to_come_back(redis: Redis) -> None:
    async with process(redis, Limit(rate=0.5, burst=1)) as limits:
        program, member = uuid4(), uuid4()
        assert await _admitted(limits.member(program, member, WRITE))
        pending = limits.member(program, member, WRITE)
        assert pending is not None
        with pytest.raises(ResourceExhausted) as caught:
            await pending
    refused = caught.value
    assert (refused.reason, refused.metadata) == ("RATE_LIMITED", {"limit": "member", "rate_class": "write"})
    assert refused.retry_after_seconds is not None
    assert 1.0 < refused.retry_after_seconds <= 2.0


async def test_who_waits_as_long_as_told_is_let_through() -> None:
    now = 10**6
    limits = Limits(None, {WRITE: Limit(rate=2, burst=20)}, clock=lambda: now)
    subject = uuid4()
    assert await how_many(limits, subject, 30) == 20
    pending = limits.credential(subject, WRITE)
    assert pending is not None
    with pytest.raises(ResourceExhausted) as caught:
        await pending
    now += round((caught.value.retry_after_seconds or 0) * 10**6)
    assert await admitted(limits, subject)


async def test_subjects_classes_and_programs_do_not_share() -> None:
    limits = Limits(None, {WRITE: FIFTY}, {WRITE: FIFTY, RateClass.REDEEM: FIFTY})
    someone, here, there = uuid4(), uuid4(), uuid4()
    assert await how_many(limits, someone, 60) == 50
    assert await how_many(limits, uuid4(), 60) == 50
    assert limits.credential(someone, RateClass.READ) is None
    for program, rate_class in ((here, WRITE), (there, WRITE), (here, RateClass.REDEEM)):
        assert sum([await _admitted(limits.member(program, someone, rate_class)) for _ in range(60)]) == 50


async def test_between_two_that_share_no_more_goes_through_than_burst_and_slack(redis: Redis) -> None:
    subject = uuid4()
    async with process(redis) as one, process(redis) as other:
        results = [await admitted(limits, subject) for _ in range(100) for limits in (one, other)]
    assert 50 <= sum(results) <= 50 + 2 * FIFTY.slack


SHARING = """
import asyncio, json, sys, time
from uuid import UUID
from redis.asyncio import Redis
from server.domain.errors import ResourceExhausted
from server.domain.limits import Limit, RateClass
from server.operations.limits import Limits
from server.store.limits import LimitStore

async def main(url, subject, rate, burst, seconds):
    async with Redis.from_url(url, socket_timeout=5) as redis:
        limits = Limits(LimitStore(redis), {RateClass.WRITE: Limit(rate, burst)})
        print("ready", flush=True)
        sys.stdin.readline()
        through, refused, began = 0, 0, time.monotonic()
        while time.monotonic() < began + seconds:
            try:
                pending = limits.credential(UUID(subject), RateClass.WRITE)
                if pending is not None:
                    await pending
                through += 1
            except ResourceExhausted:
                refused += 1
                await asyncio.sleep(0.001)
        print(json.dumps([through, refused]), flush=True)
        await limits.close()

asyncio.run(main(*json.loads(sys.argv[1])))
"""


def test_two_processes_share_a_limit(redis_url: str) -> None:
    limit = Limit(rate=500, burst=100)
    order = json.dumps([redis_url, str(uuid4()), limit.rate, limit.burst, 1.0])
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SHARING, order], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    began = time.monotonic()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    figures = [json.loads(child.communicate(timeout=30)[0]) for child in children]
    elapsed = time.monotonic() - began
    through, refused = (sum(column) for column in zip(*figures, strict=True))
    assert refused > 0
    assert min(count for count, _ in figures) > 0
    assert through <= limit.burst + limit.rate * elapsed + 2 * limit.slack


async def test_without_redis_each_process_holds_the_limit_by_itself_and_finds_back(
    own_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.operations.limits.RETRY_SECONDS", 0.05)
    subject, now = uuid4(), 10**6
    async with (
        Redis.from_url(own_redis.url, socket_timeout=0.5) as redis,
        process(redis, clock=lambda: now) as one,
        process(redis) as other,
    ):
        assert await how_many(one, subject, 20) == 20
        await asyncio.to_thread(own_redis.stop)
        # It goes on from what it knows, not from the start.
        assert await how_many(one, subject, 60) == 30
        assert await how_many(other, subject, 60) == 50
        own_redis.start()
        async with asyncio.timeout(10):
            while not await redis.keys(f"{PREFIX}*"):
                await how_many(one, uuid4(), FIFTY.due)
                await asyncio.sleep(0.02)
        # What was used up meanwhile is told to the Redis that knows nothing of it.
        now += FIFTY.step * FIFTY.interval
        assert await how_many(one, subject, 60) == FIFTY.step
        async with process(redis) as fresh:
            assert await how_many(fresh, subject, 60) <= FIFTY.slack


async def test_emptying_redis_gives_nobody_their_burst_back_whom_we_know(
    own_redis: EmbeddedRedis,
) -> None:
    subject = uuid4()
    async with Redis.from_url(own_redis.url, socket_timeout=0.5) as redis, process(redis) as limits:
        assert await how_many(limits, subject, 30) == 30
        await redis.flushall()
        assert await how_many(limits, subject, 60) == 20
        assert await redis.exists(f"{PREFIX}credential:write:{subject.hex}")


async def test_a_redis_that_lost_its_scripts_is_given_them_again(own_redis: EmbeddedRedis) -> None:
    async with Redis.from_url(own_redis.url, socket_timeout=0.5) as redis, process(redis) as limits:
        assert await how_many(limits, uuid4(), 60) == 50
        await redis.script_flush()
        subject = uuid4()
        assert await how_many(limits, subject, 60) == 50
        assert await redis.exists(f"{PREFIX}credential:write:{subject.hex}")


async def test_a_redis_that_hangs_holds_calls_up_for_a_moment_only(redis_url: str) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with silent, Redis.from_url(f"redis://127.0.0.1:{port}/0") as redis, process(redis) as limits:
        async with asyncio.timeout(5):
            assert await how_many(limits, uuid4(), 60) == 50


async def test_memory_is_bounded_however_many_come() -> None:
    limits = Limits(None, {WRITE: FIFTY}, subjects=100)
    for _ in range(1000):
        await admitted(limits, uuid4())
    kept = limits._credentials[WRITE]
    assert len(kept.young) + len(kept._old) <= 200


async def test_whoever_keeps_coming_is_not_forgotten_for_the_many() -> None:
    limits = Limits(None, {WRITE: FIFTY}, subjects=100)
    busy, through = uuid4(), 0
    for _ in range(60):
        through += await admitted(limits, busy)
        for _ in range(50):
            await admitted(limits, uuid4())
    assert through == 50


async def test_one_who_gives_up_does_not_end_the_wait_of_others(redis: Redis) -> None:
    subject = uuid4()
    async with process(redis) as limits:
        assert await how_many(limits, subject, FIFTY.slack) == FIFTY.slack
        tasks = [asyncio.create_task(admitted(limits, subject)) for _ in range(20)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [True] * 19


async def test_after_too_many_wrong_credentials_only_known_ones_are_heard_from_there() -> None:
    now = 10**6
    limits = Limits(failures=Limit(rate=1, burst=10), clock=lambda: now)
    for _ in range(10):
        limits.failed("192.0.2.1")
    assert not limits.wary
    with pytest.raises(ResourceExhausted) as caught:
        limits.failed("192.0.2.1")
    assert caught.value.metadata == {"limit": "peer", "rate_class": "failure"}
    assert limits.wary
    with pytest.raises(ResourceExhausted):
        limits.hear("192.0.2.1")
    limits.hear("192.0.2.2")
    now += 1_000_000
    limits.hear("192.0.2.1")
    assert not limits.wary
