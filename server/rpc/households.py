"""HouseholdService: parse, act, render."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from loyalty.v1 import households_pb2 as pb
from loyalty.v1 import points_pb2

from server.domain import household_commands as commands
from server.domain.actor import CallerKind
from server.domain.commands import Command, Outcome
from server.domain.households import MAX_INVITATION_SECONDS, Household, Role, Seat, no_household
from server.domain.ledger import MAX_POINTS
from server.operations.households import Households, Shown
from server.operations.points import Points
from server.rpc import activities, profiles
from server.rpc.fields import Fields
from server.rpc.gate import Call
from server.rpc.movements import circumstances
from server.rpc.pages import Pages
from server.rpc.versions import Versions

MAX_TOKEN = 128
ROLES: Mapping[Role, pb.SeatRole.ValueType] = MappingProxyType(
    {Role.HEAD: pb.SEAT_ROLE_HEAD, Role.MEMBER: pb.SEAT_ROLE_MEMBER}
)


class HouseholdService:
    """The RPCs of HouseholdService, called by the gate, which has held members to themselves."""

    def __init__(
        self,
        households: Households,
        points: Points,
        pages: Pages,
        versions: Versions,
        clock: Callable[[], datetime],
    ) -> None:
        self._households = households
        self._points = points
        self._pages = pages
        self._versions = versions
        self._clock = clock

    async def CreateHousehold(
        self, request: pb.CreateHouseholdRequest, call: Call
    ) -> pb.CreateHouseholdResponse:
        """Make a household of one."""
        fields = Fields()
        said = self._said(fields, request, call)
        member_id = fields.uuid("member_id", request.member_id)
        fields.check()
        command = commands.FormHousehold(
            member_id=member_id,
            contributes=request.contributes,
            **{**said, "member_given": str(member_id)},
        )
        return pb.CreateHouseholdResponse(household=await self._after(command, call))

    async def GetHousehold(self, request: pb.GetHouseholdRequest, call: Call) -> pb.GetHouseholdResponse:
        """Show a household."""
        fields = Fields()
        household_id, member_id = _named(fields, request)
        fields.check()
        found = await self._households.get(call.actor.program_id, household_id)
        if member_id is not None:
            asking = await self._households.living(call.actor.program_id, member_id)
            if asking not in found.sitting:
                raise no_household()
        return pb.GetHouseholdResponse(household=_shown(found, call, former=request.include_former))

    async def GetMemberHousehold(
        self, request: pb.GetMemberHouseholdRequest, call: Call
    ) -> pb.GetMemberHouseholdResponse:
        """Show where a member sits."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        fields.check()
        found = await self._households.of_member(call.actor.program_id, member_id)
        return pb.GetMemberHouseholdResponse(household=_shown(found, call))

    async def ListHouseholds(
        self, request: pb.ListHouseholdsRequest, call: Call
    ) -> pb.ListHouseholdsResponse:
        """Page through the households."""
        fields = Fields()
        size = fields.page_size("page_size", request.page_size)
        fields.check()
        dissolved = request.include_dissolved
        filters = {"program": str(call.actor.program_id), "include_dissolved": str(dissolved)}
        position = self._pages.decode("ListHouseholds", filters, request.page_token)
        found, more = await self._households.page(
            call.actor.program_id,
            before=UUID(position[0]) if position else None,
            size=size,
            dissolved=dissolved,
        )
        last = [str(found[-1][0].household_id)] if more else []
        return pb.ListHouseholdsResponse(
            households=[_message(household, _present(household, seats), call) for household, seats in found],
            next_page_token=self._pages.encode("ListHouseholds", filters, last) if more else "",
        )

    async def InviteToHousehold(
        self, request: pb.InviteToHouseholdRequest, call: Call
    ) -> pb.InviteToHouseholdResponse:
        """Offer a seat."""
        fields = Fields()
        said = self._said(fields, request, call)
        household_id, member_id = _named(fields, request)
        seconds = fields.count("time_limit_seconds", request.time_limit_seconds, 0, MAX_INVITATION_SECONDS)
        fields.check()
        token, kept = self._households.token(call.actor, request.request_id)
        command = commands.Invite(
            member_id=household_id,
            household_id=household_id,
            **await self._acting(member_id, call),
            token_hash=kept,
            may_spend=request.may_spend,
            seconds=seconds,
            **said,
        )
        await self._commit(command, call)
        invitation = await self._households.invitation(call.actor.program_id, token)
        reply = pb.InviteToHouseholdResponse(token=token)
        reply.expire_time.FromDatetime(invitation.expires_at)
        return reply

    async def JoinHousehold(self, request: pb.JoinHouseholdRequest, call: Call) -> pb.JoinHouseholdResponse:
        """Take the seat that a token offers."""
        fields = Fields()
        said = self._said(fields, request, call)
        member_id = fields.uuid("member_id", request.member_id)
        token = fields.text("token", request.token, max_length=MAX_TOKEN)
        fields.check()
        offered = await self._households.invitation(call.actor.program_id, token)
        command = commands.Join(
            member_id=member_id,
            household_id=offered.household_id,
            invitation_id=offered.invitation_id,
            contributes=request.contributes,
            **{**said, "member_given": str(member_id)},
        )
        return pb.JoinHouseholdResponse(household=await self._after(command, call))

    async def UpdateSeat(self, request: pb.UpdateSeatRequest, call: Call) -> pb.UpdateSeatResponse:
        """Change what a seat lets its member do."""
        fields = Fields()
        said = self._said(fields, request, call)
        household_id, member_id = _named(fields, request)
        seated_id = fields.uuid("seated_id", request.seated_id)
        fields.check()
        command = commands.ChangeSeat(
            member_id=seated_id,
            household_id=household_id,
            **await self._acting(member_id, call),
            may_spend=request.may_spend if request.HasField("may_spend") else None,
            contributes=request.contributes if request.HasField("contributes") else None,
            make_head=request.make_head,
            **{**said, "member_given": str(seated_id)},
        )
        return pb.UpdateSeatResponse(household=await self._after(command, call))

    async def EndSeat(self, request: pb.EndSeatRequest, call: Call) -> pb.EndSeatResponse:
        """Let a member leave, with what is theirs."""
        fields = Fields()
        said = self._said(fields, request, call)
        household_id, member_id = _named(fields, request)
        seated_id = fields.uuid("seated_id", request.seated_id)
        fields.check()
        command = commands.EndSeat(
            member_id=seated_id,
            household_id=household_id,
            **await self._acting(member_id, call),
            **{**said, "member_given": str(seated_id)},
        )
        outcome = await self._commit(command, call)
        if call.actor.kind is CallerKind.MEMBER and member_id != seated_id:
            # What else the member has is none of the head's business.
            outcome = replace(outcome, balance=0, debt=0, version=0)
        return pb.EndSeatResponse(
            awards=[
                points_pb2.Award(
                    transaction_id=str(a.transaction_id), point_type=a.point_type, points=a.points
                )
                for a in outcome.awards
            ],
            balance=outcome.balance,
            debt=outcome.debt,
            version=outcome.version,
            consistency_token=self._versions.token(call.actor.program_id, outcome.member_id, outcome.version),
        )

    async def DissolveHousehold(
        self, request: pb.DissolveHouseholdRequest, call: Call
    ) -> pb.DissolveHouseholdResponse:
        """End all seats."""
        fields = Fields()
        said = self._said(fields, request, call)
        household_id, member_id = _named(fields, request)
        fields.check()
        await call.count(household_id)
        command = commands.Dissolve(
            member_id=household_id,
            household_id=household_id,
            sitting=(),
            **await self._acting(member_id, call),
            **said,
        )
        await self._households.dissolve(command, call.deadline)
        found = await self._households.get(call.actor.program_id, household_id)
        return pb.DissolveHouseholdResponse(household=_shown(found, call))

    async def ContributePoints(
        self, request: pb.ContributePointsRequest, call: Call
    ) -> pb.ContributePointsResponse:
        """Put points into the pool."""
        fields = Fields()
        said = self._said(fields, request, call)
        member_id = fields.uuid("member_id", request.member_id)
        points = fields.count("points", request.points, 1, MAX_POINTS)
        point_type = fields.text(
            "point_type", request.point_type, max_length=activities.MAX_LABEL, required=False
        )
        fields.check()
        command = commands.Contribute(
            member_id=member_id,
            points=points,
            point_type=point_type,
            **{**said, "member_given": str(member_id)},
        )
        outcome = await self._commit(command, call)
        return pb.ContributePointsResponse(
            event_id=str(outcome.event_id),
            household_id=str(outcome.household_id),
            transaction_id=str(outcome.awards[0].transaction_id),
            point_type=outcome.point_type,
            points=outcome.points,
            balance=outcome.balance,
            pool_balance=outcome.pool_balance,
            version=outcome.version,
            consistency_token=self._versions.token(call.actor.program_id, outcome.member_id, outcome.version),
        )

    def _said(self, fields: Fields, request: Any, call: Call) -> dict[str, Any]:
        """What the commands have in common."""
        said = circumstances(fields, request, call.actor)
        return {**said, "received_at": self._clock(), "member_given": ""}

    async def _acting(self, member_id: UUID | None, call: Call) -> dict[str, Any]:
        """Who asks, as the commands are told."""
        if member_id is None:
            return {}
        living = await self._households.living(call.actor.program_id, member_id)
        return {"acting_id": living, "acting_given": str(member_id)}

    async def _commit(self, command: Command, call: Call) -> Outcome:
        call.touched.append(command.member_id)
        await call.count(command.member_id)
        return await self._points.commit(command, call.deadline)

    async def _after(self, command: Command, call: Call) -> pb.Household:
        """The household as it is once the command is done."""
        outcome = await self._commit(command, call)
        assert outcome.household_id is not None
        return _shown(await self._households.get(call.actor.program_id, outcome.household_id), call)


def _named(fields: Fields, request: Any) -> tuple[UUID, UUID | None]:
    """The household, and the member who asks."""
    return (
        fields.uuid("household_id", request.household_id),
        fields.uuid("member_id", request.member_id, required=False),
    )


def _shown(found: Shown, call: Call, *, former: bool = False) -> pb.Household:
    seats = found.seats if former else _present(found.household, found.seats)
    message = _message(found.household, seats, call)
    for seat, said in zip(seats, message.seats, strict=True):
        if seat.left_at is None:
            shares = sorted(found.shares.get(seat.member_id, {}).items())
            said.shares.extend(pb.SharedPoints(point_type=t, points=points) for t, points in shares)
    message.wallets.extend(profiles.wallet_message(wallet) for wallet in found.wallets)
    message.version = found.version
    return message


def _present(household: Household, seats: list[Seat]) -> list[Seat]:
    """Who sits there; of a household that was dissolved, who sat there in the end."""
    return [seat for seat in seats if seat.left_at == household.dissolved_at]


def _message(household: Household, seats: list[Seat], call: Call) -> pb.Household:
    if call.actor.kind is CallerKind.STAFF:
        call.touched.extend(seat.member_id for seat in seats)
    message = pb.Household(household_id=str(household.household_id))
    message.create_time.FromDatetime(household.created_at)
    if household.dissolved_at is not None:
        message.dissolve_time.FromDatetime(household.dissolved_at)
    for seat in seats:
        said = message.seats.add(
            member_id=str(seat.member_id),
            role=ROLES[seat.role],
            may_spend=seat.may_spend,
            contributes=seat.contributes,
        )
        said.join_time.FromDatetime(seat.joined_at)
        if seat.left_at is not None:
            said.leave_time.FromDatetime(seat.left_at)
    return message
