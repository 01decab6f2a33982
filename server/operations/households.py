"""Households as they stand in the books, and what is looked up before the committer changes them."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from server.domain.actor import Actor
from server.domain.commands import Outcome
from server.domain.due import as_due
from server.domain.errors import Aborted
from server.domain.household_commands import Dissolve
from server.domain.households import Household, Invitation, Seat, no_household, no_invitation
from server.domain.ledger import Wallet
from server.operations.committer import Committer
from server.operations.programs import Programs
from server.store import households as store
from server.store import ledger, merges
from server.store.database import Connection, Database
from server.store.keys import RequestKey
from server.store.sealing import Sealer
from server.store.together import ask

# Of a household in which others join and leave while it is dissolved.
ATTEMPTS = 5

Shares = Mapping[UUID, Mapping[str, int]]  # by member and point type


@dataclass(frozen=True, slots=True)
class Shown:
    """A household with its pool as it is now; ``seats`` are those that it has and had, in order of joining.

    ``shares``: what is left of what each member gave and no hold reserves.
    """

    household: Household
    seats: list[Seat]
    wallets: list[Wallet]
    version: int
    shares: Shares

    @property
    def sitting(self) -> tuple[UUID, ...]:
        """Who sits there."""
        return tuple(seat.member_id for seat in self.seats if seat.left_at is None)


class Households:
    """What can be asked of them. ``clock`` tells the time, aware, in UTC."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        programs: Programs,
        committer: Committer,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._programs = programs
        self._committer = committer
        self._clock = clock

    async def get(self, program_id: UUID, household_id: UUID) -> Shown:
        """The household, dissolved or not. Raises NotFound."""
        async with self._database.connection() as connection:
            household = await store.get(connection, program_id, household_id)
            if household is None:
                raise no_household()
            return await self._shown(connection, program_id, household)

    async def of_member(self, program_id: UUID, member_id: UUID) -> Shown:
        """The household in which a member sits, or whoever lives on instead. Raises NotFound."""
        member_id = await self.living(program_id, member_id)
        async with self._database.connection() as connection:
            seat = await store.seat_of(connection, program_id, member_id)
        if seat is None:
            raise no_household()
        return await self.get(program_id, seat.household_id)

    async def living(self, program_id: UUID, member_id: UUID) -> UUID:
        """The member, or whoever lives on instead. It stays so for whoever sits: that one is not merged."""
        wanted = (program_id, member_id)
        async with self._database.connection() as connection:
            return (await merges.survivors(connection, [wanted])).get(wanted, member_id)

    async def page(
        self, program_id: UUID, *, before: UUID | None, size: int, dissolved: bool
    ) -> tuple[list[tuple[Household, list[Seat]]], bool]:
        """At most ``size`` before that id, newest first, with their seats; and whether there are more."""
        async with self._database.connection() as connection:
            found = await store.page(
                connection, program_id, before=before, size=size + 1, dissolved=dissolved
            )
            seats = await store.seats(connection, program_id, [h.household_id for h in found[:size]])
        return [
            (h, [seat for seat in seats if seat.household_id == h.household_id]) for h in found[:size]
        ], len(found) > size

    def token(self, actor: Actor, request_id: str) -> tuple[str, bytes]:
        """The token of an invitation that this request makes, and what is kept of it."""
        token = self._sealer.invitation_token(RequestKey(actor.program_id, actor.source_system, request_id))
        return token, _kept(token)

    async def invitation(self, program_id: UUID, token: str) -> Invitation:
        """The invitation with that token, whatever became of it. Raises NotFound."""
        async with self._database.connection() as connection:
            found = await store.invitation(connection, program_id, _kept(token))
        if found is None:
            raise no_invitation()
        return found

    async def dissolve(self, command: Dissolve, deadline: float) -> Outcome:
        """Dissolve it, whoever joins and leaves meanwhile. Raises what Committer.submit raises."""
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._committer.submit(await self._of_all(command), deadline)
            except Aborted:
                continue
        return await self._committer.submit(await self._of_all(command), deadline)

    async def _of_all(self, command: Dissolve) -> Dissolve:
        """The command, about those who sit there now; once it is dissolved, about nobody."""
        async with self._database.connection() as connection:
            seats = await store.seats(connection, command.actor.program_id, [command.household_id])
        return replace(command, sitting=tuple(seat.member_id for seat in seats if seat.left_at is None))

    async def _shown(self, connection: Connection, program_id: UUID, household: Household) -> Shown:
        program = (await self._programs.at_hand(self._database, [program_id]))[program_id].program
        own, now = (program_id, household.household_id), self._clock()
        seats = await store.seats(connection, program_id, [household.household_id])
        wallets = ledger.wallets_of({own: True}, now)
        members, lots, holds, whence = await ask(
            connection,
            ledger.members_known(wallets, {program_id: program.main_point_type}),
            ledger.lots_open(wallets),
            ledger.holds_open(wallets),
            store.whence({own: True}, []),
        )
        pool = members[own]._replace(lots=lots.get(own, {}), holds=holds.get(own, {}))
        pool = as_due(household.household_id, pool, program, now)
        return Shown(
            household,
            seats,
            [pool.wallet(point_type) for point_type in program.point_types],
            pool.version,
            _shares(pool.lots.values(), whence.get(own, {})),
        )


def _shares(lots: Any, gifts: Mapping[UUID, store.Gift]) -> Shares:
    shares: dict[UUID, Counter[str]] = {}
    for lot in lots:
        gift = gifts.get(lot.lot_id)
        if gift is not None and gift.giver is not None and lot.remaining > lot.held:
            shares.setdefault(gift.giver, Counter())[lot.point_type] += lot.remaining - lot.held
    return shares


def _kept(token: str) -> bytes:
    return sha256(token.encode()).digest()
