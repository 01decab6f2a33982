"""Reads show what the clock has done to wallets, whether or not anybody has written it down."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from server import secrets
from server.domain.actor import Actor, CallerKind
from server.domain.ledger import Wallet
from server.domain.lots import Expiry, LotTerms, Until
from server.domain.members import Profile
from server.domain.outlook import Outlook
from server.domain.program import LedgerTerms
from server.operations import program_terms
from server.operations.members import Members
from server.operations.points import Points
from server.operations.programs import Programs
from server.store.database import Database
from server.store.sealing import Sealer
from tests.support.clocks import Clockwork, opened

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
# The other wallets of the shop live at once and for ever.
TERMS = LedgerTerms({"points": LotTerms(2, expiry=Expiry(Until.MONTHS, 1))})


@pytest.fixture
async def shop(database: Database, redis_url: str, secrets_file: Path) -> AsyncIterator[Clockwork]:
    async with opened(database, redis_url, secrets_file, terms=TERMS) as shop:
        shop.now = NOON
        yield shop


class Reader:
    """A process that has just started, and a member of the shop whom it reads."""

    def __init__(self, shop: Clockwork, secrets_file: Path) -> None:
        self._shop = shop
        self._sealer = Sealer(secrets.load(secrets_file))
        self.member_id = UUID(int=0)

    def _members(self) -> Members:
        return Members(self._shop.database, self._sealer, Programs(), self._shop.clock)

    async def join(self) -> UUID:
        """Register the member."""
        program_id = self._shop.program.program_id
        boss = Actor(CallerKind.SERVICE, program_id, uuid7(), "shop", "shop", frozenset())
        profile = Profile(email=f"{uuid4().hex}@example.com")
        self.member_id = (await self._members().register(boss, uuid4().hex, profile)).member_id
        return self.member_id

    async def shown(self) -> tuple[tuple[int, int, int], Outlook]:
        """Balance, pending and held as GetBalance, GetMember and ListMembers all show them."""
        shop, program_id = self._shop, self._shop.program.program_id
        nowhere: Any = None  # no summaries: nobody asks for what was seen
        points = Points(shop.database, self._sealer, Programs(), shop.committer, nowhere, shop.clock)
        *_, held = await points.balance(program_id, self.member_id)
        wallet, coming = held.wallet("points")
        single = await self._members().get(program_id, self.member_id)
        [listed], _ = await self._members().page(program_id, after=None, size=5, status=None, tier="")
        told = {figures(wallet), figures(single.wallets[0]), figures(listed.wallets[0])}
        assert len(told) == 1, told
        later, coming_later = held.wallet("later")
        assert coming_later == Outlook(never_expiring=later.balance)
        return told.pop(), coming

    async def written(self) -> tuple[int, int, int]:
        """The same as the wallet's row says."""
        state = (await self._shop.states([self.member_id]))[self.member_id]
        return figures(state.wallet("points"))


def figures(wallet: Wallet) -> tuple[int, int, int]:
    return wallet.balance, wallet.pending, wallet.held


@pytest.fixture
async def reader(shop: Clockwork, secrets_file: Path) -> Reader:
    reader = Reader(shop, secrets_file)
    await reader.join()
    return reader


async def end_terms(shop: Clockwork) -> None:
    """From now on, new points live at once and for ever."""
    await program_terms.change(
        shop.database,
        shop.program.name,
        step_up_redeem_points=None,
        ledger=lambda program: replace(program.ledger, lots={}),
        notifications=lambda terms: terms,
    )


@pytest.mark.parametrize("terms_go_on", [True, False])
async def test_reads_do_what_is_due_and_write_nothing(
    shop: Clockwork, reader: Reader, terms_go_on: bool
) -> None:
    ann = reader.member_id
    await shop.submit(shop.purchase(ann, 100))
    if not terms_go_on:
        await end_terms(shop)
    assert (await reader.shown())[0] == await reader.written() == (0, 100, 0)

    # Kolkata is five and a half hours ahead: its midnight is 18:30.
    shop.now = datetime(2026, 11, 24, 18, 29, tzinfo=UTC)
    figures, coming = await reader.shown()
    assert figures == (0, 100, 0)
    assert coming.activating == ((100, datetime(2026, 11, 24, 18, 30, tzinfo=UTC), ""),)
    shop.now += timedelta(minutes=1)
    figures, coming = await reader.shown()
    assert figures == (100, 0, 0)
    assert coming.expiring == ((100, datetime(2026, 12, 31, 18, 30, tzinfo=UTC)),)
    assert await reader.written() == (0, 100, 0)

    # Whoever spends them finds them as they were shown.
    await shop.submit(shop.redemption(ann, 40))
    await shop.submit(shop.reservation(ann, 25, seconds=600))
    assert (await reader.shown())[0] == await reader.written() == (35, 0, 25)
    shop.now += timedelta(seconds=600)
    assert (await reader.shown())[0] == (60, 0, 0)
    assert await reader.written() == (35, 0, 25)

    shop.now = datetime(2026, 12, 31, 18, 30, tzinfo=UTC)
    assert await reader.shown() == ((0, 0, 0), Outlook())
    assert await reader.written() == (35, 0, 25)
    await shop.submit(shop.purchase(ann, 7))
    assert (await reader.shown())[0] == await reader.written() == ((0, 7, 0) if terms_go_on else (7, 0, 0))


async def test_points_that_live_for_ever_are_shown_as_such(shop: Clockwork, reader: Reader) -> None:
    await end_terms(shop)
    await shop.submit(shop.purchase(reader.member_id, 100))
    shop.now += timedelta(days=4000)
    assert await reader.shown() == ((100, 0, 0), Outlook(never_expiring=100))
