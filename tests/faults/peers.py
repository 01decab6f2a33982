"""Who is told of what happens: a mail server, a partner and a provider of push, beside the test."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage

from tests.support.mailserver import MailServer, mail_server
from tests.support.receivers import Received, Receiver, listening

START_SECONDS = 60.0
LONGEST_ANSWER_SECONDS = 0.05


class Peers:
    """What arrived at each. They run in a thread, so that a test may wait for other things meanwhile."""

    def __init__(self) -> None:
        self.mails = MailServer()
        self.partner = self.phones = Receiver()

    @property
    def settings(self) -> dict[str, str]:
        """Of workers and servers that are to reach them."""
        return {
            "LAUREL_SMTP_URL": self.mails.url,
            "LAUREL_MAIL_FROM": "The Shop <shop@laurel.test>",
            "LAUREL_PUSH_URL": f"json://{self.phones.place}/{{to}}?+X-Delivery-Id={{delivery_id}}",
            "LAUREL_WEBHOOK_LOOPBACK": "true",
        }

    def arrived(self) -> list[tuple[str, str, object]]:
        """Everything so far: the channel, the message's id, and what it says."""
        return [
            *(("email", _id(mail), _said(mail)) for mail in list(self.mails.mails)),
            *(("webhook", call.message_id, call.body) for call in list(self.partner.received)),
            *(
                ("push", call.headers["x-delivery-id"], (call.path, call.body))
                for call in list(self.phones.received)
            ),
        ]

    def count(self) -> Counter[str]:
        """How often each message arrived, by its id."""
        return Counter(message_id for _, message_id, _ in self.arrived())


@contextmanager
def opened() -> Iterator[Peers]:
    """All three, for as long as the block lasts."""
    peers, ready = Peers(), threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def slowly(_: Received) -> None:
        """So that whoever dies or freezes is most likely amid a call."""
        await asyncio.sleep(random.uniform(0, LONGEST_ANSWER_SECONDS))

    async def serve() -> None:
        async with (
            mail_server() as peers.mails,
            listening(answer=slowly) as peers.partner,
            listening() as peers.phones,
        ):
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="peers", daemon=True)
    thread.start()
    try:
        assert ready.wait(START_SECONDS)
        yield peers
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(START_SECONDS)
        loop.close()


def _id(mail: EmailMessage) -> str:
    return str(mail["Message-ID"]).strip("<>").partition("@")[0]


def _said(mail: EmailMessage) -> object:
    body = mail.get_body(("plain",))
    assert body is not None
    return mail["To"], mail["Subject"], body.get_content()
