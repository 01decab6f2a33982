"""Members hear of what happens by mail, SMS and push: once, and in spite of outages."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from email import message_from_bytes, policy
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID, uuid4

import pytest
import structlog
from apprise.plugins.fcm import NotifyFCM
from apprise.plugins.one_signal import NotifyOneSignal
from apprise.plugins.twilio import NotifyTwilio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from loyalty.v1 import dead_letters_pb2

from server.domain.actor import CallerKind
from server.domain.deliveries import Permanent
from server.domain.notifications.templates import Content
from server.operations.messages import Letter
from server.settings import Settings
from tests.support.mailbox import AT_ONCE, buy, decide, deliveries, join, open_shop, set_terms
from tests.support.mailserver import MailServer, mail_server
from tests.support.personal import traces
from tests.support.processes import environment
from tests.support.programs import worker_settings_for
from tests.support.receivers import Received, listening
from tests.support.relays import caught_up
from tests.support.servers import Laurel
from tests.support.waiting import eventually
from workers.deliveries import Pace
from workers.main import Process, running
from workers.notifications.mail import composed
from workers.notifications.smtp import read_sender, read_server
from workers.settings import WorkerSettings
from workers.subscriptions import SUBSCRIPTIONS

# Soon again, and soon given up.
QUICK = Pace(poll_seconds=0.1, waits=(0.05, 0.1))
PATIENT = replace(QUICK, waits=(0.2,) * 300)
CONSUMER = "notifications"


@pytest.fixture(scope="module")
async def shop(laurel: Laurel) -> Laurel:
    """A point for each rupee; a worker has been there, so that what happens from now on is told."""
    await open_shop(laurel)
    async with worker(laurel):
        await caught_up(laurel.database, [CONSUMER])
    return laurel


@pytest.fixture(autouse=True)
async def nothing_is_left(shop: Laurel) -> AsyncIterator[None]:
    """What one test left to be sent is not sent in the next, and what it had open is closed."""
    yield
    async with shop.database.connection() as connection:
        await connection.execute("DELETE FROM open_channel")
        await connection.execute(
            "UPDATE delivery SET status = 'discarded', finished_at = now() WHERE status = 'pending'"
        )


def worker(shop: Laurel, pace: Pace = QUICK, **channels: str) -> AbstractAsyncContextManager[Process]:
    """A worker with these settings of channels."""
    settings = worker_settings_for(shop.settings, mail_from="The Shop <shop@laurel.test>", **channels)
    return running(settings, {CONSUMER: SUBSCRIPTIONS[CONSUMER]}, pace=pace)


async def ended(shop: Laurel, member_id: str, channel: str, *statuses: str) -> list[dict[str, Any]]:
    """The member's deliveries by that channel, when they are so many and have these statuses."""
    found: list[dict[str, Any]] = []

    async def so() -> bool:
        found[:] = [d for d in await deliveries(shop, member_id) if d["channel"] == channel]
        return sorted(d["status"] for d in found) == sorted(statuses)

    await eventually(so, 60)
    return found


async def told_all(shop: Laurel, member_id: str) -> None:
    """Wait until all that happened was told, and all that is due was sent."""
    await caught_up(shop.database, [CONSUMER])

    async def so() -> bool:
        return all(d["status"] != "pending" for d in await deliveries(shop, member_id))

    await eventually(so, 60)


def plain(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert isinstance(body, EmailMessage)
    return str(body.get_content())


def address() -> str:
    return f"{uuid4().hex}@example.com"


@pytest.mark.faults
async def test_a_worker_killed_while_it_sends_repeats_the_mail_under_the_same_id(
    shop: Laurel, tmp_path: Path
) -> None:
    workers: list[asyncio.subprocess.Process] = []

    async def kill_the_first(_: EmailMessage) -> None:
        if len(mails.mails) == 1:
            workers[0].send_signal(signal.SIGKILL)
            await workers[0].wait()

    async with AsyncExitStack() as opened:
        mails = await opened.enter_async_context(mail_server(taking=kill_the_first))
        email = address()
        member_id = await join(shop, "email", email=email)
        for _ in range(2):
            workers.append(await worker_process(shop.settings, mails, tmp_path))
            opened.push_async_callback(dead, workers[-1])
            await mails.has(email, len(workers))
            if len(workers) == 1:
                await workers[0].wait()
                # Its lease runs out in a while; not to wait for that, it has run out.
                async with shop.database.connection() as connection:
                    await connection.execute(
                        "UPDATE delivery SET next_attempt_at = now() WHERE member_id = $1", UUID(member_id)
                    )
        (delivery,) = await ended(shop, member_id, "email", "sent")
        first, second = mails.to(email)
        assert first["Message-ID"] == second["Message-ID"] == f"<{delivery['delivery_id']}@localhost>"
        assert plain(first) == plain(second)


async def worker_process(settings: Settings, mails: MailServer, folder: Path) -> asyncio.subprocess.Process:
    """A worker as it is run, set up by its environment."""
    values = {
        "LAUREL_DATABASE_URL": settings.database_url.get_secret_value(),
        "LAUREL_REDIS_URL": settings.redis_url.get_secret_value(),
        "LAUREL_SECRETS_FILE": str(settings.secrets_file),
        "LAUREL_SMTP_URL": mails.url,
        "LAUREL_WORKER_OPS_PORT": "",
    }
    with (folder / "worker.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "workers",
            env=environment(**values),
            stdout=log,
            stderr=log,
            cwd=os.getcwd(),
        )


async def dead(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_a_mail_server_dead_for_longer_than_all_retries_leaves_a_dead_letter_that_replay_delivers(
    shop: Laurel,
) -> None:
    staff = await shop.caller(await shop.new_key(CallerKind.STAFF, scopes=["deadletters.*"]))
    async with mail_server() as mails, listening(status=200) as phones:
        push = f"json://{phones.place}/{{to}}"
        async with worker(shop, smtp_url=mails.url, push_url=push):
            await mails.stop()
            email = address()
            member_id = await join(shop, email=email)
            (delivery,) = await ended(shop, member_id, "email", "dead")
            await ended(shop, member_id, "push", "sent")  # its neighbour is unharmed
            assert delivery["attempts"] == 3
            assert delivery["last_error"].startswith("no mail server: ")
            request = dead_letters_pb2.ListDeadLettersRequest(consumer="email")
            letters = (await staff.dead_letters.ListDeadLetters(request)).dead_letters
            assert [letter.dead_letter_id for letter in letters] == [str(delivery["delivery_id"])]
            await mails.start()
            replay = dead_letters_pb2.ReplayDeadLetterRequest(dead_letter_id=str(delivery["delivery_id"]))
            await staff.dead_letters.ReplayDeadLetter(replay)
            (mail,) = await mails.has(email)
            await ended(shop, member_id, "email", "sent")
    assert mail["Message-ID"] == f"<{delivery['delivery_id']}@laurel.test>"


async def test_an_address_that_is_refused_is_given_up_and_others_get_their_mail(shop: Laurel) -> None:
    refused, busy, fine = address(), address(), address()
    answers = {refused: f"550 no {refused} here", busy: "450 later"}
    async with mail_server(rcpt=answers) as mails, worker(shop, PATIENT, smtp_url=mails.url):
        ids = {email: await join(shop, "email", email=email) for email in (refused, busy, fine)}
        await mails.has(fine)
        (delivery,) = await ended(shop, ids[refused], "email", "dead")
        assert (delivery["attempts"], delivery["last_error"]) == (1, "the recipient was refused")
        del answers[busy]
        await mails.has(busy)
        assert mails.to(refused) == []


async def test_who_withdraws_consent_while_a_mail_waits_does_not_get_it(shop: Laurel) -> None:
    async with mail_server() as mails:
        await mails.stop()
        async with worker(shop, PATIENT, smtp_url=mails.url):
            email = address()
            member_id = await join(shop, "email", email=email)
            await ended(shop, member_id, "email", "pending")
            await decide(shop, member_id, "service", granted=False)
            await ended(shop, member_id, "email", "discarded")
            await mails.start()
            await buy(shop, member_id, 10_000)
            await told_all(shop, member_id)
    assert mails.to(email) == []
    assert len(await deliveries(shop, member_id)) == 1


async def test_a_burst_is_one_mail(shop: Laurel) -> None:
    await set_terms(shop, replace(AT_ONCE, join_seconds=3600))
    async with mail_server() as mails, worker(shop, smtp_url=mails.url):
        email = address()
        member_id = await join(shop, "email", email=email)
        for rupees in (100, 20, 3):
            await buy(shop, member_id, rupees)
        await caught_up(shop.database, [CONSUMER])
        await ended(shop, member_id, "email", "sent", "pending")
        async with shop.database.connection() as connection:  # an hour later
            await connection.execute(
                "UPDATE delivery SET next_attempt_at = now() WHERE member_id = $1", UUID(member_id)
            )
        await ended(shop, member_id, "email", "sent", "sent")
    await set_terms(shop, AT_ONCE)
    subjects = sorted(mail["Subject"] for mail in mails.to(email))
    assert subjects == [f"Welcome to {shop.program.name}", "You earned 123 points"]


async def test_an_sms_goes_to_the_number_again_after_an_outage_and_never_if_it_is_refused(
    shop: Laurel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = {"+919812377777": [503, 200], "+919812300000": [400]}

    async def answer(call: Received) -> int:
        return answers[json.loads(call.body)["to"]].pop(0)

    async with listening(answer=answer) as gateway:
        url = f"json://{gateway.place}/sms?:to={{to}}&+X-Delivery-Id={{delivery_id}}"
        with structlog.testing.capture_logs() as logged:
            async with worker(shop, PATIENT, sms_url=url):
                ids = [await join(shop, "sms", phone=phone, language="hi") for phone in answers]
                (sent,) = await ended(shop, ids[0], "sms", "sent")
                (refused,) = await ended(shop, ids[1], "sms", "dead")
        first, again = [call for call in gateway.received if json.loads(call.body)["to"] == "+919812377777"]
    assert first.headers["x-delivery-id"] == again.headers["x-delivery-id"] == str(sent["delivery_id"])
    assert json.loads(again.body)["message"].startswith(f"{shop.program.name} में आपका स्वागत है!")
    assert refused["last_error"] == "the provider refused it"
    async with shop.database.connection() as connection:
        tables = ("delivery", "delivery_attempt", "dead_letter", "event_log", "message")
        rows = [await connection.fetch(f"SELECT to_jsonb(t) FROM {table} t") for table in tables]
        attempts = await connection.fetch(
            "SELECT outcome, response FROM delivery_attempt WHERE delivery_id = ANY($1) ORDER BY 1 DESC",
            [sent["delivery_id"], refused["delivery_id"]],
        )
    assert [tuple(row) for row in attempts] == [("temporary", "503"), ("sent", "sent"), ("permanent", "400")]
    for text in (json.dumps([row[0] for table in rows for row in table]), caplog.text, str(logged)):
        assert traces(text) == []
        assert "919812300000" not in text


async def test_twilio_and_onesignal_are_called_as_they_want_to_be(
    shop: Laurel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(status=200) as providers:
        monkeypatch.setattr(NotifyTwilio, "notify_sms_url", f"http://{providers.place}/twilio/{{sid}}")
        monkeypatch.setattr(NotifyOneSignal, "notify_url", f"http://{providers.place}/onesignal")
        sms = f"twilio://AC{'a' * 32}:{'b' * 32}@+15551234567/{{to}}"
        async with worker(shop, sms_url=sms, push_url=f"onesignal://{uuid4()}@key/@{{to}}"):
            member_id = await join(shop, "sms", "push", phone="+919812366666")
            await told_all(shop, member_id)
    by_path = {call.path.split("/")[1]: call for call in providers.received}
    form = parse_qs(by_path["twilio"].body.decode())
    assert (form["To"], form["From"]) == (["+919812366666"], ["+15551234567"])
    assert form["Body"][0].startswith(f"Welcome to {shop.program.name}!")
    said = json.loads(by_path["onesignal"].body)
    assert said["include_external_user_ids"] == [member_id]
    assert said["headings"] == {"en": f"Welcome to {shop.program.name}"}


async def test_fcm_is_called_as_it_wants_to_be(
    shop: Laurel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    token = {"access_token": "for an hour", "expires_in": 3600}
    async with listening(status=200, content=json.dumps(token).encode()) as google:
        monkeypatch.setattr(NotifyFCM, "notify_oauth2_url", f"http://{google.place}/fcm/{{project}}")
        account = {
            "type": "service_account",
            "project_id": "shop",
            "client_email": "laurel@shop.example",
            "private_key_id": "1",
            "private_key": key.decode(),
            "token_uri": f"http://{google.place}/token",
        }
        (tmp_path / "key.json").write_text(json.dumps(account))
        async with worker(shop, push_url=f"fcm://shop/%23{{to}}?keyfile={tmp_path}/key.json"):
            member_id = await join(shop, "push")
            await ended(shop, member_id, "push", "sent")
    asked, told = google.received
    assert asked.path == "/token"
    assert (told.path, told.headers["authorization"]) == ("/fcm/shop", "Bearer for an hour")
    said = json.loads(told.body)["message"]
    assert said["topic"] == member_id
    assert said["notification"]["title"] == f"Welcome to {shop.program.name}"


async def test_without_a_server_mail_goes_to_a_folder_one_file_each(shop: Laurel, tmp_path: Path) -> None:
    async with worker(shop, mail_folder=str(tmp_path / "mail")):
        email = address()
        member_id = await join(shop, "email", "sms", "push", email=email, language="hi")
        (delivery,) = await ended(shop, member_id, "email", "sent")
    (path,) = [p for p in (tmp_path / "mail").iterdir() if email in p.read_text()]
    assert path.name == f"{delivery['delivery_id']}.eml"
    assert path.stat().st_mode & 0o777 == 0o600
    mail = message_from_bytes(path.read_bytes(), policy=policy.default)
    assert mail["Subject"] == f"{shop.program.name} में आपका स्वागत है"
    # Nothing is made for what isn't set up.
    assert [d["channel"] for d in await deliveries(shop, member_id)] == ["email"]


async def test_a_worker_without_a_mail_server_leaves_mails_to_one_that_has_it(shop: Laurel) -> None:
    async with mail_server() as mails, listening(status=200) as phones:
        async with worker(shop, smtp_url=mails.url):
            pass  # once was here, and so mails are made
        email = address()
        async with worker(shop, push_url=f"json://{phones.place}/{{to}}"):
            member_id = await join(shop, email=email)
            # It looked for what is due, and of that took the push alone.
            await ended(shop, member_id, "push", "sent")
            (mail,) = await ended(shop, member_id, "email", "pending")
            assert mail["attempts"] == 0
            async with worker(shop, smtp_url=mails.url):
                await ended(shop, member_id, "email", "sent")
    assert len(mails.to(email)) == 1


def letter(**changes: Any) -> Letter:
    content = Content("Subject", "Text", "<p>Text</p>")
    return replace(Letter(UUID(int=1), UUID(int=2), "asha@example.com", content, "en"), **changes)


@pytest.mark.parametrize(
    "hostile",
    ["a@b.example\r\nBcc: x@example.com", "a@b.example, x@example.com", "not an address", "", "a\x00@b"],
)
def test_an_address_is_one_address_or_the_mail_is_not_written(hostile: str) -> None:
    with pytest.raises(Permanent):
        composed(letter(address=hostile), Address("Shop", "shop", "laurel.test"), "today")


def test_a_mail_keeps_letters_of_all_languages() -> None:
    content = Content("नमस्ते", "आपको पॉइंट मिले", "<p>आपको</p>")
    sender = read_sender("दुकान <shop@laurel.test>")
    mail = composed(letter(content=content, language="hi"), sender, "Tue, 24 Nov 2026 10:00:00 +0000")
    read = message_from_bytes(mail.as_bytes(), policy=policy.default)
    assert (read["Subject"], read["Content-Language"]) == ("नमस्ते", "hi")
    assert read["From"].addresses[0].display_name == "दुकान"


def test_a_mail_server_is_reached_by_tls_unless_it_is_here_or_somebody_says_otherwise() -> None:
    def how(url: str) -> tuple[int, bool, bool]:
        server = read_server(url)
        return server.port, server.tls, server.starttls

    assert how("smtp://mail.example.com:587") == (587, False, True)
    assert how("smtp://mail.example.com?starttls=no") == (25, False, False)
    assert how("smtps://mail.example.com") == (465, True, False)
    assert how("smtp://127.0.0.1:2525") == (2525, False, False)
    server = read_server("smtps://apikey:p%40ss@mail.example.com")
    assert (server.username, server.password) == ("apikey", "p@ss")
    assert "p@ss" not in repr(server)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("smtp_url", "https://secret@mail.example.com"),
        ("smtp_url", "smtp://secret@mail.example.com?tls=1"),
        ("smtp_url", "smtp://mail.example.com:secret"),
        ("mail_from", "secret"),
        ("sms_url", "twilio://secret@15551234567"),
        ("push_url", "secret{to}"),
    ],
)
def test_a_setting_that_is_wrong_is_refused_without_being_shown(setting: str, value: str) -> None:
    needed = {"database_url": "d", "redis_url": "r", "secrets_file": "s"}
    with pytest.raises(ValueError, match=setting) as found:
        WorkerSettings(**{**needed, setting: value})  # type: ignore[arg-type]
    assert "secret" not in str(found.value).replace("secrets_file", "")
