"""Sending deliveries: once, in spite of everything, and without holding each other up."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest

from server.domain.deliveries import Delivery, Permanent, Postponed, Temporary, Unwanted, Wanted
from server.ids import new_id
from server.store import deliveries as store
from server.store.database import Database
from tests.support.waiting import eventually
from workers.channels import Send
from workers.deliveries import Deliveries, Pace

# Soon again, and soon given up.
QUICK = Pace(poll_seconds=0.05, waits=(0.01, 0.02))


@dataclass
class Post:
    """A channel of the test's own, whose name nobody else uses, and what was wanted of it."""

    database: Database
    channel: str = field(default_factory=lambda: f"test-{uuid4().hex}")
    program_id: UUID = field(default_factory=new_id)

    async def want(self, *letters: str, target: str = "there") -> list[UUID]:
        """Deliveries with that content, in one transaction."""
        wanted = [
            Wanted(
                program_id=self.program_id,
                delivery_id=new_id(),
                channel=self.channel,
                target=f"{self.channel}:{target}",
                dedup_key=uuid4().hex,
                content={"letter": letter},
            )
            for letter in letters
        ]
        async with self.database.transaction() as connection:
            await store.add(connection, wanted)
        return [w.delivery_id for w in wanted]

    async def rows(self) -> dict[UUID, Any]:
        """What is stored of this post's deliveries."""
        async with self.database.connection() as connection:
            found = await connection.fetch("SELECT * FROM delivery WHERE channel = $1", self.channel)
        return {row["delivery_id"]: row for row in found}

    async def attempts(self, delivery_id: UUID) -> list[tuple[str, str, str]]:
        """How the attempts went: outcome, response, error."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                """SELECT outcome, response, error FROM delivery_attempt
                    WHERE program_id = $1 AND delivery_id = $2 ORDER BY token""",
                self.program_id,
                delivery_id,
            )
        return [tuple(row) for row in rows]

    def ended(self, *statuses: str) -> Callable[[], Awaitable[bool]]:
        """Whether every delivery has one of these statuses."""

        async def all_of_them() -> bool:
            return {row["status"] for row in (await self.rows()).values()} <= set(statuses)

        return all_of_them

    @asynccontextmanager
    async def worker(self, send: Send, pace: Pace = QUICK) -> AsyncIterator[Deliveries]:
        """Somebody who sends this post's deliveries."""
        deliveries = Deliveries(self.database, {self.channel: send}, pace=pace)
        running = asyncio.create_task(deliveries.run())
        try:
            yield deliveries
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
def post(database: Database) -> Post:
    return Post(database)


def letters(sent: Sequence[Delivery]) -> list[str]:
    return sorted(delivery.content["letter"] for delivery in sent)


async def test_what_is_wanted_is_sent_once_by_however_many(post: Post) -> None:
    sent: list[Delivery] = []

    async def send(delivery: Delivery) -> str:
        sent.append(delivery)
        await asyncio.sleep(0)
        return "250"

    wanted = [f"letter {number}" for number in range(200)]
    async with post.worker(send), post.worker(send), post.worker(send):
        for first in range(0, 200, 20):
            await post.want(*wanted[first : first + 20], target=f"{first % 3}")
        await eventually(post.ended("sent"), 60)
    assert letters(sent) == sorted(wanted)
    rows = await post.rows()
    assert {(row["attempts"], row["last_error"]) for row in rows.values()} == {(1, "")}
    assert await post.attempts(next(iter(rows))) == [("sent", "250", "")]


async def test_what_is_wanted_in_a_transaction_that_fails_is_not_sent_and_twice_is_once(post: Post) -> None:
    wanted = Wanted(
        program_id=post.program_id,
        delivery_id=new_id(),
        channel=post.channel,
        target="there",
        dedup_key="birthday 2026",
        content={},
    )

    async def fail() -> None:
        async with post.database.transaction() as connection:
            await store.add(connection, [wanted])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await post.rows() == {}
    for _ in range(2):
        async with post.database.transaction() as connection:
            await store.add(connection, [wanted])
    assert list(await post.rows()) == [wanted.delivery_id]


async def test_one_target_that_hangs_holds_up_nobody_else(post: Post) -> None:
    free = asyncio.Event()
    hanging: Counter[str] = Counter()

    async def send(delivery: Delivery) -> None:
        if delivery.target.endswith("slow"):
            hanging["now"] += 1
            hanging["most"] = max(hanging["most"], hanging["now"])
            await free.wait()
            hanging["now"] -= 1

    await post.want(*map(str, range(200)), target="slow")
    others = [*await post.want(*map(str, range(50)), target="a"), *await post.want("b", target="b")]
    patient = Pace(at_once=8, per_target=3, poll_seconds=0.05, send_seconds=600, lease_seconds=6000)
    async with post.worker(send, patient):

        async def delivered() -> bool:
            rows = await post.rows()
            return all(rows[delivery_id]["status"] == "sent" for delivery_id in others)

        await eventually(delivered, 60)
        assert hanging["most"] == 3
        free.set()
        await eventually(post.ended("sent"), 60)


async def test_a_target_that_was_slow_gets_one_place_until_it_is_quick_again(post: Post) -> None:
    under_way: Counter[str] = Counter()
    most: dict[str, int] = {}

    async def send(delivery: Delivery) -> None:
        kind = delivery.content["letter"]
        under_way[kind] += 1
        most[kind] = max(most.get(kind, 0), under_way[kind])
        await asyncio.sleep(0.02)
        under_way[kind] -= 1

    # Everything counts as slow, once the first has shown it.
    async with post.worker(send, Pace(per_target=4, slow_seconds=0.0, poll_seconds=0.05)):
        await post.want("first")
        await eventually(post.ended("sent"), 60)
        await post.want(*["slow"] * 8)
        await eventually(post.ended("sent"), 60)
    async with post.worker(send, Pace(per_target=4, slow_seconds=600, poll_seconds=0.05)):
        await post.want("first")
        await eventually(post.ended("sent"), 60)
        await post.want(*["quick"] * 8)
        await eventually(post.ended("sent"), 60)
    assert (most["slow"], most["quick"]) == (1, 4)


async def test_attempts_end_in_a_dead_delivery_that_can_be_replayed(post: Post) -> None:
    dead_receiver = True
    tried: list[UUID] = []

    async def send(delivery: Delivery) -> None:
        tried.append(delivery.delivery_id)
        if dead_receiver and delivery.content["letter"] == "bad":
            raise Temporary("no answer", "503")

    (bad,) = await post.want("bad")
    (good,) = await post.want("good")
    async with post.worker(send):
        await eventually(post.ended("sent", "dead"), 60)
        rows = await post.rows()
        assert (rows[bad]["status"], rows[bad]["attempts"], rows[bad]["last_error"]) == (
            "dead",
            3,
            "no answer",
        )
        assert rows[good]["status"] == "sent"
        assert await post.attempts(bad) == [("temporary", "503", "no answer")] * 3

        dead_receiver = False
        async with post.database.connection() as connection:
            assert await store.replay(connection, post.program_id, bad)
        await eventually(post.ended("sent"), 60)
    assert Counter(tried) == {bad: 4, good: 1}
    assert len(await post.attempts(bad)) == 4


async def test_a_dead_delivery_may_be_discarded_and_a_pending_one_not(post: Post) -> None:
    async def send(_: Delivery) -> None:
        raise Permanent("gone", "410")

    (letter,) = await post.want("letter")
    async with post.database.connection() as connection:
        assert not await store.discard(connection, post.program_id, letter)
        assert not await store.replay(connection, post.program_id, letter)
        async with post.worker(send):
            await eventually(post.ended("dead"), 60)
        assert await store.discard(connection, post.program_id, letter)
        assert not await store.discard(connection, post.program_id, letter)
    assert (await post.rows())[letter]["status"] == "discarded"


async def test_faults_count_as_temporary_and_what_is_unwanted_is_discarded(post: Post) -> None:
    async def send(delivery: Delivery) -> None:
        match delivery.content["letter"], delivery.attempts:
            case "broken", 1:
                raise KeyError("asha@example.com")
            case "unwanted", _:
                raise Unwanted("no consent")
            case "hangs", 1:
                await asyncio.sleep(3600)
            case "quiet", _ if quiet:
                quiet.pop()
                raise Postponed("quiet hours", 0.01)

    quiet = [1, 2, 3, 4, 5]
    broken, unwanted, hangs, later = await post.want("broken", "unwanted", "hangs", "quiet")
    pace = Pace(poll_seconds=0.05, send_seconds=0.5, waits=(0.01,))
    async with post.worker(send, pace):
        await eventually(post.ended("sent", "discarded"), 60)
    assert await post.attempts(broken) == [("temporary", "", "KeyError"), ("sent", "", "")]
    assert await post.attempts(unwanted) == [("unwanted", "", "no consent")]
    assert await post.attempts(hangs) == [("temporary", "", "took too long"), ("sent", "", "")]
    assert [outcome for outcome, *_ in await post.attempts(later)] == ["postponed"] * 5 + ["sent"]
    assert (await post.rows())[later]["attempts"] == 1


async def test_a_target_that_asks_to_be_left_alone_is(post: Post) -> None:
    tried: list[str] = []

    async def send(delivery: Delivery) -> None:
        tried.append(delivery.content["letter"])
        if delivery.content["letter"] == "first":
            raise Temporary("busy", "429", retry_after=3600)

    async with post.worker(send):
        (first,) = await post.want("first")

        async def refused() -> bool:
            return len(await post.attempts(first)) == 1

        await eventually(refused, 60)
        await post.want("second")
        await post.want("other", target="elsewhere")
        await eventually(lambda: _true("other" in tried), 60)
    assert tried == ["first", "other"]
    # Another worker, or this one started again, finds out by itself.
    async with post.worker(send):
        await eventually(lambda: _true("second" in tried), 60)
    assert tried == ["first", "other", "second"]


async def test_what_a_dead_worker_held_is_sent_by_another_under_the_same_id(post: Post) -> None:
    (letter,) = await post.want("letter")
    async with post.database.connection() as connection:
        (taken,) = await store.claim(
            connection, [post.channel], {}, at_once=9, per_target=9, lease_seconds=1.0
        )
    sent: list[Delivery] = []

    async def send(delivery: Delivery) -> None:
        sent.append(delivery)

    async with post.worker(send):
        await eventually(post.ended("sent"), 60)
    assert [(d.delivery_id, d.attempts) for d in sent] == [(letter, 2)]
    assert sent[0].token > taken.token


async def test_after_a_dead_worker_the_first_failure_is_the_first(post: Post) -> None:
    (letter,) = await post.want("letter")
    async with post.database.connection() as connection:
        await store.claim(connection, [post.channel], {}, at_once=9, per_target=9, lease_seconds=0.1)
    known: list[tuple[int, int]] = []

    async def send(delivery: Delivery) -> None:
        known.append((delivery.attempts, delivery.failures))
        if len(known) < 3:
            raise Temporary("no answer")

    # Whoever counted its end as a failure would wait for an hour, and then another.
    async with post.worker(send, Pace(poll_seconds=0.05, waits=(0.01, 0.02, 3600, 3600))):
        await eventually(post.ended("sent"), 60)
    assert known == [(2, 0), (3, 1), (4, 2)]
    assert [outcome for outcome, *_ in await post.attempts(letter)] == ["temporary", "temporary", "sent"]


async def test_a_worker_that_was_frozen_past_its_lease_changes_nothing(post: Post) -> None:
    (letter,) = await post.want("letter")
    frozen, slow = asyncio.Event(), asyncio.Event()

    async def freeze(_: Delivery) -> None:
        slow.set()
        await frozen.wait()
        raise Permanent("what it thinks")

    async def send(_: Delivery) -> None:
        return None

    # It can't tell that its lease is over; the database can.
    unaware = Pace(send_seconds=600, lease_seconds=6000)
    old = Deliveries(post.database, {post.channel: freeze}, pace=unaware)
    running = asyncio.create_task(old.run())
    await slow.wait()
    async with post.database.connection() as connection:
        await connection.execute("UPDATE delivery SET next_attempt_at = now() WHERE delivery_id = $1", letter)
    async with post.worker(send):
        await eventually(post.ended("sent"), 60)
    frozen.set()
    await old.stop(60)
    await running
    assert (await post.rows())[letter]["status"] == "sent"
    assert [outcome for outcome, *_ in await post.attempts(letter)] == ["permanent", "sent"]


async def test_who_stops_lets_what_is_under_way_finish(post: Post) -> None:
    began, free = asyncio.Event(), asyncio.Event()

    async def send(_: Delivery) -> None:
        began.set()
        await free.wait()

    (letter,) = await post.want("letter")
    deliveries = Deliveries(post.database, {post.channel: send}, pace=QUICK)
    running = asyncio.create_task(deliveries.run())
    await began.wait()
    stopping = asyncio.create_task(deliveries.stop(60))
    await asyncio.sleep(0)
    free.set()
    await stopping
    await running
    assert (await post.rows())[letter]["status"] == "sent"


async def test_a_delivery_over_which_workers_die_is_given_up(post: Post) -> None:
    (letter,) = await post.want("letter")
    async with post.database.connection() as connection:
        for _ in range(3):
            await store.claim(connection, [post.channel], {}, at_once=9, per_target=9, lease_seconds=0)

    async def send(_: Delivery) -> None:
        raise AssertionError("it kills workers")

    async with post.worker(send):
        await eventually(post.ended("dead"), 60)
    assert (await post.rows())[letter]["last_error"] == "its workers died while they sent it"


async def test_what_is_due_and_what_is_dead_is_counted_by_channel(post: Post) -> None:
    async def send(_: Delivery) -> None:
        raise Permanent("gone")

    await post.want("bad")
    async with post.worker(send):
        await eventually(post.ended("dead"), 60)
    await post.want("one", "two")
    await post.want("three", target="elsewhere")
    async with post.database.connection() as connection:
        waiting = (await store.backlog(connection))[post.channel]
    assert (waiting.due, waiting.seconds >= 0, waiting.dead) == (3, True, 1)


async def _true(condition: bool) -> bool:
    return condition
