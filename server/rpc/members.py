"""MemberService: parse, act, render."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any
from uuid import UUID

from loyalty.v1 import member_pb2 as pb

from server.domain import members as rules
from server.domain.actor import CallerKind
from server.domain.commands import Merge
from server.domain.errors import PermissionDenied
from server.domain.members import Member, Status
from server.operations.live import Live
from server.operations.members import Members
from server.operations.points import Points
from server.operations.timelines import Timelines
from server.rpc import profiles, timeline
from server.rpc.fields import Fields
from server.rpc.gate import Call
from server.rpc.movements import circumstances
from server.rpc.pages import Pages
from server.rpc.updates import Places, update_message
from server.rpc.versions import Versions, check_seen
from server.store.timeline import Wanted

IMPORTERS = (CallerKind.SERVICE, CallerKind.STAFF)


class MemberService:
    """The RPCs of MemberService, called by the gate."""

    def __init__(
        self,
        members: Members,
        points: Points,
        live: Live,
        timelines: Timelines,
        pages: Pages,
        places: Places,
        versions: Versions,
        clock: Callable[[], datetime],
    ) -> None:
        self._members = members
        self._points = points
        self._live = live
        self._timelines = timelines
        self._pages = pages
        self._places = places
        self._versions = versions
        self._clock = clock

    async def RegisterMember(
        self, request: pb.RegisterMemberRequest, call: Call
    ) -> pb.RegisterMemberResponse:
        """Add a member."""
        fields = Fields()
        request_id = fields.token("request_id", request.request_id)
        profile = profiles.profile(fields, request.member)
        if request.imported and call.actor.kind not in IMPORTERS:
            fields.add("imported", "may be said by services and staff")
        fields.check()
        member = await self._members.register(call.actor, request_id, profile, imported=request.imported)
        call.touched.append(member.member_id)
        return pb.RegisterMemberResponse(**self._changed(member, call))

    async def GetMember(self, request: pb.GetMemberRequest, call: Call) -> pb.GetMemberResponse:
        """Show a member."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        fields.check()
        member = await self._members.get(call.actor.program_id, member_id)
        return pb.GetMemberResponse(member=profiles.member_message(member, call.actor))

    async def WatchMember(
        self, request: pb.WatchMemberRequest, call: Call
    ) -> AsyncGenerator[pb.WatchMemberResponse, None]:
        """Tell how a member stands and what happens to it."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        fields.check()
        program_id = call.actor.program_id
        since = self._places.decode(program_id, member_id, request.last_event_id)
        # As ListMessages: a till shows nobody's messages.
        inbox = call.actor.kind is not CallerKind.TERMINAL
        async with aclosing(self._live.watch(program_id, member_id, since, inbox=inbox)) as news:
            async for told in news:
                yield update_message(told, self._places.encode(program_id, member_id, told.place))

    async def FindMember(self, request: pb.FindMemberRequest, call: Call) -> pb.FindMemberResponse:
        """Show the member that an identifier belongs to."""
        fields = Fields()
        identifier = profiles.identifier(fields, "identifier", request.identifier)
        fields.check()
        member = await self._members.find(call.actor.program_id, identifier)
        call.touched.append(member.member_id)
        return pb.FindMemberResponse(member=profiles.member_message(member, call.actor))

    async def ListMembers(self, request: pb.ListMembersRequest, call: Call) -> pb.ListMembersResponse:
        """Page through the members."""
        fields = Fields()
        size = fields.page_size("page_size", request.page_size)
        status = profiles.status(fields, "status", request.status)
        tier = fields.text("tier", request.tier, max_length=rules.MAX_LABEL, required=False)
        fields.check()
        filters = {"program": str(call.actor.program_id), "status": status or "", "tier": tier}
        position = self._pages.decode("ListMembers", filters, request.page_token)
        members, more = await self._members.page(
            call.actor.program_id,
            after=UUID(position[0]) if position else None,
            size=size,
            status=status,
            tier=tier,
        )
        call.touched.extend(m.member_id for m in members)
        last = [str(members[-1].member_id)] if more else []
        return pb.ListMembersResponse(
            members=[profiles.member_message(m, call.actor) for m in members],
            next_page_token=self._pages.encode("ListMembers", filters, last) if more else "",
        )

    async def UpdateMember(self, request: pb.UpdateMemberRequest, call: Call) -> pb.UpdateMemberResponse:
        """Change the fields that the mask names."""
        paths, mistakes = rules.read_mask(request.update_mask.paths)
        if call.actor.kind is CallerKind.MEMBER and (foreign := rules.beyond_member(paths)):
            raise PermissionDenied(
                "CALLER_NOT_ADMITTED",
                "a member may not change this of themselves",
                {"method": call.method, "fields": ",".join(foreign)},
            )
        fields = Fields()
        request_id = fields.token("request_id", request.request_id)
        member_id = fields.uuid("member.member_id", request.member.member_id)
        etag = fields.text("member.etag", request.member.etag, max_length=rules.MAX_LABEL, required=False)
        for mistake in mistakes:
            fields.add(mistake.field, mistake.description)
        changed = {path.partition(".")[0] for path in paths}
        given = profiles.profile(fields, request.member, changed.intersection(rules.SETTABLE))
        fields.check()
        member = await self._members.update(call.actor, request_id, member_id, given, paths=paths, etag=etag)
        return pb.UpdateMemberResponse(**self._changed(member, call))

    async def SuspendMember(self, request: pb.SuspendMemberRequest, call: Call) -> pb.SuspendMemberResponse:
        """Stop a member from earning and spending."""
        member = await self._change_status(request, call, Status.SUSPENDED)
        return pb.SuspendMemberResponse(**self._changed(member, call))

    async def ReactivateMember(
        self, request: pb.ReactivateMemberRequest, call: Call
    ) -> pb.ReactivateMemberResponse:
        """Make a suspended member active again."""
        member = await self._change_status(request, call, Status.ACTIVE)
        return pb.ReactivateMemberResponse(**self._changed(member, call))

    async def CloseMember(self, request: pb.CloseMemberRequest, call: Call) -> pb.CloseMemberResponse:
        """End a membership."""
        member = await self._change_status(request, call, Status.CLOSED)
        return pb.CloseMemberResponse(**self._changed(member, call))

    async def MergeMembers(self, request: pb.MergeMembersRequest, call: Call) -> pb.MergeMembersResponse:
        """Make one member of two."""
        fields = Fields()
        said = circumstances(fields, request, call.actor)
        member_id = fields.uuid("member_id", request.member_id)
        merged_member_id = fields.uuid("merged_member_id", request.merged_member_id)
        fields.check()
        call.touched.append(merged_member_id)
        command = Merge(
            member_id=member_id,
            member_given=str(member_id),
            merged_member_id=merged_member_id,
            received_at=self._clock(),
            **said,
        )
        outcome = await self._points.commit(command, call.deadline)
        member = await self._members.get(call.actor.program_id, member_id)
        return pb.MergeMembersResponse(
            **self._changed(member, call),
            event_id=str(outcome.event_id),
            moved=[
                pb.MergedPoints(
                    transaction_id=str(row.transaction_id), point_type=row.point_type, points=row.points
                )
                for row in outcome.awards
            ],
        )

    async def RecordConsent(self, request: pb.RecordConsentRequest, call: Call) -> pb.RecordConsentResponse:
        """Append a decision of the member."""
        fields = Fields()
        request_id = fields.token("request_id", request.request_id)
        member_id = fields.uuid("member_id", request.member_id)
        decision = profiles.decision(fields, request.consent)
        fields.check()
        member, consent = await self._members.record_consent(call.actor, request_id, member_id, decision)
        return pb.RecordConsentResponse(
            consent=profiles.consent_message(consent),
            consistency_token=self._versions.token(member.program_id, member.member_id, member.version),
        )

    async def ListConsents(self, request: pb.ListConsentsRequest, call: Call) -> pb.ListConsentsResponse:
        """Page through the member's decisions."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        size = fields.page_size("page_size", request.page_size)
        fields.check()
        filters = {"program": str(call.actor.program_id), "member_id": str(member_id)}
        position = self._pages.decode("ListConsents", filters, request.page_token)
        consents, more = await self._members.consents(
            call.actor.program_id, member_id, UUID(position[0]) if position else None, size
        )
        last = [str(consents[-1].consent_id)] if more else []
        return pb.ListConsentsResponse(
            consents=[profiles.consent_message(c) for c in consents],
            next_page_token=self._pages.encode("ListConsents", filters, last) if more else "",
        )

    def _changed(self, member: Member, call: Call) -> dict[str, Any]:
        """What is told of a member after a change."""
        return {
            "member": profiles.member_message(member, call.actor),
            "consistency_token": self._versions.token(member.program_id, member.member_id, member.version),
        }

    async def ListTimeline(self, request: pb.ListTimelineRequest, call: Call) -> pb.ListTimelineResponse:
        """Page through everything that happened to the member."""
        fields = Fields()
        member_id = fields.uuid("member_id", request.member_id)
        size = fields.page_size("page_size", request.page_size)
        kinds = timeline.kinds(fields, list(request.kinds))
        since = fields.timestamp("from_time", request)
        until = fields.timestamp("to_time", request)
        if since is not None and until is not None and until <= since:
            fields.add("to_time", "must be later than from_time")
        fields.check()
        program_id = call.actor.program_id
        seen = self._versions.read(program_id, request.consistency_token)
        wanted = Wanted(program_id, kinds, since, until)
        filters = {"program": str(program_id), "member_id": str(member_id), **timeline.filters(wanted)}
        position = self._pages.decode("ListTimeline", filters, request.page_token)
        whole, before = timeline.position(position, whole=seen is not None)
        page = await self._timelines.page(member_id, wanted, before, size, whole=whole)
        if seen is not None:
            check_seen(seen, member_id, page.family.lives_on, page.family.version)
        reply = pb.ListTimelineResponse(
            entries=[timeline.entry_message(shown) for shown in page.shown],
            next_page_token=self._pages.encode(
                "ListTimeline", filters, timeline.place(page.shown[-1].key, whole=whole)
            )
            if page.more
            else "",
        )
        reply.as_of_time.FromDatetime(page.as_of)
        return reply

    async def _change_status(
        self,
        request: pb.SuspendMemberRequest | pb.ReactivateMemberRequest | pb.CloseMemberRequest,
        call: Call,
        target: Status,
    ) -> Member:
        fields = Fields()
        request_id = fields.token("request_id", request.request_id)
        member_id = fields.uuid("member_id", request.member_id)
        reason = fields.text("reason", request.reason, max_length=rules.MAX_REASON, required=False)
        fields.check()
        return await self._members.change_status(call.actor, request_id, member_id, target, reason)
