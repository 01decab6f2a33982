"""A shop whose clock a test sets: points come in on one day, and runs come along on another."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import redis.asyncio
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.activity import PURCHASE
from server.domain.actor import Actor, CallerKind
from server.domain.books import MemberState
from server.domain.commands import Command, Earn, Outcome, PlaceHold, Redeem
from server.domain.lots import Expiry, LotTerms, Until
from server.domain.program import LedgerTerms, Program
from server.operations.committer import Committer
from server.operations.programs import Programs
from server.operations.rules import Change, Rules
from server.operations.runs import Done, Runs
from server.operations.wallets import members_as_due
from server.store import ledger
from server.store.database import Database
from server.store.together import ask
from tests.support.programs import new_program

# Each rupee gives a point of each: ten days to spend it; spendable after five days; while one comes by.
TERMS = LedgerTerms(
    lots={
        "points": LotTerms(expiry=Expiry(Until.DAYS, 10)),
        "later": LotTerms(pending_days=5, expiry=Expiry(Until.DAYS, 40)),
        "rolling": LotTerms(expiry=Expiry(Until.ROLLING_DAYS, 20)),
    },
    warn_days=(7, 3),
)
RULES = [{"rule": name, "then": [{"earn": {"points": 1, "per": "1.00", "to": name}}]} for name in TERMS.lots]


class Clockwork:
    """A program, a committer and runs that all look at ``now``."""

    def __init__(self, database: Database, program: Program, keys: secrets.Keyring) -> None:
        self.database = database
        self.program = program
        self.now = datetime.now(UTC)
        self.keys = keys
        self.programs = Programs()
        self.committer = Committer(database, self.programs, keys, self.clock, uuid7)
        self._actor = Actor(
            CallerKind.TERMINAL, program.program_id, uuid7(), "till", "pos", frozenset({"points.accrue"})
        )

    def clock(self) -> datetime:
        """The time here."""
        return self.now

    def runs(self, **terms: Any) -> Runs:
        """Runs at this time, with snapshots of their own as in another process."""
        return Runs(self.database, Programs(), self.keys, self.clock, uuid7, **terms)

    async def catch_up(self, **terms: Any) -> Done:
        """One run, whole."""
        return await followed(self.runs(**terms).catch_up(self.program.program_id))

    async def warn(self, **terms: Any) -> Done:
        """One pass of warnings, whole."""
        return await followed(self.runs(**terms).warn(self.program.program_id))

    async def review(self, **terms: Any) -> Done:
        """One review of tiers, whole."""
        return await followed(self.runs(**terms).review(self.program.program_id))

    async def members(self, count: int) -> list[UUID]:
        """So many new members."""
        ids = [uuid7() for _ in range(count)]
        async with self.database.connection() as connection:
            await connection.execute(
                """INSERT INTO member (program_id, member_id, tier, joined_at)
                   SELECT $1, member_id, 'bronze', now() FROM unnest($2::uuid[]) AS member_id""",
                self.program.program_id,
                ids,
            )
        return ids

    async def customers(self, count: int, points: int = 100) -> list[UUID]:
        """So many members who have just earned so many points of each kind."""
        members = await self.members(count)
        for first in range(0, count, 2000):
            await self.together(self.purchase(m, points) for m in members[first : first + 2000])
        return members

    def purchase(self, member_id: UUID, rupees: int) -> Earn:
        """A purchase of so many rupees."""
        return Earn(
            **self._common(member_id, uuid4().hex),
            event_type=PURCHASE,
            currency="INR",
            amount=Decimal(rupees),
        )

    def redemption(self, member_id: UUID, points: int) -> Redeem:
        """A redemption of so many points."""
        return Redeem(**self._common(member_id), points=points)

    def reservation(self, member_id: UUID, points: int, seconds: int) -> PlaceHold:
        """A hold of so many points, for so long."""
        return PlaceHold(**self._common(member_id), points=points, seconds=seconds)

    def _common(self, member_id: UUID, reference: str = "") -> dict[str, Any]:
        return {
            "actor": self._actor,
            "request_id": uuid4().hex,
            "received_at": self.now,
            "member_id": member_id,
            "member_given": str(member_id),
            "reference": reference,
            "store": "",
            "channel": "",
            "occurred_at": None,
            "business_date": None,
            "part": "",
        }

    async def submit(self, command: Command) -> Outcome:
        """Commit one command."""
        return await self.committer.submit(command, asyncio.get_running_loop().time() + 60)

    async def together(self, commands: Iterable[Command]) -> list[Outcome]:
        """Commit commands that wait at the same moment. All must be accepted."""
        return await asyncio.gather(*(self.submit(command) for command in commands))

    async def shown(self, members: Sequence[UUID]) -> dict[UUID, dict[str, tuple[int, int, int, int]]]:
        """What members are told that they have: balance, pending, held and debt by wallet."""
        owners = [(self.program.program_id, member_id) for member_id in members]
        async with self.database.connection() as connection:
            found = await members_as_due(connection, self.programs, owners, self.now)
        return {
            owner[1]: {w.point_type: (w.balance, w.pending, w.held, w.debt) for w in state.wallets.values()}
            for owner, state in found.items()
        }

    async def states(self, members: Sequence[UUID]) -> dict[UUID, MemberState]:
        """Members with all their open lots and holds."""
        owners = {(self.program.program_id, member_id): True for member_id in members}
        async with self.database.connection() as connection:
            main = {self.program.program_id: self.program.main_point_type}
            wallets = ledger.wallets_of(owners, self.now)
            states, lots, holds = await ask(
                connection,
                ledger.members_known(wallets, main),
                ledger.lots_open(wallets),
                ledger.holds_open(wallets),
            )
        return {
            owner[1]: state._replace(lots=lots.get(owner, {}), holds=holds.get(owner, {}))
            for owner, state in states.items()
        }

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """What the tables say; $1 is the program."""
        async with self.database.connection() as connection:
            return await connection.fetch(query, self.program.program_id, *arguments)

    async def events(self, event_type: str) -> list[asyncpg.Record]:
        """Events of that type, the payload's figures beside the member."""
        return await self.rows(
            """SELECT member_id, payload ->> 'point_type' AS point_type, payload ->> 'points' AS points,
                      payload FROM event_log
                WHERE program_id = $1 AND event_type = $2 ORDER BY position""",
            event_type,
        )


async def followed(steps: Any) -> Done:
    """All that a run did."""
    total = Done()
    async with aclosing(steps):
        async for done in steps:
            total.add(done)
    return total


@asynccontextmanager
async def opened(
    database: Database, redis_url: str, secrets_file: Path, days_ago: float = 60, terms: LedgerTerms = TERMS
) -> AsyncIterator[Clockwork]:
    """Clockwork whose clock begins so many days ago."""
    program = await new_program(database, point_types=tuple(TERMS.lots), ledger=terms)
    shop = Clockwork(database, program, secrets.load(secrets_file).ledger)
    shop.now -= timedelta(days=days_ago)
    hints = redis.asyncio.Redis.from_url(redis_url)
    try:
        rules = Rules(database, hints, shop.programs, shop.clock)
        boss = Actor(CallerKind.STAFF, program.program_id, uuid7(), "boss", "office", frozenset())
        for rule in RULES:
            await rules.create(boss, rule)
        await rules.publish(boss, Change({rule["rule"]: 1 for rule in RULES}, frozenset(), 0))  # type: ignore[misc]
        yield shop
    finally:
        await shop.committer.close()
        await hints.aclose()


# Where a wallet doesn't follow from its rows, its lots from it, or a chain has a gap.
DISAGREEMENTS = """
    WITH moved AS (
        SELECT member_id, point_type, sequence, previous_hash, hash,
               lag(hash) OVER chain AS before, row_number() OVER chain AS place,
               points * CASE WHEN credit_account = 'wallet.balance' THEN 1
                             WHEN debit_account = 'wallet.balance' THEN -1 ELSE 0 END AS balance,
               points * CASE WHEN credit_account = 'wallet.pending' THEN 1
                             WHEN debit_account = 'wallet.pending' THEN -1 ELSE 0 END AS pending,
               points * CASE WHEN credit_account = 'wallet.held' THEN 1
                             WHEN debit_account = 'wallet.held' THEN -1 ELSE 0 END AS held
          FROM ledger_transaction WHERE program_id = $1
        WINDOW chain AS (PARTITION BY member_id, point_type ORDER BY sequence)),
    summed AS (SELECT member_id, point_type, sum(balance) AS balance, sum(pending) AS pending,
                      sum(held) AS held, max(sequence) AS sequence
                 FROM moved GROUP BY 1, 2),
    left_over AS (SELECT member_id, point_type,
                         coalesce(sum(remaining) FILTER (WHERE active), 0) AS active,
                         coalesce(sum(remaining) FILTER (WHERE NOT active), 0) AS inactive
                    FROM lot WHERE program_id = $1 GROUP BY 1, 2),
    drawn AS (SELECT member_id, lot_id, sum(a.points) AS points
                FROM allocation a JOIN ledger_transaction t USING (program_id, member_id, transaction_id)
               WHERE program_id = $1 AND kind IN ('REDEEM', 'EXPIRE', 'SETTLE', 'CAPTURE') GROUP BY 1, 2)
    SELECT 'chain' AS what, member_id, point_type FROM moved
     WHERE sequence <> place OR (place > 1 AND previous_hash <> before)
    UNION ALL
    SELECT 'wallet', member_id, point_type FROM wallet w LEFT JOIN summed s USING (member_id, point_type)
     WHERE w.program_id = $1
       AND (w.balance, w.pending, w.held, w.sequence)
           IS DISTINCT FROM (s.balance, s.pending, s.held, s.sequence)
    UNION ALL
    SELECT 'lots', member_id, point_type FROM wallet w LEFT JOIN left_over l USING (member_id, point_type)
     WHERE w.program_id = $1 AND (w.balance + w.held, w.pending) IS DISTINCT FROM (l.active, l.inactive)
    UNION ALL
    SELECT 'allocations', lot.member_id, lot.point_type
      FROM lot LEFT JOIN drawn USING (member_id, lot_id)
     WHERE program_id = $1 AND lot.points - lot.remaining <> coalesce(drawn.points, 0)"""
