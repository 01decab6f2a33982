"""Making messages of events: whom they concern, on which channels, when; bursts become one.

Done in the transaction that moves the reader of the log on, so that each event is told once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from server.domain.deliveries import Wanted
from server.domain.notifications import decide
from server.domain.notifications.decide import INBOX, Addressee, Plan
from server.domain.notifications.occasions import Happening, Logged, happening
from server.domain.notifications.templates import Key, Template
from server.domain.notifications.terms import NotificationTerms
from server.domain.program import Program
from server.ids import new_id
from server.operations.template_files import chosen
from server.store import deliveries, messages, programs, templates
from server.store.database import Connection
from server.store.ledger import MemberOf
from server.store.messages import Message

# Each has some places of its own among those that a worker has for deliveries.
TARGETS_PER_CHANNEL = 8


class LoggedOfMember(Logged, Protocol):
    """What is looked at of an event in the log, with whose it is."""

    @property
    def program_id(self) -> UUID: ...  # noqa: D102
    @property
    def member_id(self) -> UUID: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Scheme:
    """A program as messages need it. ``inbox``: its own templates of that channel."""

    program: Program
    terms: NotificationTerms
    inbox: Mapping[Key, Template]


class Told(NamedTuple):
    """An event and what it gives to tell."""

    event: LoggedOfMember
    happening: Happening
    scheme: Scheme

    @property
    def member(self) -> MemberOf:
        """Whom it concerns."""
        return self.event.program_id, self.event.member_id


async def tell(
    connection: Connection, events: Sequence[LoggedOfMember], outside: Collection[str], now: datetime
) -> None:
    """Write messages for these events, and deliveries for the channels ``outside`` Laurel that are set up."""
    schemes = await _schemes(connection, {event.program_id for event in events})
    told = [
        Told(event, found, scheme)
        for event in events
        if (scheme := schemes.get(event.program_id))
        and (found := happening(event, scheme.program, scheme.terms))
    ]
    if not told:
        return
    addressees = await messages.addressees(connection, {one.member for one in told})
    summed = {one.member for one in told if one.happening.occasion.summed}
    page = _Page(await messages.take_open(connection, summed, now) if summed else {})
    for one in told:
        if addressee := addressees.get(one.member):
            page.write(one, addressee, now)
    made = await messages.add(connection, list(page.new.values()))
    await messages.grow(connection, list(page.grown.values()))
    await deliveries.add(
        connection,
        [
            _delivery(page.new[message_id], channel)
            for message_id in page.new
            if message_id in made
            for channel in page.plans[message_id].outside
            if channel in outside
        ],
    )


class _Page:
    """The messages that a batch of events makes, and those that grow by it."""

    def __init__(self, opened: Mapping[tuple[UUID, UUID, str], Message]) -> None:
        self.new: dict[UUID, Message] = {}
        self.grown: dict[UUID, Message] = {}
        self.plans: dict[UUID, Plan] = {}
        self._open = dict(opened)

    def write(self, one: Told, addressee: Addressee, now: datetime) -> None:
        """Add the event to what still takes in more, or to a message of its own if the member wants one."""
        occasion, facts = one.happening.occasion, one.happening.facts
        before = self._open.get((*one.member, occasion.name))
        if before is not None:
            self._keep(replace(before, facts=decide.joined(occasion, before.facts, facts)))
            return
        program, terms = one.scheme.program, one.scheme.terms
        plan = decide.plan(
            one.happening, addressee, program, terms, occurred_at=one.event.occurred_at, now=now
        )
        if plan is None:
            return
        wanted = (addressee.preferences.language_code, terms.language)
        template = chosen(occasion.name, INBOX, wanted, one.scheme.inbox)
        message = Message(
            program_id=program.program_id,
            member_id=one.event.member_id,
            message_id=new_id(),
            occasion=occasion.name,
            once=one.happening.once,
            facts=facts,
            created_at=now,
            send_at=plan.send_at,
            useless_at=one.happening.useless_at,
            is_open=bool(occasion.summed) and plan.send_at > now,
            in_inbox=INBOX in plan.channels,
            language=template.key.language,
            version=template.version,
        )
        self.new[message.message_id] = message
        self.plans[message.message_id] = plan
        self._keep(message)

    def _keep(self, message: Message) -> None:
        if message.is_open:
            self._open[message.program_id, message.member_id, message.occasion] = message
        (self.new if message.message_id in self.new else self.grown)[message.message_id] = message


async def _schemes(connection: Connection, program_ids: set[UUID]) -> dict[UUID, Scheme]:
    terms = await templates.terms_of(connection, program_ids)
    found = {}
    for program_id in program_ids:
        program = await programs.get(connection, program_id)
        if program is not None:
            own = await templates.in_force(connection, program_id, channel=INBOX)
            found[program_id] = Scheme(program, terms[program_id], own)
    return found


def _delivery(message: Message, channel: str) -> Wanted:
    return Wanted(
        program_id=message.program_id,
        delivery_id=new_id(),
        channel=channel,
        target=f"{channel}/{message.member_id.int % TARGETS_PER_CHANNEL}",
        dedup_key=f"message:{message.message_id}:{channel}",
        content={"message_id": str(message.message_id)},
        member_id=message.member_id,
        due_at=message.send_at,
    )
