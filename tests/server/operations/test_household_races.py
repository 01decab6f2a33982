"""Members of households through two committers at once: they spend, share, join and leave."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from server import secrets
from server.domain.commands import Command, Merge, Outcome, PlaceHold, Redeem, VoidHold
from server.domain.household_commands import Contribute, Dissolve, EndSeat, FormHousehold, Invite, Join
from server.operations.verify import Result, verify
from server.store.database import Database
from tests.support.counters import LIMIT, Counters, two_committers

ROUNDS = 3
# What a command of these races may be refused for.
EXPECTED = frozenset(
    {
        "INSUFFICIENT_POINTS",
        "HOUSEHOLD_NOT_FOUND",
        "INVITATION_NOT_FOUND",
        "ALREADY_IN_HOUSEHOLD",
        "TOO_MANY_INVITATIONS",
    }
)


class Homes:
    """Households, whose members do things at the same moment."""

    def __init__(self, counters: Counters, database: Database) -> None:
        self.counters, self.database = counters, database

    async def home(self, *others: UUID, contributes: bool = False) -> tuple[UUID, UUID]:
        """A household and its head, in which others sit too."""
        head = await self.counters.newcomer()
        [formed] = await self.race(self.counters.command(FormHousehold, head, contributes=contributes))
        assert formed.household_id is not None
        for member in others:
            [joined] = await self.race(await self.joining(member, formed.household_id, contributes))
            assert joined.household_id == formed.household_id
        return formed.household_id, head

    async def joining(self, member: UUID, household_id: UUID, contributes: bool = False) -> Command:
        """A command that takes a seat which waits for it."""
        token_hash = uuid4().bytes
        offer = {"household_id": household_id, "token_hash": token_hash, "may_spend": True}
        await self.race(self.counters.command(Invite, household_id, **offer))
        async with self.database.connection() as connection:
            invitation_id = await connection.fetchval(
                "SELECT invitation_id FROM household_invitation WHERE token_hash = $1", token_hash
            )
        taken = {"household_id": household_id, "invitation_id": invitation_id, "contributes": contributes}
        return self.counters.command(Join, member, **taken)

    async def race(self, *commands: Command) -> list[Outcome]:
        return await self.counters.race(commands, EXPECTED)

    async def held(self, *owners: UUID) -> int:
        """What they have altogether."""
        async with self.database.connection() as connection:
            found: int = await connection.fetchval(
                """SELECT coalesce(sum(balance + pending + held - debt), 0)::bigint FROM wallet
                    WHERE member_id = ANY($1::uuid[])""",
                owners,
            )
        return found

    async def given(self, *owners: UUID) -> int:
        """What the program gave them, less what they spent, by the rows alone."""
        async with self.database.connection() as connection:
            found: int = await connection.fetchval(
                """SELECT coalesce(sum(CASE WHEN debit_account = 'program.issuance' THEN points
                                            WHEN credit_account = 'program.redemption' THEN -points
                                            ELSE 0 END), 0)::bigint
                     FROM ledger_transaction WHERE member_id = ANY($1::uuid[])""",
                owners,
            )
        return found

    async def seats(self, *members: UUID) -> int:
        """How many open seats they have altogether."""
        async with self.database.connection() as connection:
            found: int = await connection.fetchval(
                "SELECT count(*) FROM seat WHERE left_at IS NULL AND member_id = ANY($1::uuid[])", members
            )
        return found


@pytest.fixture
async def homes(
    database: Database, database_url: str, redis_url: str, secrets_file: Path
) -> AsyncIterator[Homes]:
    async with two_committers(database, database_url, redis_url, secrets_file) as counters:
        yield Homes(counters, database)


async def test_those_who_spend_one_pool_at_once_spend_what_there_is_and_no_more(homes: Homes) -> None:
    command = homes.counters.command
    others = [await homes.counters.newcomer() for _ in range(7)]
    household_id, head = await homes.home(*others)
    for _ in range(ROUNDS):
        giver = await homes.counters.newcomer()
        await homes.race(homes.counters.purchase(giver, 50))
        await homes.race(await homes.joining(giver, household_id))
        await homes.race(command(Contribute, giver, points=LIMIT))
        before = await homes.held(household_id)
        # Batches of one member each, so that nothing but the pool's own lock keeps them apart.
        tries = [
            command(kind, who, points=7, from_household=True)
            for pair in batched([head, *others], 2)
            for kind in (Redeem, Redeem, Redeem, PlaceHold, PlaceHold, Redeem, Redeem)
            for who in pair
        ]
        told = await homes.race(*tries)
        holds = [outcome.hold.hold_id for outcome in told if outcome.hold]
        assert len(told) == before // 7
        assert await homes.held(household_id) == before - 7 * (len(told) - len(holds))
        await homes.race(*(command(VoidHold, household_id, hold_id=hold_id) for hold_id in holds))
        await homes.race(command(EndSeat, giver, household_id=household_id))


def batched(members: list[UUID], size: int) -> list[list[UUID]]:
    return [members[start : start + size] for start in range(0, len(members), size)]


async def test_a_member_who_joins_everywhere_at_once_sits_in_one_place(homes: Homes) -> None:
    places = [await homes.home() for _ in range(5)]
    ben = await homes.counters.newcomer()
    joins = [await homes.joining(ben, household_id) for household_id, _ in places for _ in range(20)]
    assert len(await homes.race(*joins)) == 1
    assert await homes.seats(ben) == 1


async def test_whoever_shops_gives_joins_and_leaves_at_once_loses_nothing(
    homes: Homes, secrets_file: Path
) -> None:
    source, command = random.Random(9), homes.counters.command
    family = [await homes.counters.newcomer() for _ in range(3)]
    places = [await homes.home(*family, contributes=True), await homes.home()]
    heads = [head for _, head in places]
    for _ in range(6):
        tries: list[Command] = []
        for who in (*family, *heads):
            tries += [homes.counters.purchase(who, source.randint(1, 3)) for _ in range(3)]
            tries += [
                command(Redeem, who, points=source.randint(1, 9), from_household=shared)
                for shared in (True, True, False)
            ]
            tries.append(command(Contribute, who, points=source.randint(1, 5)))
        for who in family:
            tries += [command(EndSeat, who, household_id=household_id) for household_id, _ in places]
            tries += [
                await homes.joining(who, household_id, source.random() < 0.5) for household_id, _ in places
            ]
        source.shuffle(tries)
        assert await homes.race(*tries)
        assert all([await homes.seats(who) <= 1 for who in family])
    for household_id, head in places:
        async with homes.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT member_id FROM seat WHERE household_id = $1 AND left_at IS NULL", household_id
            )
        sitting = tuple(row[0] for row in rows)
        assert head in sitting
        await homes.race(command(Dissolve, household_id, household_id=household_id, sitting=sitting))
        assert await homes.held(household_id) == 0
    assert await homes.held(*family, *heads) == await homes.given(*family, *heads, *(h for h, _ in places))
    keys = secrets.load(secrets_file).ledger.keys
    results = [step async for step in verify(homes.database, keys) if isinstance(step, Result)]
    assert [(r.check, f.problem) for r in results for f in r.findings] == []


async def test_who_left_and_was_merged_is_no_hindrance_to_who_dissolves(homes: Homes) -> None:
    command = homes.counters.command
    for into_head in (True, False):
        ben, other = await homes.counters.newcomer(), await homes.counters.newcomer()
        household_id, head = await homes.home(ben)
        # Ben was seen to sit there a moment ago.
        dissolves = command(Dissolve, household_id, household_id=household_id, sitting=(head, ben))
        await homes.race(command(EndSeat, ben, household_id=household_id))
        await homes.race(command(Merge, head if into_head else other, merged_member_id=ben))
        told = await homes.counters.race([dissolves], {"HOUSEHOLD_CHANGED"})
        assert (len(told), await homes.seats(head)) == ((1, 0) if into_head else (0, 1))
