"""Members who log in and share a household, at a server of their own, over gRPC."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from google.type import money_pb2
from loyalty.v1 import households_pb2 as pb
from loyalty.v1 import member_pb2, points_pb2

from server.settings import Settings
from server.store.database import Database
from tests.support.issuers import SYSTEM, Loopback, configuration, entry, loopback
from tests.support.programs import new_program
from tests.support.published import publish
from tests.support.refusals import Refusal, refusal
from tests.support.servers import Caller, Laurel, started

BASE = {
    "rule": "base",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 1, "per": "1.00", "currency": "INR"}}],
}
# Spending more of a pool takes a strong login.
LIMIT = 500
SCOPES = ["points.read", "points.redeem", "households.read", "households.write"]


class Family:
    """A server that trusts an issuer, and members who log in there."""

    def __init__(self, laurel: Laurel, issuer: Loopback) -> None:
        self.laurel, self.issuer = laurel, issuer

    async def member(self, points: int = 0, subject: str = "") -> tuple[str, Caller]:
        """A member with points, and what it calls by."""
        subject = subject or uuid4().hex
        external = member_pb2.ExternalId(system=SYSTEM, id=subject)
        member_id = await self.laurel.register(external_ids=[external])
        if points:
            await self.buys(member_id, points)
        return member_id, await self.logs_in(subject)

    async def logs_in(self, subject: str, acr: str = "2") -> Caller:
        """By a second factor, unless it is said otherwise."""
        return await self.laurel.caller(self.issuer.token(subject, acr=acr))

    async def buys(self, member_id: str, rupees: int, receipt: str = "") -> points_pb2.AccrueResponse:
        """A purchase, a point for each rupee."""
        request = points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=receipt or uuid4().hex,
            amount=money_pb2.Money(currency_code="INR", units=rupees),
        )
        reply: points_pb2.AccrueResponse = await self.laurel.terminal.points.Accrue(request)
        return reply

    async def forms(self, member_id: str, by: Caller, contributes: bool = False) -> pb.Household:
        """A household of one."""
        request = pb.CreateHouseholdRequest(
            request_id=uuid4().hex, member_id=member_id, contributes=contributes
        )
        household: pb.Household = (await by.households.CreateHousehold(request)).household
        return household

    async def joins(
        self, household: pb.Household, head: Caller, *, contributes: bool = False, may_spend: bool = True
    ) -> tuple[str, Caller]:
        """Another member, whom the head invites."""
        member_id, own = await self.member()
        token = (await head.households.InviteToHousehold(invitation(household, may_spend=may_spend))).token
        await own.households.JoinHousehold(joining(member_id, token, contributes=contributes))
        return member_id, own

    async def merges(self, merged_id: str, member_id: str) -> None:
        """Two turn out to be one."""
        request = member_pb2.MergeMembersRequest(
            request_id=uuid4().hex, member_id=member_id, merged_member_id=merged_id, reason="one"
        )
        await self.laurel.staff.members.MergeMembers(request)

    async def pool(self, household: pb.Household) -> int:
        """What the pool has to spend."""
        return await self.balance(household.household_id)

    async def balance(self, member_id: str) -> int:
        """What somebody has to spend."""
        request = points_pb2.GetBalanceRequest(member_id=member_id)
        reply = await self.laurel.service.points.GetBalance(request)
        return int(reply.wallets[0].balance)


def head_of(household: pb.Household) -> str:
    [head] = [seat.member_id for seat in household.seats if seat.role == pb.SEAT_ROLE_HEAD]
    return head


def invitation(household: pb.Household, **more: Any) -> pb.InviteToHouseholdRequest:
    said = {"member_id": head_of(household), "request_id": uuid4().hex, "may_spend": True, **more}
    return pb.InviteToHouseholdRequest(household_id=household.household_id, **said)


def joining(member_id: str, token: str, **more: Any) -> pb.JoinHouseholdRequest:
    return pb.JoinHouseholdRequest(request_id=uuid4().hex, member_id=member_id, token=token, **more)


def giving(member_id: str, points: int) -> pb.ContributePointsRequest:
    return pb.ContributePointsRequest(request_id=uuid4().hex, member_id=member_id, points=points)


def ending(household: pb.Household, seated_id: str, member_id: str = "") -> pb.EndSeatRequest:
    return pb.EndSeatRequest(
        request_id=uuid4().hex,
        household_id=household.household_id,
        seated_id=seated_id,
        member_id=member_id,
    )


def spending(member_id: str, points: int) -> points_pb2.RedeemRequest:
    return points_pb2.RedeemRequest(
        request_id=uuid4().hex, member_id=member_id, points=points, from_household=True
    )


async def refused(call: Awaitable[Any], reason: str) -> Refusal:
    said = await refusal(call)
    assert said.reason == reason, said
    return said


@asynccontextmanager
async def families(settings: Settings, database: Database, folder: Path) -> AsyncIterator[Family]:
    """A program in which a point is earned for each rupee, and whose members log in."""
    program = await new_program(database, step_up_redeem_points=LIMIT)
    members = {"external_id_system": SYSTEM, "scopes": SCOPES}
    with loopback() as issuer:
        file = configuration(folder / f"{uuid4().hex}.yaml", entry(issuer, program.name, members=members))
        trusting = settings.model_copy(update={"oidc_file": str(file)})
        async with started(trusting, database, program) as laurel:
            await publish(laurel, BASE)
            yield Family(laurel, issuer)
