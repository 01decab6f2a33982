"""Newcomers to members: each row once, however often the file is imported."""

from collections import Counter
from typing import Any

import grpc
from loyalty.v1 import member_pb2, member_pb2_grpc

from laurel.calls import OF_ONE, Calls, details_of, reason_of
from laurel.imports.columns import Columns
from laurel.imports.newcomers import Newcomer, refusal_of
from laurel.imports.refusals import Refusal
from laurel.imports.table import Row
from server.domain.errors import InvalidArgument
from server.domain.members import Identifier, Kind
from server.rpc import profiles
from server.rpc.fields import Fields

PAGE = 500
NEW, KNOWN, CONSENTS = "members new", "members already there", "consents recorded"


class Registrations:
    """Registers newcomers, or with ``dry`` only looks. ``done`` counts what came of it.

    They were members before, and are not welcomed unless ``welcome`` says so.
    """

    def __init__(
        self, channel: grpc.aio.Channel, calls: Calls, columns: Columns, dry: bool, *, welcome: bool
    ) -> None:
        self._members: Any = member_pb2_grpc.MemberServiceStub(channel)
        self._calls = calls
        self._columns = columns
        self._dry = dry
        self._imported = not welcome
        self.done = Counter[str]()

    async def take(self, _row: Row, newcomer: Newcomer) -> None:
        """Register whoever is not a member yet, with decisions. Raises Refusal, grpc.RpcError."""
        try:
            found = await self._find(newcomer)
            if self._dry:
                await self._look(newcomer, found)
            else:
                await self._register(newcomer, found)
        except grpc.aio.AioRpcError as error:
            if error.code() not in OF_ONE:
                raise
            raise self._refusal(error) from None

    async def _register(self, newcomer: Newcomer, found: member_pb2.Member | None) -> None:
        if found is not None and _same(found, newcomer):
            member_id = found.member_id
        else:
            request = member_pb2.RegisterMemberRequest(
                request_id=newcomer.request_id, member=newcomer.member, imported=self._imported
            )
            # Of a member that is there, this asks whether it was made by the same request,
            # and has changed since.
            reply = await self._calls.make(self._members.RegisterMember, request)
            member_id = reply.member.member_id
        recorded = await self._consent(newcomer, member_id, new=found is None)
        self.done[NEW if found is None else KNOWN] += 1
        self.done[CONSENTS] += recorded

    async def _consent(self, newcomer: Newcomer, member_id: str, *, new: bool) -> int:
        """Record the decisions that aren't yet, one by one; how many those were."""
        if not newcomer.consents:
            return 0
        known = set() if new else await self._decisions(member_id)
        missing = [consent for consent in newcomer.consents if _decision(consent) not in known]
        for consent in missing:
            request = member_pb2.RecordConsentRequest(
                request_id=newcomer.consent_request_id(consent), member_id=member_id, consent=consent
            )
            await self._calls.make(self._members.RecordConsent, request)
        return len(missing)

    async def _decisions(self, member_id: str) -> set[tuple[str, bool, str, str]]:
        known: set[tuple[str, bool, str, str]] = set()
        request = member_pb2.ListConsentsRequest(member_id=member_id, page_size=PAGE)
        while True:
            page = await self._calls.make(self._members.ListConsents, request)
            known |= {_decision(consent) for consent in page.consents}
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return known

    async def _look(self, newcomer: Newcomer, found: member_pb2.Member | None) -> None:
        """What registering would come to, as far as can be known without doing it."""
        if found is not None and _same(found, newcomer):
            self.done[KNOWN] += 1
            return
        for identifier, where in newcomer.identifiers.items():
            if await self._owner(identifier) is not None:
                raise self._taken(where)
        self.done[NEW] += 1
        self.done[CONSENTS] += len(newcomer.consents)

    async def _find(self, newcomer: Newcomer) -> member_pb2.Member | None:
        """The member that the first identifier belongs to."""
        return await self._owner(next(iter(newcomer.identifiers)))

    async def _owner(self, identifier: Identifier) -> member_pb2.Member | None:
        request = member_pb2.FindMemberRequest(identifier=message_of(identifier))
        try:
            found: member_pb2.Member = (await self._calls.make(self._members.FindMember, request)).member
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return None
        return found

    def _refusal(self, error: grpc.aio.AioRpcError) -> Refusal:
        info, bad = details_of(error)
        if info.reason == "IDENTIFIER_TAKEN":
            return self._taken(info.metadata["field"])
        mistakes = [(violation.field, violation.description) for violation in bad.field_violations]
        return refusal_of(self._columns, reason_of(error), mistakes or [("", error.details() or "")])

    def _taken(self, where: str) -> Refusal:
        return refusal_of(self._columns, "IDENTIFIER_TAKEN", [(where, "belongs to another member")])


def message_of(identifier: Identifier) -> member_pb2.Identifier:
    """The identifier as a request names it."""
    if identifier.kind is Kind.EXTERNAL_ID:
        system, _, own = identifier.value.partition(":")
        return member_pb2.Identifier(external_id=member_pb2.ExternalId(system=system, id=own))
    message = member_pb2.Identifier()
    setattr(message, identifier.kind.value, identifier.value)
    return message


def _same(found: member_pb2.Member, newcomer: Newcomer) -> bool:
    """Whether the member is as the row says, in every field."""
    fields = Fields()
    profile = profiles.profile(fields, found)
    try:
        fields.check()
    except InvalidArgument:  # a till is shown emails and phones with stars in them
        return False
    return profile == newcomer.profile


def _decision(consent: member_pb2.Consent) -> tuple[str, bool, str, str]:
    return consent.purpose, consent.granted, consent.policy_version, consent.channel
