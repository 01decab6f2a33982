"""The committer against a real database: what one command does to its neighbours."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import redis.asyncio
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.activity import PURCHASE
from server.domain.actor import Actor, CallerKind
from server.domain.commands import Command, Earn, Outcome, Redeem
from server.domain.errors import DeadlineExceeded, Refused, ResourceExhausted, Unavailable
from server.domain.program import Program
from server.operations.committer import Committer
from server.operations.programs import Programs
from server.operations.rules import Change, Rules
from server.store.database import Collided, Database, Undone
from tests.support.programs import new_program

BASE = {"rule": "base", "type": "earn", "then": [{"earn": {"points": 1, "per": "1.00"}}]}


class Shop:
    """A program with one rule, a point a rupee, and a committer of its own."""

    def __init__(self, database: Database, program: Program, committer: Committer) -> None:
        self.database = database
        self.program = program
        self.committer = committer
        self.actor = Actor(
            CallerKind.TERMINAL, program.program_id, uuid7(), "till", "pos", frozenset({"points.accrue"})
        )

    async def member(self, status: str = "active", balance: int = 0) -> UUID:
        """A member of that status; with a balance earned by one purchase."""
        member_id = uuid7()
        async with self.database.connection() as connection:
            await connection.execute(
                """INSERT INTO member (program_id, member_id, status, tier, joined_at)
                   VALUES ($1, $2, $3, 'bronze', now())""",
                self.program.program_id,
                member_id,
                status,
            )
        if balance:
            await self.submit(self.purchase(member_id, balance))
        return member_id

    def purchase(self, member_id: UUID, amount: int, **changes: Any) -> Earn:
        """A purchase of so many rupees."""
        said: dict[str, Any] = {
            "event_type": PURCHASE,
            "currency": "INR",
            "amount": Decimal(amount),
            "reference": uuid4().hex,
        }
        return Earn(**{**self.common(member_id), **said, **changes})

    def redemption(self, member_id: UUID, points: int, **changes: Any) -> Redeem:
        """A redemption of so many points."""
        return Redeem(**{**self.common(member_id), "points": points, **changes})

    def common(self, member_id: UUID) -> dict[str, Any]:
        """What every command says."""
        return {
            "actor": self.actor,
            "request_id": uuid4().hex,
            "received_at": datetime.now(UTC),
            "member_id": member_id,
            "member_given": str(member_id),
            "reference": "",
            "store": "",
            "channel": "",
            "occurred_at": None,
            "business_date": None,
            "part": "",
        }

    async def submit(self, command: Command, seconds: float = 20.0) -> Outcome:
        """Commit one command."""
        return await self.committer.submit(command, asyncio.get_running_loop().time() + seconds)

    async def together(self, commands: Iterable[Command]) -> list[Outcome | BaseException]:
        """Commit commands that wait at the same moment, and so share a batch."""
        return await asyncio.gather(*(self.submit(c) for c in commands), return_exceptions=True)

    async def balance(self, member_id: UUID) -> int:
        """What the wallet's row says."""
        async with self.database.connection() as connection:
            return (
                await connection.fetchval("SELECT balance FROM wallet WHERE member_id = $1", member_id) or 0
            )


@asynccontextmanager
async def opened(
    database: Database,
    redis_url: str,
    secrets_file: Path,
    program: Program | None = None,
    definitions: Sequence[Mapping[str, Any]] = (BASE,),
    **terms: Any,
) -> AsyncIterator[Shop]:
    """A shop whose committer is closed in the end."""
    program = program or await new_program(database)
    programs = Programs()
    hints = redis.asyncio.Redis.from_url(redis_url)
    rules = Rules(database, hints, programs, lambda: datetime.now(UTC))
    boss = Actor(CallerKind.STAFF, program.program_id, uuid7(), "boss", "office", frozenset())
    for definition in definitions:
        await rules.create(boss, definition)
    await rules.publish(boss, Change({d["rule"]: 1 for d in definitions}, frozenset(), 0))
    keys = secrets.load(secrets_file).ledger
    committer = Committer(database, programs, keys, lambda: datetime.now(UTC), uuid7, **terms)
    try:
        yield Shop(database, program, committer)
    finally:
        await committer.close()
        await hints.aclose()


@pytest.fixture
async def shop(database: Database, redis_url: str, secrets_file: Path) -> AsyncIterator[Shop]:
    """A shop with one lane, so that what waits together is one batch."""
    async with opened(database, redis_url, secrets_file) as shop:
        yield shop


def reason(result: Outcome | BaseException) -> str:
    """The reason of a refusal, "" for a success."""
    return result.reason if isinstance(result, Refused) else ""


@asynccontextmanager
async def sabotaged(shop: Shop, condition: str) -> AsyncIterator[None]:
    """The database fails with this error at every purchase whose reference is `unlucky`."""
    async with shop.database.connection() as connection:
        await connection.execute(
            f"""CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN RAISE EXCEPTION 'no luck' USING ERRCODE = '{condition}'; END $$;
               CREATE TRIGGER sabotage BEFORE INSERT ON ledger_transaction FOR EACH ROW
               WHEN (NEW.order_reference = 'unlucky') EXECUTE FUNCTION sabotage()"""
        )
    try:
        yield
    finally:
        async with shop.database.connection() as connection:
            await connection.execute("DROP FUNCTION sabotage CASCADE")


@pytest.mark.parametrize(
    ("condition", "end", "seconds"),
    [
        ("check_violation", asyncpg.CheckViolationError, 20),
        ("deadlock_detected", Collided, 20),
        ("query_canceled", Undone, 20),
        # Such a command is tried again until its time is over.
        ("lock_not_available", DeadlineExceeded, 2),
    ],
)
async def test_a_database_error_ends_with_the_command_that_caused_it(
    shop: Shop, condition: str, end: type[Exception], seconds: float
) -> None:
    members = [await shop.member() for _ in range(20)]
    commands = [shop.purchase(m, 7) for m in members]
    commands[13] = shop.purchase(members[13], 7, reference="unlucky")
    async with sabotaged(shop, condition):
        results = await asyncio.gather(
            *(shop.submit(c, seconds if n == 13 else 20) for n, c in enumerate(commands)),
            return_exceptions=True,
        )

    assert type(results[13]) is end
    assert all(isinstance(r, Outcome) for n, r in enumerate(results) if n != 13)
    assert [await shop.balance(m) for m in members] == [7] * 13 + [0] + [7] * 6
    # A refused command may be tried again, under the same request_id.
    assert (await shop.submit(commands[13])).points == 7


async def test_commands_of_one_batch_see_each_other(shop: Shop) -> None:
    member_id = await shop.member()
    purchase = shop.purchase(member_id, 100)
    results = await shop.together(
        [purchase, shop.redemption(member_id, 60), shop.redemption(member_id, 60), purchase]
    )
    earned, spent, refused, again = results
    assert isinstance(earned, Outcome)
    assert isinstance(spent, Outcome)
    assert (earned.balance, spent.balance) == (100, 40)
    assert reason(refused) == "INSUFFICIENT_POINTS"
    assert again == earned
    assert await shop.balance(member_id) == 40


async def test_a_caller_who_leaves_while_it_waits_takes_its_command_along(shop: Shop) -> None:
    member_id = await shop.member()
    leaving = asyncio.ensure_future(shop.submit(shop.purchase(member_id, 3)))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await shop.submit(shop.purchase(member_id, 4))).balance == 4


async def test_what_is_past_its_deadline_is_not_begun(shop: Shop) -> None:
    member_id = await shop.member()
    with pytest.raises(DeadlineExceeded):
        await shop.submit(shop.purchase(member_id, 3), seconds=-1)
    assert await shop.balance(member_id) == 0


@pytest.mark.parametrize("lane", ["committer", "committer-aside"])
async def test_where_nobody_commits_any_more_nobody_waits(
    database: Database, redis_url: str, secrets_file: Path, lane: str
) -> None:
    others = asyncio.all_tasks()
    async with opened(database, redis_url, secrets_file) as shop:
        member_id = await shop.member()
        assert await shop.committer.check() == ""
        [task] = [task for task in asyncio.all_tasks() - others if task.get_name() == lane]
        task.cancel()
        await asyncio.wait([task])
        assert "start this process again" in await shop.committer.check()
        with pytest.raises(Unavailable):
            await shop.submit(shop.purchase(member_id, 7))


async def test_whoever_waits_as_the_committer_breaks_is_told_at_once(
    database: Database, redis_url: str, secrets_file: Path
) -> None:
    others = asyncio.all_tasks()
    async with opened(database, redis_url, secrets_file) as shop:
        member_id = await shop.member()
        [lane] = [task for task in asyncio.all_tasks() - others if task.get_name() == "committer"]
        waits = asyncio.create_task(shop.submit(shop.purchase(member_id, 7)))
        await asyncio.sleep(0)
        lane.cancel()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(waits, 1)
        assert shop.committer.broken.is_set()


async def test_too_many_waiting_are_refused_at_once_with_a_time_to_come_back(
    database: Database, redis_url: str, secrets_file: Path
) -> None:
    async with opened(database, redis_url, secrets_file, queue_size=5) as shop:
        member_id = await shop.member()
        results = await shop.together(shop.purchase(member_id, 1) for _ in range(12))
        refused = [r for r in results if isinstance(r, ResourceExhausted)]
        assert len(refused) == 7
        assert all(r.reason == "OVERLOADED" and r.retry_after_seconds for r in refused)
        assert await shop.balance(member_id) == 5


async def test_the_ledger_refuses_change_even_by_its_owner(shop: Shop) -> None:
    member_id = await shop.member(balance=5)
    for statement in (
        "UPDATE ledger_transaction SET points = 500 WHERE member_id = $1",
        "DELETE FROM ledger_transaction WHERE member_id = $1",
        "DELETE FROM event_log WHERE member_id = $1",
        "UPDATE business_key SET part = 'x' WHERE member_id = $1",
    ):
        async with shop.database.connection() as connection:
            with pytest.raises(asyncpg.RestrictViolationError):
                await connection.execute(statement, member_id)
    async with shop.database.connection() as connection:
        with pytest.raises(asyncpg.RestrictViolationError):
            await connection.execute("TRUNCATE ledger_transaction")
