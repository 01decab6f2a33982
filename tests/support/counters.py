"""A program with two committers, for commands that meet: each has connections of its own."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import redis.asyncio
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.activity import PURCHASE
from server.domain.actor import Actor, CallerKind
from server.domain.commands import Command, Earn, Outcome
from server.domain.errors import Refused
from server.operations.committer import Committer
from server.operations.programs import Programs
from server.operations.rules import Change, Rules
from server.store.database import Database
from tests.support.programs import new_program

LIMIT = 100
RULE = {
    "rule": "welcome",
    "then": [{"earn": {"points": 7, "per": "1.00"}}],
    "caps": {"member": {"points": LIMIT, "per": "ever"}},
}
# What a command of a race may be refused for.
EXPECTED = frozenset(
    {
        "INSUFFICIENT_POINTS",
        "HOLD_NOT_OPEN",
        "REFUND_EXCEEDS_REDEMPTION",
        "RETURN_EXCEEDS_PURCHASE",
        "HOLD_EXCEEDED",
    }
)


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

    async def race(self, commands: Sequence[Command], expected: Collection[str] = EXPECTED) -> list[Outcome]:
        """All at once, by turns over the committers; those accepted. No surprise is among the rest."""
        deadline = asyncio.get_running_loop().time() + 30
        results = await asyncio.gather(
            *(self._committers[n % 2].submit(c, deadline) for n, c in enumerate(commands)),
            return_exceptions=True,
        )
        refused = [result for result in results if not isinstance(result, Outcome)]
        assert all(isinstance(result, Refused) for result in refused), refused
        assert {result.reason for result in refused if isinstance(result, Refused)} <= set(expected)
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


@asynccontextmanager
async def two_committers(
    database: Database, database_url: str, redis_url: str, secrets_file: Path
) -> AsyncIterator[Counters]:
    """The program and its committers, for as long as the block lasts."""
    program = await new_program(database)
    hints = redis.asyncio.Redis.from_url(redis_url)
    actor = Actor(CallerKind.STAFF, program.program_id, uuid7(), "boss", "office", frozenset())
    rules = Rules(database, hints, Programs(), lambda: datetime.now(UTC))
    await rules.create(actor, RULE)
    await rules.publish(actor, Change({"welcome": 1}, frozenset(), 0))
    keys = secrets.load(secrets_file).ledger
    others = await Database.open(database_url, 3)
    # Small batches: so that several contend.
    committers = [
        Committer(d, Programs(), keys, lambda: datetime.now(UTC), uuid7, batch_size=7)
        for d in (database, others)
    ]
    yield Counters(database, actor, committers)
    for committer in committers:
        await committer.close()
    await others.close()
    await hints.aclose()
