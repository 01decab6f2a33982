"""Random histories whose steps meet: the naive model agrees, in the order of the ledger."""

import asyncio
from collections.abc import Iterator, Sequence
from random import Random
from uuid import uuid4

import pytest

from server.domain.program import Clawback
from server.secrets import Keyring
from server.store.database import Database
from tests.server.model.database import InDatabase, founded
from tests.server.model.examples import EXAMPLES, noted
from tests.server.model.histories import TERMS, Step, chosen, program_of
from tests.server.model.naive import Naive
from tests.server.model.races import Pair, Race
from tests.server.model.runs import on_the_board, shown

# In each about twenty waves.
RACES = EXAMPLES // 10 or 8
INTO_HOMES = ("invite", "join")


@pytest.fixture(scope="module")
def databases(loop: asyncio.Runner, database_url: str) -> Iterator[list[Database]]:
    opened = [loop.run(Database.open(database_url, 3)) for _ in range(2)]
    yield opened
    for database in opened:
        loop.run(database.close())


# No two races go alike, so none can be made shorter.
@pytest.mark.parametrize("seed", range(RACES))
def test_what_two_committers_did_the_naive_model_does_in_the_order_of_the_ledger(
    loop: asyncio.Runner, in_database: InDatabase, databases: list[Database], keys: Keyring, seed: int
) -> None:
    loop.run(_raced(in_database, databases, keys, seed))


async def _raced(in_database: InDatabase, databases: list[Database], keys: Keyring, seed: int) -> None:
    source = Random(seed)
    policy = source.choice(TERMS), source.choice(TERMS), source.choice(list(Clawback))
    program = program_of(policy, uuid4())
    await founded(databases[0], program)
    race = Race(program, Naive(*policy), Pair(keys, databases, (seed + 1) << 64, source.choice((1, 3))))
    try:
        with noted(lambda: "\n".join([str(policy), *race.told])):
            for wave in _waves(chosen(source), source):
                sent = await race.wave(wave)
                recorded = await in_database.recorded(program)
                for told, should in race.replayed(sent, recorded):
                    assert told == should
                race.remember_invitations(await in_database.invitations(program))
                members = (await in_database.saved(program)).members
                assert shown(members, race.pools, program, race.now) == on_the_board(
                    race.naive.seen(race.now)
                )
            # Whatever comes again changes nothing, and is told what it was told.
            before = await in_database.saved(program)
            assert await race.all_again() == [o for o in race.outcomes if o is not None]
            assert await in_database.saved(program) == before
            assert await in_database.found_wrong(program) == []
    finally:
        await race.pair.close()


def _waves(history: Sequence[Step], source: Random) -> list[list[Step]]:
    """Four to ten steps each; fewer where there must be a household before others are asked in."""
    waves: list[list[Step]] = []
    size = 0
    for step in history:
        known = {other.what for other in waves[-1]} if waves else set()
        if not waves or len(waves[-1]) >= size or (step.what in INTO_HOMES and known & {*step.about}):
            waves.append([])
            size = source.randint(4, 10)
        waves[-1].append(step)
    return waves
