"""A household of two, and what they do with its pool."""

from contextlib import AbstractAsyncContextManager
from uuid import uuid4

from loyalty.v1 import holds_pb2, points_pb2
from loyalty.v1 import households_pb2 as pb

from tests.support.servers import Laurel
from tests.support.watching import Watching, buy, watching


class Home:
    """A household of two: Ann, its head, and Ben."""

    def __init__(self, laurel: Laurel) -> None:
        self.laurel, self.id, self.ann, self.ben = laurel, "", "", ""

    async def found(self, points: int) -> None:
        """Ann makes it, and puts points in; Ben joins."""
        self.ann, self.ben = await self.laurel.register(), await self.laurel.register()
        request = pb.CreateHouseholdRequest(request_id=uuid4().hex, member_id=self.ann)
        made = await self.laurel.service.households.CreateHousehold(request)
        self.id = made.household.household_id
        await self.joins(self.ben)
        await buy(self.laurel.terminal, self.ann, points)
        await self.gives(self.ann, points)

    async def joins(self, member_id: str) -> None:
        """The head asks a member in."""
        ask = pb.InviteToHouseholdRequest(
            request_id=uuid4().hex, household_id=self.id, member_id=self.ann, may_spend=True
        )
        token = (await self.laurel.service.households.InviteToHousehold(ask)).token
        request = pb.JoinHouseholdRequest(request_id=uuid4().hex, member_id=member_id, token=token)
        await self.laurel.service.households.JoinHousehold(request)

    async def leaves(self, member_id: str) -> None:
        """A seat ends."""
        request = pb.EndSeatRequest(request_id=uuid4().hex, household_id=self.id, seated_id=member_id)
        await self.laurel.service.households.EndSeat(request)

    async def gives(self, member_id: str, points: int) -> None:
        """Points go into the pool."""
        request = pb.ContributePointsRequest(request_id=uuid4().hex, member_id=member_id, points=points)
        await self.laurel.service.households.ContributePoints(request)

    async def spends(self, member_id: str, points: int, order: str = "") -> points_pb2.RedeemResponse:
        """The pool pays."""
        request = points_pb2.RedeemRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            points=points,
            from_household=True,
            order_reference=order or uuid4().hex,
            store="pune-3",
        )
        reply: points_pb2.RedeemResponse = await self.laurel.terminal.points.Redeem(request)
        return reply

    async def holds(self, member_id: str, points: int, order: str = "") -> str:
        """Points of the pool are reserved."""
        request = holds_pb2.PlaceHoldRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            points=points,
            from_household=True,
            order_reference=order or uuid4().hex,
        )
        return str((await self.laurel.terminal.holds.PlaceHold(request)).hold.hold_id)

    def watched_by(self, member_id: str, last: str = "") -> AbstractAsyncContextManager[Watching]:
        """A stream of a member's."""
        return watching(self.laurel.address, self.laurel.service.key, member_id, last)
