"""SMS and push, by whatever provider a URL of Apprise names.

    LAUREL_SMS_URL=twilio://SID:TOKEN@+15551234567/{to}
    LAUREL_PUSH_URL=onesignal://APP@KEY/@{to}

``{to}`` is the phone number, or the member's id; ``{delivery_id}`` may stand in a header of a gateway
of one's own.
"""

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import structlog

from server.domain.deliveries import Delivery, Permanent, Temporary
from server.operations.messages import Letter, Messages
from workers.means import Channel, Means, Send

# Apprise waits for answers in threads. As many as deliveries of one channel are under way at once.
THREADS = 32
# What a provider says of the message itself, rather than of us or of itself.
NEVER = frozenset({400, 404, 410, 413, 422})

_STATUS = re.compile(r"\berror=(\d{3})\b")


class _Statuses(logging.Handler):
    """Keeps Apprise's lines to itself, since they hold phone numbers, and of each the status of an answer.

    Apprise's functions say no more than whether it worked.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if found := _STATUS.search(record.getMessage()):
            self.last.status = int(found[1])


log = structlog.get_logger()

_statuses = _Statuses()
_log = logging.getLogger("apprise")
_log.handlers, _log.propagate, _log.level = [_statuses], False, logging.WARNING


def channel(name: str) -> Channel:
    """The channel of that name, which is also its setting's: ``sms`` or ``push``. The setting is set."""

    @asynccontextmanager
    async def provider(means: Means) -> AsyncIterator[Send]:
        messages = Messages(means.database, means.sealer, means.clock)
        url = getattr(means.settings, f"{name}_url").get_secret_value()
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        # Here rather than with the first message: Apprise loads all its providers then.
        if not await asyncio.to_thread(_provider, url.replace("{to}", "15551234567")):
            log.error("channel_unknown", channel=name)

        async def send(delivery: Delivery) -> str:
            letter = await messages.letter(delivery)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(threads, _send, _address(url, letter), letter)

        try:
            yield send
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    return provider


def _address(url: str, letter: Letter) -> str:
    url = url.replace("{to}", quote(letter.address, safe=""))
    return url.replace("{delivery_id}", str(letter.delivery_id))


def _provider(url: str) -> Any:
    """What Apprise makes of a URL, None if it doesn't know it."""
    # A worker without such a URL is spared what this takes: half a second and 25 MB.
    from apprise import Apprise, AppriseAsset

    return Apprise.instantiate(url, asset=AppriseAsset(app_id="Laurel", app_desc="Laurel"))


def _send(url: str, letter: Letter) -> str:
    """What the provider answered, in a word. Raises NotSent."""
    _statuses.last.status = 0
    # By itself: several together are notified in threads of Apprise's own, which say nothing to this one.
    provider = _provider(url)
    if not provider:
        raise Temporary("its URL is none that Apprise knows")
    content = letter.content
    if provider.notify(body=content.text, title=content.subject, body_format="text"):
        return "sent"
    status = _statuses.last.status
    if status in NEVER:
        raise Permanent("the provider refused it", str(status))
    raise Temporary("the provider did not take it", str(status) if status else "")
