import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from server.domain.actor import Actor, CallerKind
from server.domain.errors import InvalidArgument, ResourceExhausted, Unauthenticated, Unavailable
from server.domain.program import Program
from server.operations import credentials
from server.operations.credentials import Credentials
from server.store.database import Database
from tests.support.programs import new_key, new_program

SCOPES = {
    "members.read",
    "members.write",
    "members.list",
    "points.accrue",
    "points.redeem",
    "points.return",
    "points.read",
    "reports.read",
    "schedules.read",
    "templates.read",
    "households.read",
    "households.write",
    "x.y",
}
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def program(database: Database) -> Program:
    return await new_program(database)


class Clocks:
    """A wall clock and a monotonic one that go on together, when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wall(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class Flaky:
    """The real database, counted, which can be cut off."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.lookups = 0
        self.away = False

    def connection(self) -> object:
        self.lookups += 1
        if self.away:
            raise Unavailable("STORAGE_UNAVAILABLE", "away")
        return self._database.connection()


def verifier(flaky: Flaky, clocks: Clocks, cache_seconds: float = 20.0) -> Credentials:
    return Credentials(flaky, clocks.wall, cache_seconds, clocks.monotonic)  # type: ignore[arg-type]


async def create(database: Database, program: Program, kind: CallerKind, **wishes: object) -> frozenset[str]:
    wishes = {"name": uuid4().hex, "declared_scopes": SCOPES, "now": START, **wishes}
    made, _ = await credentials.create(database, program.program_id, kind, **wishes)  # type: ignore[arg-type]
    return made.scopes


async def test_a_key_can_be_found_by_scanners_and_its_secret_is_not_kept(
    database: Database, program: Program
) -> None:
    key = await new_key(database, program, CallerKind.TERMINAL)
    assert re.fullmatch(r"lrl_[0-9a-f]{32}_[a-z2-7]{52}", key)
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT credential::text FROM credential")
    secret = key.rpartition("_")[2]
    assert rows
    assert not [row for row in rows if secret in row[0] or secret.encode().hex() in row[0]]


async def test_each_kind_gets_the_scopes_it_works_with(database: Database, program: Program) -> None:
    terminal = await create(database, program, CallerKind.TERMINAL)
    sells = {"points.accrue", "points.redeem", "points.return"}
    assert terminal == {"members.read", "members.write", "points.read", "households.read", *sells}
    assert await create(database, program, CallerKind.SERVICE) == SCOPES
    staff = await create(database, program, CallerKind.STAFF, declared_scopes={*SCOPES, "rules.read"})
    assert staff == {
        "members.read",
        "members.write",
        "members.list",
        "points.read",
        "reports.read",
        "rules.read",
        "schedules.read",
        "templates.read",
        "households.read",
        "households.write",
    }


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"scopes": ["points.mint"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["points.read", "nothing.*"]}, "scopes"),
        ({"name": ""}, "name"),
        ({"name": "till 7"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"source_system": "a\0b"}, "source_system"),
        ({"store_id": "a\0b"}, "store"),
        ({"expires_at": START}, "expires_at"),
        ({"expires_at": datetime(2030, 1, 1)}, "expires_at"),
    ],
)
async def test_a_key_that_makes_no_sense_is_not_made(
    database: Database, program: Program, wishes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await create(database, program, CallerKind.SERVICE, **wishes)
    assert field in {violation.field for violation in caught.value.violations}


async def test_a_member_or_the_public_holds_no_key(database: Database, program: Program) -> None:
    for kind in (CallerKind.MEMBER, CallerKind.PUBLIC):
        with pytest.raises(InvalidArgument):
            await create(database, program, kind, scopes=["points.read"])


async def test_a_name_is_free_again_once_its_key_is_revoked(database: Database, program: Program) -> None:
    await create(database, program, CallerKind.SERVICE, name="crm")
    with pytest.raises(InvalidArgument):
        await create(database, program, CallerKind.SERVICE, name="crm")
    await credentials.revoke(database, program.program_id, "crm", START)
    await create(database, program, CallerKind.SERVICE, name="crm")
    kept = await credentials.listed(database, program.program_id)
    assert [(c.name, c.revoked_at) for c in kept] == [("crm", START), ("crm", None)]


async def test_only_a_key_of_the_program_can_be_revoked(database: Database, program: Program) -> None:
    other = await new_program(database)
    await create(database, other, CallerKind.SERVICE, name="crm")
    with pytest.raises(InvalidArgument):
        await credentials.revoke(database, program.program_id, "crm", START)


async def test_a_known_key_costs_no_look_up_until_its_time_is_over(
    database: Database, program: Program
) -> None:
    flaky, clocks = Flaky(database), Clocks()
    known = verifier(flaky, clocks, 20.0)
    key = await new_key(database, program, CallerKind.SERVICE)
    for seconds, lookups in ((0, 1), (19, 1), (21, 2), (40, 2)):
        clocks.seconds = seconds
        assert (await known.verify(key)).program_id == program.program_id
        assert flaky.lookups == lookups


async def test_while_the_database_is_away_known_keys_work_until_their_time_is_over(
    database: Database, program: Program
) -> None:
    flaky, clocks = Flaky(database), Clocks()
    known = verifier(flaky, clocks, 20.0)
    key, stranger = [await new_key(database, program, CallerKind.SERVICE) for _ in range(2)]
    await known.verify(key)
    flaky.away = True
    clocks.seconds = 19
    await known.verify(key)
    with pytest.raises(Unavailable):
        await known.verify(stranger)
    clocks.seconds = 21
    with pytest.raises(Unavailable):
        await known.verify(key)
    flaky.away = False
    await known.verify(key)
    await known.verify(stranger)


async def test_a_key_is_never_trusted_beyond_its_expiry(database: Database, program: Program) -> None:
    flaky, clocks = Flaky(database), Clocks()
    known = verifier(flaky, clocks, 60.0)
    key = await new_key(
        database, program, CallerKind.SERVICE, expires_at=datetime.now(UTC) + timedelta(seconds=30)
    )
    await known.verify(key)
    flaky.away = True
    clocks.seconds = 29
    await known.verify(key)
    flaky.away = False
    clocks.seconds = 31
    with pytest.raises(Unauthenticated):
        await known.verify(key)


async def test_fifty_callers_with_one_new_key_share_one_look_up(database: Database, program: Program) -> None:
    flaky = Flaky(database)
    known = verifier(flaky, Clocks())
    key = await new_key(database, program, CallerKind.SERVICE)
    actors = await asyncio.gather(*(known.verify(key) for _ in range(50)))
    assert len(set(actors)) == 1
    assert flaky.lookups == 1


async def test_who_gives_up_does_not_take_the_look_up_from_the_others(
    database: Database, program: Program
) -> None:
    known = verifier(Flaky(database), Clocks())
    key = await new_key(database, program, CallerKind.SERVICE)
    first, second = asyncio.create_task(known.verify(key)), asyncio.create_task(known.verify(key))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).program_id == program.program_id


async def test_a_wrong_key_is_looked_up_once_and_garbage_never(database: Database, program: Program) -> None:
    flaky, clocks = Flaky(database), Clocks()
    known = verifier(flaky, clocks)
    wrong = (await new_key(database, program, CallerKind.SERVICE))[:-2] + "aa"
    for key in (wrong, wrong, "", "lrl", "lrl_x_y", "é" * 90, "\ud800", "x" * 100_000):
        with pytest.raises(Unauthenticated):
            await known.verify(key)
    assert flaky.lookups == 1


async def test_a_key_made_after_it_was_tried_works_once_the_refusal_is_forgotten(
    database: Database, program: Program
) -> None:
    clocks = Clocks()
    known = verifier(Flaky(database), clocks)
    key = await new_key(database, program, CallerKind.SERVICE)
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE credential SET revoked_at = now() WHERE program_id = $1", program.program_id
        )
        with pytest.raises(Unauthenticated):
            await known.verify(key)
        await connection.execute(
            "UPDATE credential SET revoked_at = NULL WHERE program_id = $1", program.program_id
        )
    clocks.seconds = credentials.REFUSED_SECONDS + 1
    await known.verify(key)


async def test_a_flood_of_invented_keys_is_turned_away_while_known_ones_pass(
    database: Database, program: Program
) -> None:
    flaky, clocks = Flaky(database), Clocks()
    known = verifier(flaky, clocks, 1.0)
    key = await new_key(database, program, CallerKind.SERVICE)
    await known.verify(key)
    clocks.seconds = 2.0

    def invented() -> str:
        return f"lrl_{uuid4().hex}_{'a' * 52}"

    async def outcome(attempt: Callable[[], object]) -> type[BaseException] | None:
        try:
            await attempt()  # type: ignore[misc]
        except (Unauthenticated, ResourceExhausted) as refused:
            return type(refused)
        return None

    flood = [asyncio.create_task(outcome(lambda: known.verify(invented()))) for _ in range(1000)]
    await asyncio.sleep(0)
    actor: Actor = await known.verify(key)
    assert actor.program_id == program.program_id
    assert sum(task.done() for task in flood) < 1000, "the known key waited for the flood to be over"
    outcomes = await asyncio.gather(*flood)
    assert set(outcomes) == {Unauthenticated, ResourceExhausted}
    assert flaky.lookups <= 2 + credentials.STRANGERS_WAITING
