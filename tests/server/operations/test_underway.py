"""A full batch begins while the one before it is written, and never overtakes it."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from server.domain.commands import Command, Outcome
from server.domain.errors import DeadlineExceeded, Unavailable
from server.operations import posting
from server.operations.lines import Line, Turn
from server.operations.watch import Commits
from server.store import locks
from server.store.database import Database
from telemetry.metrics import Histogram, Metrics
from tests.server.operations.test_aside import done, kept, waiting_for
from tests.server.operations.test_committer import Shop, opened, reason
from tests.support.waiting import eventually

FULL = 4
# What a row that is written waits for, unlike every lock that is taken before.
BRAKE = 4711
AT_THE_BRAKE = """locktype = 'advisory' AND objid = $1 AND classid = 0
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

# Who waits in a transaction, unless it holds the brake.
IDLE_AT_ITS_TURN = f"""FROM pg_stat_activity
    WHERE state = 'idle in transaction' AND datname = current_database()
      AND pid NOT IN (SELECT pid FROM pg_locks WHERE {AT_THE_BRAKE} AND granted)"""


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def shop(
    database: Database, database_url: str, redis_url: str, secrets_file: Path, metrics: Metrics
) -> AsyncIterator[Shop]:
    async with with_a_brake(database, database_url, redis_url, secrets_file, watch=Commits(metrics)) as shop:
        yield shop


@asynccontextmanager
async def with_a_brake(
    database: Database, database_url: str, redis_url: str, secrets_file: Path, **terms: Any
) -> AsyncIterator[Shop]:
    """A shop with small batches, whose rows with the reference "slow" wait for ``BRAKE`` when written."""
    others = await Database.open(database_url, connections=4)
    async with opened(database, redis_url, secrets_file, **{"batch_size": FULL, **terms}) as shop:
        shop.database = others
        async with others.connection() as connection:
            await connection.execute(
                f"""CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
                   BEGIN
                     SET LOCAL lock_timeout = 0;
                     PERFORM pg_advisory_xact_lock_shared({BRAKE});
                     IF NEW.reason = 'never' THEN
                       RAISE EXCEPTION 'no luck' USING ERRCODE = 'query_canceled';
                     END IF;
                     RETURN NEW;
                   END $$;
                   CREATE TRIGGER slow BEFORE INSERT ON ledger_transaction FOR EACH ROW
                   WHEN (NEW.order_reference LIKE 'slow%') EXECUTE FUNCTION slow()"""
            )
        yield shop
        async with others.connection() as connection:
            await connection.execute("DROP FUNCTION slow CASCADE")
    await others.close()


async def idle_at_its_turn(shop: Shop) -> bool:
    async with shop.database.connection() as connection:
        return bool(await connection.fetchval(f"SELECT EXISTS (SELECT {IDLE_AT_ITS_TURN})", BRAKE))


@asynccontextmanager
async def braked(shop: Shop) -> AsyncIterator[None]:
    """While rows with the reference "slow" aren't written."""
    async with shop.database.transaction() as connection:
        await locks.take(connection, [BRAKE])
        yield


async def written(shop: Shop) -> bool:
    """Whether somebody is about to write a slow row."""
    async with shop.database.connection() as connection:
        return bool(
            await connection.fetchval(
                f"SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND {AT_THE_BRAKE})", BRAKE
            )
        )


async def locked(shop: Shop, member_id: UUID) -> bool:
    """Whether a batch has begun with that member."""
    async with shop.database.transaction() as connection:
        return not await connection.fetchval(
            "SELECT pg_try_advisory_xact_lock($1)", locks.member_lock(member_id)
        )


async def nobody_waits_for(shop: Shop, number: int) -> bool:
    return not await waiting_for(shop, number, 1)


async def members(shop: Shop, number: int) -> list[UUID]:
    return [await shop.member() for _ in range(number)]


def submitted(shop: Shop, commands: Sequence[Command]) -> list[asyncio.Future[Outcome]]:
    return [asyncio.ensure_future(shop.submit(command, 60.0)) for command in commands]


def entered(shop: Shop, command: Command, turn: Turn) -> asyncio.Future[Outcome]:
    """The command in its place of a line."""
    deadline = asyncio.get_running_loop().time() + 60
    return asyncio.ensure_future(shop.committer.submit(command, deadline, turn))


async def test_a_full_batch_is_decided_while_the_one_before_it_is_written(shop: Shop) -> None:
    first, second = await members(shop, FULL), await members(shop, FULL)
    purchases = [shop.purchase(first[0], 5, reference="slow"), *(shop.purchase(m, 5) for m in first[1:])]
    async with braked(shop):
        before = submitted(shop, purchases)
        after = submitted(shop, [shop.purchase(m, 7) for m in second])
        await eventually(lambda: written(shop))
        await eventually(lambda: locked(shop, second[-1]))
        assert not any(reply.done() for reply in (*before, *after))
    assert [outcome.points for outcome in await done([*before, *after])] == [5] * FULL + [7] * FULL
    async with shop.database.connection() as connection:
        logged = await connection.fetch(
            "SELECT member_id FROM event_log WHERE member_id = ANY($1) ORDER BY xid",
            [*first, *second],
        )
    assert [row[0] in second for row in logged] == [False] * FULL + [True] * FULL


async def test_a_batch_that_is_not_full_waits(shop: Shop) -> None:
    first, second = await members(shop, FULL), await members(shop, FULL - 1)
    async with braked(shop):
        before = submitted(shop, [shop.purchase(m, 5, reference=f"slow {m}") for m in first])
        after = submitted(shop, [shop.purchase(m, 7) for m in second])
        await eventually(lambda: written(shop))
        assert not await locked(shop, second[0])
    await done([*before, *after])


async def test_who_is_in_the_batch_before_is_not_decided_beside_it(shop: Shop) -> None:
    first, second = await members(shop, FULL), await members(shop, FULL)
    async with braked(shop):
        before = submitted(shop, [shop.purchase(m, 5, reference=f"slow {m}") for m in first])
        # As much as the purchase gives, so it is refused unless that came first.
        again = submitted(shop, [shop.redemption(first[0], 5)])
        after = submitted(shop, [shop.purchase(m, 7) for m in second])
        last = submitted(shop, [shop.redemption(second[0], 7), shop.purchase(first[0], 3)])
        await eventually(lambda: written(shop))
        await eventually(lambda: locked(shop, second[FULL - 2]))
        assert await nobody_waits_for(shop, locks.member_lock(first[0]))
    outcomes = await done([*before, *again, *after, *last])
    assert [outcome.balance for outcome in outcomes] == [5] * FULL + [0] + [7] * FULL + [0, 3]


async def test_what_fails_is_mended_before_the_next_batch_begins_anew(shop: Shop) -> None:
    first, second = await members(shop, FULL), await members(shop, FULL)
    purchases = [shop.purchase(m, 5, reference=f"slow {m}") for m in first]
    purchases[1] = shop.purchase(first[1], 5, reference="slow", reason="never")
    async with braked(shop):
        before = submitted(shop, purchases)
        after = submitted(shop, [shop.purchase(m, 7) for m in second])
        # What waits still must not be there first.
        after += submitted(shop, [shop.redemption(second[0], 7)])
        await eventually(lambda: written(shop))
        await eventually(lambda: locked(shop, second[-1]))
    failed = before.pop(1)
    assert [o.points for o in await done([*before, *after])] == [5] * (FULL - 1) + [7] * (FULL + 1)
    with pytest.raises(Unavailable):
        await failed
    assert [await shop.balance(m) for m in first] == [5, 0, 5, 5]


async def test_after_a_passing_fault_nothing_of_its_line_is_done(shop: Shop) -> None:
    first, second = await members(shop, FULL), await members(shop, FULL)
    line = Line()

    def entry(member_id: UUID, said: str) -> asyncio.Future[Outcome]:
        purchase = shop.purchase(member_id, 5, reference=f"slow {member_id}", reason=said)
        return entered(shop, purchase, line.join())

    async with braked(shop):
        before = [entry(m, "never" if m == first[2] else "") for m in first]
        after = [entry(m, "") for m in second]
        await eventually(lambda: written(shop))
        await eventually(lambda: locked(shop, second[-1]))
    results = await asyncio.gather(*before, *after, return_exceptions=True)
    assert [reason(r) if isinstance(r, BaseException) else r.points for r in results] == [
        5,
        5,
        *["CONTENTION"] * (2 + FULL),
    ]
    assert [await shop.balance(m) for m in (*first, *second)] == [5, 5] + [0] * (2 + FULL)


async def test_a_line_that_ends_meanwhile_ends_for_what_met_a_lock_beside_it(shop: Shop) -> None:
    first, second = await members(shop, FULL), await members(shop, FULL)
    ended = Line()
    before, after = ended.join(), ended.join()
    lock = locks.member_lock(second[1])
    async with kept(shop, lock):
        async with braked(shop):
            replies = [entered(shop, shop.purchase(first[0], 5, reference="slow"), before)]
            replies += submitted(shop, [shop.purchase(m, 5) for m in first[1:]])
            late = entered(shop, shop.purchase(second[0], 5), after)
            replies += submitted(shop, [shop.purchase(m, 7) for m in second[1:]])
            await eventually(lambda: written(shop))
            await eventually(lambda: waiting_for(shop, lock, 1))
            # The second batch met the lock; whoever waits for the first's place in line has gone away.
            await eventually(lambda: nobody_waits_for(shop, lock))
            before.failed(DeadlineExceeded("DEADLINE_EXCEEDED", "the call's time is over"))
        with pytest.raises(DeadlineExceeded):
            await late
    await done(replies)
    assert await shop.balance(second[0]) == 0


async def test_a_batch_whose_connection_breaks_while_it_waits_for_its_turn_is_begun_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PostgreSQL has it after idle_in_transaction_session_timeout, longer than an outage is borne."""
    monkeypatch.setattr(posting, "OUTAGE_PATIENCE_SECONDS", 0.2)
    first, second = await members(shop, FULL), await members(shop, FULL)
    async with braked(shop):
        replies = submitted(shop, [shop.purchase(m, 5, reference=f"slow {m}") for m in first])
        replies += submitted(shop, [shop.purchase(m, 7) for m in second])
        await eventually(lambda: written(shop))
        await eventually(lambda: idle_at_its_turn(shop))
        await asyncio.sleep(posting.OUTAGE_PATIENCE_SECONDS)
        async with shop.database.connection() as connection:
            await connection.execute(f"SELECT pg_terminate_backend(pid) {IDLE_AT_ITS_TURN}", BRAKE)
    assert [outcome.points for outcome in await done(replies)] == [5] * FULL + [7] * FULL


async def test_a_batch_that_is_given_up_is_counted_once(shop: Shop, metrics: Metrics) -> None:
    first, second = await members(shop, FULL), await members(shop, FULL)
    async with braked(shop):
        replies = submitted(shop, [shop.purchase(m, 5, reference=f"slow {m}") for m in first])
        replies += submitted(shop, [shop.purchase(m, 7) for m in second])
        await eventually(lambda: written(shop))
        await eventually(lambda: locked(shop, second[-1]))
        async with shop.database.connection() as connection:
            await connection.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND {AT_THE_BRAKE}", BRAKE
            )
    await done(replies)
    [sizes] = [i for i in metrics if i.about.name == "laurel.committer.batch.size"]
    assert isinstance(sizes, Histogram)
    assert sizes.of().total == 2 * FULL


async def test_a_batch_whose_connection_breaks_is_not_overtaken(shop: Shop) -> None:
    first, second = await members(shop, FULL), await members(shop, FULL)
    ended, line = Line(), Line()

    def entry(member_id: UUID, turn: Turn) -> asyncio.Future[Outcome]:
        return entered(shop, shop.purchase(member_id, 5, reference=f"slow {member_id}"), turn)

    places = [ended.join(), ended.join(), line.join(), line.join()]
    async with braked(shop):
        replies = [entry(m, turn) for m, turn in zip(first, places, strict=True)]
        replies += [entry(m, line.join()) for m in second]
        await eventually(lambda: written(shop))
        await eventually(lambda: locked(shop, second[-1]))
        # Whoever waits for the first entry has gone away.
        places[0].failed(DeadlineExceeded("DEADLINE_EXCEEDED", "the call's time is over"))
        async with shop.database.connection() as connection:
            await connection.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND {AT_THE_BRAKE}", BRAKE
            )
    await done(replies)
    async with shop.database.connection() as connection:
        logged = await connection.fetch(
            "SELECT member_id FROM event_log WHERE member_id = ANY($1) ORDER BY xid", [*first, *second]
        )
    assert [row[0] in second for row in logged] == [False] * FULL + [True] * FULL


async def test_members_see_their_commands_in_order_whatever_fails(shop: Shop) -> None:
    """Each redemption fits exactly the purchases before it, so any other order refuses one."""
    chance = random.Random(7)
    few = await members(shop, 12)
    async with shop.database.connection() as connection:
        await connection.execute("ALTER TABLE ledger_transaction DISABLE TRIGGER slow")
        # Now and then a write fails; what is tried again may succeed.
        await connection.execute(
            """CREATE FUNCTION unlucky() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN
                 IF random() < 0.05 THEN
                   RAISE EXCEPTION 'again' USING ERRCODE = 'serialization_failure';
                 END IF;
                 RETURN NEW;
               END $$;
               CREATE TRIGGER unlucky BEFORE INSERT ON ledger_transaction
               FOR EACH ROW EXECUTE FUNCTION unlucky()"""
        )
    commands: list[Command] = []
    for member_id in (chance.choice(few) for _ in range(150)):
        points = chance.randint(1, 9)
        commands += [shop.purchase(member_id, points), shop.redemption(member_id, points)]
    try:
        results = await asyncio.gather(*submitted(shop, commands), return_exceptions=True)
    finally:
        async with shop.database.connection() as connection:
            await connection.execute("DROP FUNCTION unlucky CASCADE")
    ends = [
        (c, reason(r) if isinstance(r, BaseException) else "") for c, r in zip(commands, results, strict=True)
    ]
    unlucky = {c.member_id for c, said in ends if said == "CONTENTION"}
    assert {c.member_id for c, said in ends if said == "INSUFFICIENT_POINTS"} <= unlucky < set(few)
    assert {said for _, said in ends} <= {"", "CONTENTION", "INSUFFICIENT_POINTS"}
