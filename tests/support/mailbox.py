"""Members who are told of things: a shop, its events, and the messages that come of them."""

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from google.type.money_pb2 import Money
from loyalty.v1 import member_pb2, notifications_pb2, points_pb2

from server.domain.notifications.quiet_hours import NONE
from server.domain.notifications.terms import NotificationTerms
from server.operations.telling import tell
from server.store import log, templates
from server.store.log import BEGINNING, LoggedEvent
from tests.support.published import publish
from tests.support.servers import Laurel
from tests.support.waiting import eventually

OUTSIDE = frozenset({"email", "sms", "push"})
# A point for each rupee.
RULE = {
    "rule": "base",
    "type": "earn",
    "when": {"event": "PURCHASE"},
    "then": [{"earn": {"points": 1, "per": "1.00", "currency": "INR"}}],
}
AT_ONCE = NotificationTerms(quiet_hours=NONE, join_seconds=0)


async def open_shop(laurel: Laurel, terms: NotificationTerms = AT_ONCE) -> None:
    """A point for each rupee, and messages by these terms."""
    await publish(laurel, RULE)
    await set_terms(laurel, terms)


async def set_terms(laurel: Laurel, terms: NotificationTerms) -> None:
    """How the program writes to its members from now on."""
    async with laurel.database.transaction() as connection:
        await templates.set_terms(connection, laurel.program.program_id, terms)


async def join(laurel: Laurel, *channels: str, language: str = "", zone: str = "", **profile: Any) -> str:
    """A new member's id, with an email and a phone unless ``profile`` says otherwise."""
    preferences = member_pb2.Preferences(channels=channels, language_code=language, time_zone=zone)
    given = {"email": f"{uuid4().hex}@example.com", "phone": f"+9198{uuid4().int % 10**8:08}", **profile}
    return await laurel.register(preferences=preferences, **given)


async def decide(laurel: Laurel, member_id: str, purpose: str, granted: bool) -> None:
    """The member agrees or refuses."""
    consent = member_pb2.Consent(purpose=purpose, granted=granted)
    await laurel.service.members.RecordConsent(
        member_pb2.RecordConsentRequest(request_id=uuid4().hex, member_id=member_id, consent=consent)
    )


async def buy(laurel: Laurel, member_id: str, rupees: int) -> str:
    """The event of a purchase, which earns a point for each rupee."""
    reply = await laurel.terminal.points.Accrue(
        points_pb2.AccrueRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            order_reference=uuid4().hex,
            amount=Money(currency_code="INR", units=rupees),
        )
    )
    return reply.event_id


class Reader:
    """Reads the log as a subscription does, from where it stood."""

    def __init__(self, laurel: Laurel, outside: Collection[str] = OUTSIDE) -> None:
        self._laurel = laurel
        self._outside = outside
        self._place = BEGINNING

    async def events(self, *event_types: str) -> list[LoggedEvent]:
        """What was logged since, once all of it can be read."""
        found: list[LoggedEvent] = []

        async def all_read() -> bool:
            async with self._laurel.database.connection() as connection:
                stretch = await log.read(connection, self._place, event_types or None, 10_000)
                newest = await connection.fetchval("SELECT max(position) FROM event_log")
            found.extend(stretch.events)
            self._place = stretch.end
            return bool(stretch.end.position == newest)

        await eventually(all_read)
        return found

    async def tell(self, now: datetime | None = None, *event_types: str) -> None:
        """Have messages made of what was logged since, as of ``now``."""
        await self.tell_of(await self.events(*event_types), now)

    async def tell_of(self, events: Sequence[LoggedEvent], now: datetime | None = None) -> None:
        """Have messages made of these events, as of ``now``."""
        async with self._laurel.database.transaction() as connection:
            await tell(connection, events, self._outside, now or datetime.now(UTC))


async def inbox(laurel: Laurel, member_id: str, **wishes: Any) -> notifications_pb2.ListMessagesResponse:
    """The member's inbox."""
    request = notifications_pb2.ListMessagesRequest(member_id=member_id, **wishes)
    return await laurel.service.notifications.ListMessages(request)


async def deliveries(laurel: Laurel, member_id: str) -> list[dict[str, Any]]:
    """What is to be sent to the member, in the order of making."""
    async with laurel.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT * FROM delivery WHERE member_id = $1 ORDER BY delivery_id", UUID(member_id)
        )
    return [{**row, "content": json.loads(row["content"])} for row in rows]
