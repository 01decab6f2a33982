"""Occasions from what brings them about to what members get of them: by the whole of a worker, once each."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any
from uuid import UUID, uuid4

from google.type.date_pb2 import Date
from loyalty.v1 import movements_pb2
from websockets.asyncio.client import ClientConnection, connect

from gateway.settings import GatewaySettings
from laurel.process.main import running as serving
from server.domain.lots import Expiry, LotTerms, Until
from server.domain.program import LedgerTerms
from server.settings import Settings
from server.store import log
from server.store.database import Database
from server.store.log import BEGINNING
from tests.support.mailbox import buy, decide, deliveries, inbox, join, open_shop
from tests.support.mailserver import MailServer, mail_server
from tests.support.programs import new_program, worker_settings_for
from tests.support.receivers import Receiver, listening
from tests.support.relays import caught_up
from tests.support.servers import Laurel, started
from tests.support.waiting import eventually
from workers.deliveries import Pace
from workers.main import running
from workers.notifications import telling

PATIENCE = 60.0
PLATINUM = "You've unlocked Platinum"


@asynccontextmanager
async def worker(shop: Laurel, mails: MailServer, phones: Receiver) -> AsyncIterator[None]:
    """A worker as it is run: with every consumer, channel and schedule."""
    settings = worker_settings_for(
        shop.settings,
        mail_from="The Shop <shop@laurel.test>",
        smtp_url=mails.url,
        push_url=f"json://{phones.place}/push/{{to}}?+X-Delivery-Id={{delivery_id}}",
    )
    async with running(settings, pace=Pace(poll_seconds=0.1)):
        await caught_up(shop.database, ["notifications"])
        yield


@asynccontextmanager
async def a_shop(settings: Settings, database: Database, **terms: Any) -> AsyncIterator[Laurel]:
    """A server and a program of its own, whose schedules have never been run."""
    program = await new_program(database, **terms)
    async with started(settings, database, program) as laurel:
        await open_shop(laurel)
        yield laurel


async def all_sent(shop: Laurel, member_id: str) -> None:
    """Wait until all that happened was told, and all that is due was sent."""
    await caught_up(shop.database, ["notifications"])

    async def so() -> bool:
        return all(d["status"] == "sent" for d in await deliveries(shop, member_id))

    await eventually(so, PATIENCE)


async def told_again(shop: Laurel, member_id: str) -> None:
    """Hand all that ever happened to the member to the consumer once more."""
    async with shop.database.transaction() as connection:
        stretch = await log.read(connection, BEGINNING, None, 100_000)
        await telling.handle(connection, [e for e in stretch.events if e.member_id == UUID(member_id)])


async def read_until(socket: ClientConnection, message: str) -> list[str]:
    """What the socket tells, up to a message."""
    said: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while message not in said:
            update = json.loads(await socket.recv())["result"]
            said += [one["message"] for one in update.values() if isinstance(one, dict) and "message" in one]
    return said


def named(mails: list[EmailMessage], subject: str) -> list[EmailMessage]:
    return [mail for mail in mails if mail["Subject"] == subject]


async def test_crossing_10_000_points_says_so_on_a_websocket_by_mail_and_by_push_once(
    settings: Settings, database: Database
) -> None:
    async with AsyncExitStack() as opened:
        shop = await opened.enter_async_context(a_shop(settings, database))
        mails = await opened.enter_async_context(mail_server())
        phones = await opened.enter_async_context(listening(status=200))
        await opened.enter_async_context(worker(shop, mails, phones))
        process = await opened.enter_async_context(serving(settings, GatewaySettings(http_port=0)))
        email = f"{uuid4().hex}@example.com"
        member_id = await join(shop, email=email, given_name="Asha", family_name="Rao")
        place = f"ws://127.0.0.1:{process.rest.port}/members/{member_id}:watch"
        headers = {"authorization": f"Bearer {shop.service.key}"}
        socket = await opened.enter_async_context(connect(place, proxy=None, additional_headers=headers))
        assert "standing" in json.loads(await socket.recv())["result"]

        await buy(shop, member_id, 9_990)
        bought = await buy(shop, member_id, 15)
        assert (await read_until(socket, PLATINUM)).count(PLATINUM) == 1
        await buy(shop, member_id, 5)
        assert PLATINUM not in await read_until(socket, "You've earned 5 points")
        # The goods go back and are bought again: live is how it is, a message is news.
        await shop.terminal.points.ReturnPurchase(
            movements_pb2.ReturnPurchaseRequest(request_id=uuid4().hex, member_id=member_id, event_id=bought)
        )
        await buy(shop, member_id, 7)
        await all_sent(shop, member_id)
        await told_again(shop, member_id)
        await all_sent(shop, member_id)
        subjects = [message.subject for message in (await inbox(shop, member_id)).messages]
        assert subjects.count(PLATINUM) == 1

    sent = await deliveries(shop, member_id)
    (mail,) = named(mails.to(email), PLATINUM)
    body, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert isinstance(body, EmailMessage)
    assert isinstance(html, EmailMessage)
    assert body.get_content().startswith("Hello Asha,")
    assert "<p>Hello Asha,</p>" in html.get_content()
    assert (mail["From"], mail["Auto-Submitted"]) == ("The Shop <shop@laurel.test>", "auto-generated")
    ids = [f"<{d['delivery_id']}@laurel.test>" for d in sent if d["channel"] == "email"]
    assert sorted(m["Message-ID"] for m in mails.to(email)) == sorted(ids)
    pushed = [call for call in phones.received if call.path == f"/push/{member_id}"]
    assert [json.loads(call.body)["title"] for call in pushed].count(PLATINUM) == 1
    ids = [str(d["delivery_id"]) for d in sent if d["channel"] == "push"]
    assert sorted(call.headers["x-delivery-id"] for call in pushed) == sorted(ids)


async def test_points_that_will_expire_are_found_by_the_clock_and_told_by_mail_once(
    settings: Settings, database: Database
) -> None:
    ledger = LedgerTerms({"points": LotTerms(expiry=Expiry(Until.DAYS, 10))}, warn_days=(30,))
    async with AsyncExitStack() as opened:
        shop = await opened.enter_async_context(a_shop(settings, database, ledger=ledger))
        email = f"{uuid4().hex}@example.com"
        member_id = await join(shop, "email", email=email)
        await buy(shop, member_id, 120)
        mails = await opened.enter_async_context(mail_server())
        phones = await opened.enter_async_context(listening(status=200))
        for _ in range(2):  # another worker finds it done
            async with worker(shop, mails, phones):
                await mails.has(email, 1)
                await done(shop, "warnings")
                await all_sent(shop, member_id)
    subjects = [mail["Subject"] for mail in mails.to(email)]
    assert [subject for subject in subjects if subject.startswith("120 points expire on ")] == subjects[-1:]


async def test_who_has_a_birthday_and_agreed_gets_a_mail_on_the_day_once(
    settings: Settings, database: Database
) -> None:
    # Where it is about noon: the day must not end meanwhile.
    zone = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
    async with AsyncExitStack() as opened:
        shop = await opened.enter_async_context(a_shop(settings, database, time_zone=zone))
        today = shop.program.business_date(datetime.now(UTC))
        born = {"birth_date": Date(year=1992, month=today.month, day=today.day)}
        agreed, silent = f"{uuid4().hex}@example.com", f"{uuid4().hex}@example.com"
        member_id = await join(shop, "email", email=agreed, **born)
        await decide(shop, member_id, "marketing", granted=True)
        other_id = await join(shop, "email", email=silent, **born)
        mails = await opened.enter_async_context(mail_server())
        phones = await opened.enter_async_context(listening(status=200))
        for _ in range(2):
            async with worker(shop, mails, phones):
                await done(shop, "birthday")
                await all_sent(shop, member_id)
                await all_sent(shop, other_id)
    assert [len(named(mails.to(to), "Happy birthday!")) for to in (agreed, silent)] == [1, 0]


async def done(shop: Laurel, schedule: str) -> None:
    """Wait until the schedule of the shop has been done."""

    async def so() -> bool:
        async with shop.database.connection() as connection:
            outcome = await connection.fetchval(
                "SELECT outcome FROM schedule WHERE name = $1 AND program_id = $2",
                schedule,
                shop.program.program_id,
            )
        return outcome == "done"

    await eventually(so, PATIENCE)
