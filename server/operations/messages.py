"""Messages as they are read and sent: facts become text with the name and address of the moment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from server.domain.deliveries import Delivery, Permanent, Postponed, Unwanted
from server.domain.errors import NotFound
from server.domain.members import Member
from server.domain.notifications import decide
from server.domain.notifications.decide import INBOX
from server.domain.notifications.occasions import OCCASIONS, Facts
from server.domain.notifications.templates import Content, Key, Template
from server.domain.program import Program
from server.operations.rendering import RenderingError, render
from server.operations.template_files import chosen, own
from server.store import deliveries, members, messages, programs, templates
from server.store.database import Connection, Database
from server.store.messages import Message
from server.store.sealing import BrokenSealError, Sealer


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent to a member. ``address`` is what the channel reaches them by."""

    delivery_id: UUID
    member_id: UUID
    address: str = field(repr=False)
    content: Content = field(repr=False)
    language: str


class Shown(NamedTuple):
    """A message of the inbox, with its text."""

    message: Message
    content: Content


class Inbox(NamedTuple):
    """A page of a member's messages, newest first, and how many are unread in all."""

    messages: list[Shown]
    more: bool
    unread: int


class Cleared(NamedTuple):
    """What was cleared away: messages and deliveries forgotten, and deliveries given up."""

    messages: int = 0
    deliveries: int = 0
    lapsed: int = 0


# An inbox goes back so far; what was sent of it, and how, is of no use for so long.
INBOX_KEPT = timedelta(days=365)
SENT_KEPT = timedelta(days=30)
CLEARED_AT_ONCE = 1000

# What a channel reaches a member by.
ADDRESSES: Mapping[str, Callable[[Member], str]] = {
    "email": lambda member: member.profile.email,
    "sms": lambda member: member.profile.phone,
    "push": lambda member: str(member.member_id),
}


class Messages:
    """The messages of all programs. ``clock`` tells the time, aware, in UTC."""

    def __init__(self, database: Database, sealer: Sealer, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock

    async def inbox(
        self, program_id: UUID, member_id: UUID, *, before: UUID | None, size: int, unread: bool
    ) -> Inbox:
        """At most ``size`` messages before that id; if ``unread``, only such. Raises NotFound."""
        async with self._database.connection() as connection:
            member = await self._member(connection, program_id, member_id)
            program = await programs.get(connection, program_id)
            if member is None or program is None:
                raise NotFound("MEMBER_NOT_FOUND", "no such member")
            found = await messages.inbox(
                connection, program_id, member_id, before=before, size=size + 1, unread=unread
            )
            written = await self._written(connection, program_id, found)
            waiting = await messages.unread(connection, program_id, member_id)
        shown = [Shown(m, _shown(m, member, program, written)) for m in found[:size]]
        return Inbox(shown, len(found) > size, waiting)

    async def shown(
        self, program_id: UUID, member_id: UUID, message_ids: Sequence[UUID]
    ) -> Mapping[UUID, Shown]:
        """These messages of the inbox, with their texts; what isn't there is left out."""
        async with self._database.connection() as connection:
            member = await self._member(connection, program_id, member_id)
            program = await programs.get(connection, program_id)
            if member is None or program is None:
                return {}
            found = await messages.those(connection, program_id, member_id, message_ids)
            written = await self._written(connection, program_id, found)
        return {m.message_id: Shown(m, _shown(m, member, program, written)) for m in found}

    async def _written(
        self, connection: Connection, program_id: UUID, found: Sequence[Message]
    ) -> Mapping[tuple[Key, int], Template]:
        """The program's own templates by which these are shown."""
        pinned = {(Key(m.occasion, INBOX, m.language), m.version) for m in found if m.version}
        return await templates.versions(connection, program_id, pinned) if pinned else {}

    async def mark_read(self, program_id: UUID, member_id: UUID, message_ids: Sequence[UUID]) -> int:
        """These are read; how many are still unread. What isn't there is passed over. Raises NotFound."""
        async with self._database.transaction() as connection:
            if not await members.exists(connection, program_id, member_id):
                raise NotFound("MEMBER_NOT_FOUND", "no such member")
            await messages.mark_read(connection, program_id, member_id, message_ids, self._clock())
            return await messages.unread(connection, program_id, member_id)

    async def letter(self, delivery: Delivery) -> Letter:
        """What a delivery is to send, now. From here on its message takes in no more.

        Raises Unwanted if the member doesn't want it any more, Postponed in quiet hours, Permanent if the
        message can't be written.
        """
        program_id, member_id = delivery.program_id, delivery.member_id
        async with self._database.transaction() as connection:
            program = await programs.get(connection, program_id)
            member = await self._member(connection, program_id, member_id)
            if program is None or member is None:
                raise Unwanted("the member is not there any more")
            message = await self._wanted(connection, delivery, program)
            given = await templates.in_force(
                connection, program_id, occasion=message.occasion, channel=delivery.channel
            )
            terms = (await templates.terms_of(connection, [program_id]))[program_id]
        address = ADDRESSES[delivery.channel](member)
        if not address:
            raise Unwanted("the member has no address there any more")
        wanted = (member.profile.preferences.language_code, terms.language)
        template = chosen(message.occasion, delivery.channel, wanted, given)
        try:
            content = render(template.key, template.content, _facts(message, member, program))
        except RenderingError as error:
            where = f"template {'.'.join(template.key)} version {template.version}"
            raise Permanent(f"{where}: {error}") from None
        return Letter(delivery.delivery_id, member_id, address, content, template.key.language)

    async def clear(self, program_id: UUID) -> Cleared:
        """Forget what is old, and give up what waited for a channel for as long as it was news."""
        now, lapsed, forgotten, more = self._clock(), 0, 0, True
        while more:
            async with self._database.transaction() as connection:
                found = await deliveries.lapse(connection, program_id, decide.NEWS_FOR, CLEARED_AT_ONCE)
            lapsed, more = lapsed + found, found == CLEARED_AT_ONCE
        last: UUID | None = UUID(int=0)
        while last is not None:
            async with self._database.transaction() as connection:
                found, last = await deliveries.forget(
                    connection, program_id, ADDRESSES, now - SENT_KEPT, last, CLEARED_AT_ONCE
                )
            forgotten += found
        dropped, more = 0, True
        while more:
            async with self._database.transaction() as connection:
                found = await messages.forget(connection, program_id, now - INBOX_KEPT, CLEARED_AT_ONCE)
            dropped, more = dropped + found, found == CLEARED_AT_ONCE
        return Cleared(dropped, forgotten, lapsed)

    async def _wanted(self, connection: Connection, delivery: Delivery, program: Program) -> Message:
        """The delivery's message, closed. Raises Unwanted and Postponed."""
        program_id, member_id = delivery.program_id, delivery.member_id
        message_id = UUID(delivery.content["message_id"])
        message = await messages.get(connection, program_id, member_id, message_id)
        addressee = (await messages.addressees(connection, [(program_id, member_id)])).get(
            (program_id, member_id)
        )
        if message is None or addressee is None:
            raise Unwanted("the message is not there any more")
        terms = (await templates.terms_of(connection, [program_id]))[program_id]
        occasion, now = OCCASIONS[message.occasion], self._clock()
        if delivery.channel not in decide.channels(occasion, addressee, terms):
            raise Unwanted("the member does not want it any more")
        if message.useless_at is not None and message.useless_at <= now:
            raise Unwanted("nobody wants to know that any more")
        over = decide.next_hour(occasion, addressee.zone(program), terms, now)
        if over > now:
            raise Postponed("quiet hours", (over - now).total_seconds())
        closed = await messages.close(connection, program_id, member_id, message_id)
        assert closed is not None
        return closed

    async def _member(self, connection: Connection, program_id: UUID, member_id: UUID) -> Member | None:
        rows = await members.rows(connection, [(program_id, member_id)])
        try:
            return members.opened(self._sealer, rows[0]) if rows else None
        except BrokenSealError:
            raise Permanent("what is stored of the member does not open") from None


def _shown(
    message: Message, member: Member, program: Program, written: Mapping[tuple[Key, int], Template]
) -> Content:
    key = Key(message.occasion, INBOX, message.language)
    template = written[key, message.version] if message.version else own().get(key)
    if template is None:  # of a language that an older version of Laurel had
        template = chosen(message.occasion, INBOX, (message.language, ""), {})
    try:
        return render(template.key, template.content, _facts(message, member, program))
    except RenderingError:
        # A name as no example has it. The message is there all the same.
        return render(key, own()[key._replace(language="en")].content, _facts(message, member, program))


def _facts(message: Message, member: Member, program: Program) -> Facts:
    return {**message.facts, "program": program.name, "given_name": member.profile.given_name}
