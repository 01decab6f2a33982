"""Commands about one wallet through two committers at once, each with connections of its own."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis.asyncio
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.activity import PURCHASE
from server.domain.actor import Actor, CallerKind
from server.domain.commands import (
    CaptureHold,
    Command,
    Earn,
    Outcome,
    PlaceHold,
    Redeem,
    Refund,
    Return,
    Transfer,
    VoidHold,
)
from server.domain.errors import Refused
from server.operations.committer import Committer
from server.operations.programs import Programs
from server.operations.rules import Change, Rules
from server.store.database import Database
from tests.support.programs import new_program

LIMIT = 100
ROUNDS = 3
RULE = {
    "rule": "welcome",
    "then": [{"earn": {"points": 7, "per": "1.00"}}],
    "caps": {"member": {"points": LIMIT, "per": "ever"}},
}
# What a command of a race may be refused for.
EXPECTED = {
    "INSUFFICIENT_POINTS",
    "HOLD_NOT_OPEN",
    "REFUND_EXCEEDS_REDEMPTION",
    "RETURN_EXCEEDS_PURCHASE",
    "HOLD_EXCEEDED",
}


class Counters:
    """A program in which a member earns LIMIT points once and for all, and two committers."""

    def __init__(self, database: Database, actor: Actor, committers: Sequence[Committer]) -> None:
        self._database = database
        self._actor = actor
        self._committers = committers

    async def newcomer(self) -> UUID:
        """A member whose wallet nobody has touched."""
        member_id = uuid7()
        async with self._database.connection() as connection:
            await connection.execute(
                """INSERT INTO member (program_id, member_id, status, tier, joined_at)
                   VALUES ($1, $2, 'active', 'bronze', now())""",
                self._actor.program_id,
                member_id,
            )
        return member_id

    def command(self, kind: type[Command], member_id: UUID, **said: Any) -> Command:
        """A command of its own."""
        common: dict[str, Any] = {
            "actor": self._actor,
            "request_id": uuid4().hex,
            "received_at": datetime.now(UTC),
            "member_id": member_id,
            "member_given": str(member_id),
            **dict.fromkeys(("reference", "store", "channel", "part"), ""),
            "occurred_at": None,
            "business_date": None,
        }
        return kind(**{**common, **said})

    def purchase(self, member_id: UUID, rupees: int = 1) -> Command:
        """A purchase of so many rupees, 7 points each."""
        return self.command(Earn, member_id, event_type=PURCHASE, currency="INR", amount=Decimal(rupees))

    async def race(self, commands: Sequence[Command]) -> list[Outcome]:
        """All at once, by turns over the committers; those accepted. No surprise is among the rest."""
        deadline = asyncio.get_running_loop().time() + 30
        results = await asyncio.gather(
            *(self._committers[n % 2].submit(c, deadline) for n, c in enumerate(commands)),
            return_exceptions=True,
        )
        refused = [result for result in results if not isinstance(result, Outcome)]
        assert all(isinstance(result, Refused) for result in refused), refused
        assert {result.reason for result in refused if isinstance(result, Refused)} <= EXPECTED
        return [result for result in results if isinstance(result, Outcome)]

    async def figures(self, *members: UUID) -> list[tuple[int, int, int, int, int]]:
        """Balance, held, debt of each wallet; what its lots have left, and what of that they hold."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                """SELECT w.balance, w.held, w.debt, sum(l.remaining)::bigint, sum(l.held)::bigint
                     FROM unnest($1::uuid[]) WITH ORDINALITY AS asked(member_id, place)
                     JOIN wallet w USING (member_id) JOIN lot l USING (program_id, member_id)
                    GROUP BY w.balance, w.held, w.debt, place ORDER BY place""",
                members,
            )
        return [tuple(row) for row in rows]


@pytest.fixture
async def counters(
    database: Database, database_url: str, redis_url: str, secrets_file: Path
) -> AsyncIterator[Counters]:
    program = await new_program(database)
    hints = redis.asyncio.Redis.from_url(redis_url)
    actor = Actor(CallerKind.STAFF, program.program_id, uuid7(), "boss", "office", frozenset())
    rules = Rules(database, hints, Programs(), lambda: datetime.now(UTC))
    await rules.create(actor, RULE)
    await rules.publish(actor, Change({"welcome": 1}, frozenset(), 0))
    keys = secrets.load(secrets_file).ledger
    others = await Database.open(database_url, 3)
    # Small batches and two lanes each: so that four transactions contend.
    committers = [
        Committer(d, Programs(), keys, lambda: datetime.now(UTC), uuid7, batch_size=7, lanes=2)
        for d in (database, others)
    ]
    yield Counters(database, actor, committers)
    for committer in committers:
        await committer.close()
    await others.close()
    await hints.aclose()


async def test_a_hundred_first_touches_of_a_wallet_accept_no_more_than_the_limit(counters: Counters) -> None:
    for _ in range(ROUNDS):
        newcomer = await counters.newcomer()
        told = await counters.race([counters.purchase(newcomer) for _ in range(100)])
        assert len(told) == 100
        assert sum(outcome.points for outcome in told) == LIMIT
        assert max(outcome.balance for outcome in told) == LIMIT
        assert sorted(outcome.version for outcome in told) == list(range(2, 102))
        assert await counters.figures(newcomer) == [(LIMIT, 0, 0, LIMIT, 0)]


async def test_no_race_of_holds_spends_a_point_twice_or_loses_one(counters: Counters) -> None:
    source = random.Random(7)
    for _ in range(ROUNDS):
        member = await counters.newcomer()
        await counters.race([counters.purchase(member, 50)])
        first = [counters.command(PlaceHold, member, points=source.randint(1, 12)) for _ in range(20)]
        first += [counters.command(Redeem, member, points=source.randint(1, 12)) for _ in range(10)]
        source.shuffle(first)
        told = await counters.race(first)
        holds = [outcome.hold.hold_id for outcome in told if outcome.hold]
        spent = sum(outcome.points for outcome in told if not outcome.hold)
        assert sum(outcome.points for outcome in told) <= LIMIT
        # Each hold is captured in part, captured whole and voided, all at the same moment.
        then = [
            counters.command(kind, member, hold_id=hold, **said)
            for hold in holds
            for kind, said in (
                (CaptureHold, {"points": 1, "keep_rest": True}),
                (CaptureHold, {}),
                (CaptureHold, {"points": 2}),
                (VoidHold, {}),
            )
        ]
        then += [counters.command(Redeem, member, points=5) for _ in range(5)]
        source.shuffle(then)
        spent += sum(outcome.points for outcome in await counters.race(then) if outcome.awards)
        left = LIMIT - spent
        assert await counters.figures(member) == [(left, 0, 0, left, 0)]


async def test_what_was_bought_or_spent_once_comes_back_once(counters: Counters) -> None:
    for _ in range(ROUNDS):
        member = await counters.newcomer()
        [bought] = await counters.race([counters.purchase(member, 50)])
        [spent] = await counters.race([counters.command(Redeem, member, points=60)])
        refund = {"transaction_id": spent.awards[0].transaction_id}
        told = await counters.race([counters.command(Refund, member, points=7, **refund) for _ in range(20)])
        assert sum(outcome.points for outcome in told) == 7 * (60 // 7)
        give_back = {"event_id": bought.event_id, "purchase_given": str(bought.event_id)}
        told = await counters.race([counters.command(Return, member, **give_back) for _ in range(20)])
        assert [outcome.points for outcome in told] == [LIMIT]
        owed = 60 - 7 * (60 // 7)
        assert await counters.figures(member) == [(0, 0, owed, 0, 0)]


async def test_points_that_go_round_are_neither_lost_nor_made(counters: Counters) -> None:
    source = random.Random(8)
    members = [await counters.newcomer() for _ in range(4)]
    await counters.race([counters.purchase(member, 50) for member in members])
    transfers = []
    for _ in range(150):
        giver, getter = source.sample(members, 2)
        to = {"to_member_id": getter, "to_given": str(getter)}
        transfers.append(counters.command(Transfer, giver, points=source.randint(1, 90), **to))
    told = await counters.race(transfers)
    assert told
    figures = await counters.figures(*members)
    assert sum(balance for balance, *_ in figures) == LIMIT * len(members)
    assert all(balance == remaining >= 0 for balance, _, _, remaining, _ in figures)
