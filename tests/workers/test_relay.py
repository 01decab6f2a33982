"""The relay brings every event to every consumer, each in effect once, whatever goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from server.ids import new_id
from server.store import dead_letters, log, subscriptions
from server.store.database import Connection, Database
from server.store.log import LoggedEvent
from server.store.subscriptions import Fenced, Lease
from tests.support.log import NOTED, append, noted, noting, relaying
from tests.support.waiting import eventually
from workers import relay
from workers.subscriptions import Handler, Subscription

LONG = 30.0


@pytest.fixture
def consumer() -> str:
    """A name that no other test has."""
    return f"test-{uuid4().hex[:8]}"


@pytest.fixture(autouse=True)
def _restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wakes these relays, so they look often."""
    monkeypatch.setattr(relay, "SWEEP_SECONDS", 0.1)


@pytest.fixture(scope="module", autouse=True)
async def _noted(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(NOTED)


@pytest.fixture
async def aside(database_url: str) -> AsyncIterator[Database]:
    """Connections that the relay doesn't use."""
    opened = await Database.open(database_url, connections=3)
    yield opened
    await opened.close()


async def appended(database: Database, count: int = 1, **facts: Any) -> list[UUID]:
    async with database.transaction() as connection:
        return await append(connection, count, **facts)


async def until_noted(database: Database, consumer: str, ids: Sequence[UUID]) -> None:
    """Until all these were noted; never one twice, nor one before another that comes earlier."""

    async def all_there() -> bool:
        found = [event_id for event_id in await noted(database, consumer) if event_id in set(ids)]
        assert found == list(ids[: len(found)])
        return len(found) == len(ids)

    await eventually(all_there, LONG)


async def row(database: Database, query: str, *arguments: Any) -> Any:
    async with database.connection() as connection:
        return await connection.fetchrow(query, *arguments)


def failing(
    consumer: str, culprit: Callable[[LoggedEvent], bool], fault: Callable[[Connection], Awaitable[None]]
) -> Handler:
    """A handler that notes what it is handed, unless the culprit is among it."""
    note = noting(consumer)

    async def handle(connection: Connection, events: Sequence[LoggedEvent]) -> None:
        await note(connection, events)
        if any(map(culprit, events)):
            await fault(connection)

    return handle


async def test_each_event_is_handed_over_once_in_order(database: Database, consumer: str) -> None:
    only = {consumer: Subscription(noting(consumer))}
    ids = await appended(database, 1200)
    async with relaying(database, only):
        await until_noted(database, consumer, ids)
        ids += await appended(database, 3)
        await until_noted(database, consumer, ids)
    async with relaying(database, only):
        ids += await appended(database)
        await until_noted(database, consumer, ids)


async def test_two_relays_share_the_work_and_do_nothing_twice(database: Database, consumer: str) -> None:
    only = {consumer: Subscription(noting(consumer), rows=7)}
    ids: list[UUID] = []
    async with relaying(database, only), relaying(database, only):
        for _ in range(40):
            ids += await appended(database, 5)
        await until_noted(database, consumer, ids)


async def test_a_consumer_gets_the_types_it_wants(database: Database, consumer: str) -> None:
    only = {consumer: Subscription(noting(consumer), frozenset({"test.wanted"}), rows=10)}
    await appended(database, 25)
    wanted = await appended(database, 2, event_type="test.wanted")
    await appended(database, 25)
    async with relaying(database, only):
        await until_noted(database, consumer, wanted)
    assert await noted(database, consumer) == wanted


async def test_a_consumer_from_now_on_is_told_nothing_of_before(database: Database, consumer: str) -> None:
    only = {consumer: Subscription(noting(consumer), from_beginning=False)}
    await appended(database, 3)
    async with relaying(database, only):

        async def enrolled() -> bool:
            found = await row(database, "SELECT FROM subscription WHERE consumer = $1", consumer)
            return found is not None

        await eventually(enrolled, LONG)
        ids = await appended(database, 2)
        await until_noted(database, consumer, ids)
    assert await noted(database, consumer) == ids


@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
async def test_a_writer_that_began_early_and_commits_late_is_not_skipped(
    database: Database, aside: Database, consumer: str, ends: str
) -> None:
    async with relaying(database, {consumer: Subscription(noting(consumer))}), aside.connection() as early:
        await early.execute("BEGIN")
        first = await append(early, 2)
        later = [event_id for _ in range(20) for event_id in await appended(database)]
        # Many a look later nothing of it is known, because the early one may still come before.
        other = f"{consumer}-other"
        async with relaying(aside, {other: Subscription(noting(other))}):

            async def came_to_the_horizon() -> bool:
                found = await row(
                    database,
                    "SELECT FROM subscription WHERE consumer = $1 AND moved_at IS NOT NULL",
                    other,
                )
                return found is not None

            await eventually(came_to_the_horizon, LONG)
            assert not set(await noted(database, consumer)) & {*first, *later}
            assert not set(await noted(database, other)) & {*first, *later}
        await early.execute(ends)
        await until_noted(database, consumer, (first if ends == "COMMIT" else []) + later)


async def test_who_lost_the_lease_can_write_nothing(database: Database, consumer: str) -> None:
    ids = await appended(database, 2)
    async with database.transaction() as connection:
        await subscriptions.enrol(connection, [consumer], [])
        lost = await subscriptions.take(connection, consumer, "frozen", 0.0)
    assert lost is not None
    async with database.transaction() as connection:
        held = await subscriptions.take(connection, consumer, "awake", 60.0)
        assert held is not None
        assert await subscriptions.take(connection, consumer, "third", 60.0) is None

    async def goes_on(lease: Lease) -> None:
        async with database.transaction() as connection:
            stretch = await log.read(connection, lease.place, None, 10_000)
            await noting(consumer)(connection, stretch.events)
            await subscriptions.move(connection, lease, stretch.end, 0.0)

    with pytest.raises(Fenced):
        await goes_on(lost)
    async with database.transaction() as connection:
        await subscriptions.failed(connection, lost, "late", 0.0)
        await subscriptions.give_back(connection, lost)
        assert await subscriptions.take(connection, consumer, "third", 60.0) is None
    await goes_on(held)
    assert [i for i in await noted(database, consumer) if i in ids] == ids


async def test_a_lease_forgotten_in_a_crash_still_fences(database: Database, consumer: str) -> None:
    async with database.transaction() as connection:
        await subscriptions.enrol(connection, [consumer], [])
        before = await subscriptions.take(connection, consumer, "before", 0.0)
        # Leases aren't flushed: after a crash of PostgreSQL the token may be given again.
        await connection.execute("UPDATE subscription SET token = token - 1 WHERE consumer = $1", consumer)
        after = await subscriptions.take(connection, consumer, "after", 60.0)
        assert before is not None
        assert after is not None
        assert before.token == after.token
        with pytest.raises(Fenced):
            await subscriptions.move(connection, before, before.place, 60.0)


async def divide(connection: Connection) -> None:
    await connection.execute("SELECT 1 / 0")


async def misfit(connection: Connection) -> None:
    await connection.execute("SELECT $1::int", 2**40)


async def stumble(connection: Connection) -> None:
    raise KeyError("asha@example.com")


async def hang(connection: Connection) -> None:
    await asyncio.sleep(3600)


async def break_a_promise(connection: Connection) -> None:
    """Something that PostgreSQL refuses no earlier than at COMMIT."""
    await connection.execute(
        """CREATE TABLE IF NOT EXISTS promise (kept int UNIQUE DEFERRABLE INITIALLY DEFERRED);
           INSERT INTO promise VALUES (1), (1)"""
    )


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (divide, "DivisionByZeroError 22012"),
        (misfit, "DataError 22000"),
        (stumble, "KeyError"),
        (break_a_promise, "UniqueViolationError 23505"),
        (hang, "Hung"),
    ],
)
async def test_a_poison_event_stands_alone_and_is_kept_until_it_is_replayed(
    database: Database, consumer: str, fault: Callable[[Connection], Awaitable[None]], told: str
) -> None:
    async with database.transaction() as connection:
        await subscriptions.enrol(connection, [], [consumer])
    ids = await appended(database, 2 if fault is hang else 8)
    poison = ids[-1 if fault is hang else 5]
    poisoned = failing(consumer, lambda event: event.event_id == poison, fault)
    # Short only where a handler must be given up.
    lease_seconds = 2.0 if fault is hang else 10.0
    async with relaying(database, {consumer: Subscription(poisoned)}, lease_seconds):
        await until_noted(database, consumer, [i for i in ids if i != poison])

        async def buried() -> bool:
            found = await row(database, "SELECT FROM dead_letter WHERE consumer = $1", consumer)
            return found is not None

        await eventually(buried, LONG)
    dead = await row(database, "SELECT * FROM dead_letter WHERE consumer = $1", consumer)
    assert (dead["event_id"], dead["status"], dead["error"], dead["attempts"]) == (poison, "dead", told, 1)
    standing = await row(database, "SELECT * FROM subscription WHERE consumer = $1", consumer)
    assert "asha" not in repr([*dead.values(), *standing.values()])

    async def replays(handler: Handler, status: str, attempts: int) -> None:
        async with database.connection() as connection:
            await connection.execute(
                "UPDATE dead_letter SET status = 'replaying' WHERE consumer = $1", consumer
            )
        async with relaying(database, {consumer: Subscription(handler)}, lease_seconds):

            async def settled() -> bool:
                found = await row(database, "SELECT * FROM dead_letter WHERE consumer = $1", consumer)
                return (found["status"], found["attempts"]) == (status, attempts)

            await eventually(settled, LONG)

    await replays(poisoned, "dead", 2)
    assert poison not in await noted(database, consumer)
    await replays(noting(consumer), "replayed", 2)
    assert (await noted(database, consumer)).count(poison) == 1


async def test_what_passes_is_tried_again_and_shows_meanwhile(database: Database, consumer: str) -> None:
    away = True

    async def interrupted(connection: Connection) -> None:
        if away:
            raise ConnectionResetError("10.1.2.3")

    async with database.transaction() as connection:
        await subscriptions.enrol(connection, [], [consumer])
    ids = await appended(database, 3)
    handler = failing(consumer, lambda event: event.event_id in ids, interrupted)
    async with relaying(database, {consumer: Subscription(handler)}):

        async def tried_twice() -> bool:
            found = await row(database, "SELECT * FROM subscription WHERE consumer = $1", consumer)
            return found is not None and found["attempts"] >= 2

        await eventually(tried_twice, LONG)
        found = await row(database, "SELECT * FROM subscription WHERE consumer = $1", consumer)
        assert found["last_error"] == "ConnectionResetError"
        away = False
        await until_noted(database, consumer, ids)
    assert (await row(database, "SELECT attempts FROM subscription WHERE consumer = $1", consumer))[0] == 0
    assert await row(database, "SELECT FROM dead_letter WHERE consumer = $1", consumer) is None


async def test_another_cluster_begins_another_epoch(
    postgres: Callable[[str], str], template: str, consumer: str
) -> None:
    """As after a restore: the log holds transaction ids that this cluster has yet to give."""
    name = f"laurel_restored_{uuid4().hex}"
    opened = await Database.open(postgres("postgres"), connections=2)
    async with opened.connection() as connection:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    before = await Database.open(postgres(name), connections=2)
    async with before.transaction() as connection:
        await connection.execute(NOTED)
        await connection.execute("UPDATE log_epoch SET system_identifier = 1")
        old = await append(connection, 3)
        await connection.execute("ALTER TABLE event_log DISABLE TRIGGER immutable")
        await connection.execute("UPDATE event_log SET xid = '4000000000'")
        await connection.execute("ALTER TABLE event_log ENABLE TRIGGER immutable")
        await subscriptions.enrol(connection, [consumer], [])
        await connection.execute("UPDATE subscription SET epoch = 1, xid = '4000000000', position = 1")
    await before.close()

    only = {consumer: Subscription(noting(consumer))}
    after = await Database.open(postgres(name), connections=4)
    async with relaying(after, only):
        await until_noted(after, consumer, old[1:])
        new = await appended(after, 2)
        await until_noted(after, consumer, new)
        again = await Database.open(postgres(name), connections=2)
        new += await appended(again)
        await until_noted(after, consumer, new)
        await again.close()
    assert await noted(after, consumer) == old[1:] + new
    async with after.connection() as connection:
        epochs = await connection.fetch("SELECT epoch, system_identifier FROM log_epoch ORDER BY epoch")
        here = await connection.fetchval("SELECT system_identifier FROM pg_control_system()")
    assert [tuple(found) for found in epochs] == [(1, 1), (2, here)]
    await after.close()
    async with opened.connection() as connection:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await opened.close()


async def test_burying_again_what_was_replayed_reopens_the_dead_letter(
    database: Database, consumer: str
) -> None:
    [event_id] = await appended(database)
    async with database.transaction() as connection:
        place = await connection.fetchrow(
            "SELECT epoch, xid, position FROM event_log WHERE event_id = $1", event_id
        )
        event = await log.at(connection, log.Position(*place))
        assert event is not None
        await dead_letters.bury(connection, new_id(), consumer, event, "first")
        await connection.execute(
            "UPDATE dead_letter SET status = 'replayed', settled_at = now() WHERE consumer = $1", consumer
        )
        await dead_letters.bury(connection, new_id(), consumer, event, "second")
    found = await row(database, "SELECT * FROM dead_letter WHERE consumer = $1", consumer)
    assert (found["status"], found["error"], found["attempts"], found["settled_at"]) == (
        "dead",
        "second",
        2,
        None,
    )
