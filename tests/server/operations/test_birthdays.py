"""Birthdays against a real database: each is told once a year, of whom agreed, and nothing else is told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from google.type import date_pb2
from loyalty.v1 import member_pb2
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from server import secrets
from server.operations.birthdays import Birthdays
from server.operations.programs import Programs
from server.store.sealing import Sealer
from tests.support.programs import new_program
from tests.support.servers import Laurel, started

# Noon of the 24th in Kolkata, where the program's calendar is.
NOW = datetime(2026, 11, 24, 6, 30, tzinfo=UTC)


@pytest.fixture
async def shop(laurel: Laurel) -> AsyncIterator[Laurel]:
    """Members that no other test has."""
    async with started(laurel.settings, laurel.database, await new_program(laurel.database)) as shop:
        yield shop


async def born(shop: Laurel, year: int, month: int, day: int, *purposes: str) -> UUID:
    """A new member, who agreed to these purposes."""
    email = f"{uuid4().hex}@example.com"
    birth = date_pb2.Date(year=year, month=month, day=day)
    member_id = await shop.register(email=email, birth_date=birth)
    for purpose in purposes:
        await decide(shop, member_id, purpose, True)
    return UUID(member_id)


async def decide(shop: Laurel, member_id: str | UUID, purpose: str, granted: bool) -> None:
    request = member_pb2.RecordConsentRequest(
        request_id=uuid4().hex,
        member_id=str(member_id),
        consent=member_pb2.Consent(purpose=purpose, granted=granted, policy_version="1", channel="web"),
    )
    await shop.service.members.RecordConsent(request)


def passes(shop: Laurel, now: datetime, page_size: int = 500) -> Birthdays:
    """As another process would make one at this time."""
    keys = secrets.load(shop.settings.secrets_file)
    return Birthdays(shop.database, Sealer(keys), Programs(), lambda: now, uuid7, page_size)


async def tell(
    shop: Laurel, now: datetime = NOW, since: datetime | None = None, page_size: int = 500
) -> Sequence[UUID]:
    told: list[UUID] = []
    async with aclosing(passes(shop, now, page_size).tell(shop.program.program_id, since)) as steps:
        async for step in steps:
            told += step.told
    return told


async def logged(shop: Laurel) -> list[tuple[UUID, datetime, str]]:
    async with shop.database.connection() as connection:
        rows = await connection.fetch(
            """SELECT member_id, occurred_at, payload FROM event_log
                WHERE program_id = $1 AND event_type = 'member.birthday' ORDER BY position""",
            shop.program.program_id,
        )
    return [tuple(row) for row in rows]


async def test_the_log_is_told_of_whose_day_it_is_once_a_year(shop: Laurel) -> None:
    ann = await born(shop, 1990, 11, 24, "marketing")
    ben = await born(shop, 1971, 11, 24, "marketing.email")
    await born(shop, 1990, 11, 25, "marketing")
    await born(shop, 1990, 10, 24, "marketing")
    await shop.register(email=f"{uuid4().hex}@example.com")
    assert set(await tell(shop)) == {ann, ben}
    assert await tell(shop) == []
    midnight = datetime(2026, 11, 23, 18, 30, tzinfo=UTC)
    assert sorted(await logged(shop)) == sorted((who, midnight, "{}") for who in (ann, ben))
    next_year = NOW.replace(year=2027)
    assert set(await tell(shop, next_year)) == {ann, ben}


async def test_the_day_is_that_of_the_programs_calendar(shop: Laurel) -> None:
    ann = await born(shop, 1990, 11, 25, "marketing")
    assert await tell(shop, datetime(2026, 11, 24, 18, 29, tzinfo=UTC)) == []
    assert await tell(shop, datetime(2026, 11, 24, 18, 31, tzinfo=UTC)) == [ann]


async def test_of_who_did_not_agree_or_left_the_log_learns_nothing(shop: Laurel) -> None:
    await born(shop, 1990, 11, 24)
    await born(shop, 1990, 11, 24, "profiling")
    withdrew = await born(shop, 1990, 11, 24, "marketing")
    await decide(shop, withdrew, "marketing", False)
    left = await born(shop, 1990, 11, 24, "marketing")
    await shop.staff.members.CloseMember(
        member_pb2.CloseMemberRequest(request_id=uuid4().hex, member_id=str(left), reason="left")
    )
    assert await tell(shop) == []
    # Who agrees later in the day is told of by the next pass, if there is one.
    await decide(shop, withdrew, "marketing", True)
    assert await tell(shop) == [withdrew]


async def test_passes_at_once_tell_each_once(shop: Laurel) -> None:
    members = {await born(shop, 1980 + n, 11, 24, "marketing") for n in range(9)}
    results = await asyncio.gather(*(tell(shop, page_size=size) for size in (2, 3, 4, 500)))
    told = [member for found in results for member in found]
    assert len(told) == 9
    assert set(told) == members == {who for who, *_ in await logged(shop)}


async def test_a_pass_that_is_cut_off_is_made_whole_by_the_next(shop: Laurel) -> None:
    members = {await born(shop, 1990, 11, 24, "marketing") for _ in range(5)}
    steps = passes(shop, NOW, 2).tell(shop.program.program_id, None)
    first = await anext(steps)
    await steps.aclose()
    assert len(first.told) == 2
    assert {*first.told, *await tell(shop)} == members
    assert len(await logged(shop)) == 5


async def test_days_on_which_nothing_ran_are_made_up_for_over_the_turn_of_the_year(shop: Laurel) -> None:
    ann = await born(shop, 1990, 12, 31, "marketing")
    ben = await born(shop, 1990, 1, 2, "marketing")
    await born(shop, 1990, 12, 29, "marketing")
    since = datetime(2026, 12, 29, 18, 30, tzinfo=UTC)  # the 30th begins in Kolkata
    now = datetime(2027, 1, 2, 6, 30, tzinfo=UTC)
    assert set(await tell(shop, now, since)) == {ann, ben}
    assert {who: at.date().isoformat() for who, at, _ in await logged(shop)} == {
        ann: "2026-12-30",  # in UTC
        ben: "2027-01-01",
    }
    assert await tell(shop, now + timedelta(days=1), since) == []
    # The one of the old year is no reason to pass over the next.
    assert await tell(shop, datetime(2027, 12, 31, 6, 30, tzinfo=UTC)) == [ann]


async def test_who_can_not_be_read_keeps_nobody_else_waiting(shop: Laurel) -> None:
    broken = await born(shop, 1990, 11, 24, "marketing")
    ann = await born(shop, 1990, 11, 24, "marketing")
    async with shop.database.connection() as connection:
        await connection.execute("UPDATE member_profile SET sealed = 'x' WHERE member_id = $1", broken)
    with capture_logs() as lines:
        assert await tell(shop) == [ann]
    assert [line["event"] for line in lines] == ["birthday_not_read"]
    assert "1990" not in str(lines)
