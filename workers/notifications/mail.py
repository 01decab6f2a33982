"""Mail: by SMTP, or into a folder where nobody is bothered by it.

A mail has the delivery's id as its Message-ID, whenever it is sent: mail servers and readers know a
repetition by that.
"""

import asyncio
import os
import smtplib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from pathlib import Path

import aiosmtplib

from server.domain.deliveries import Delivery, Permanent, Temporary
from server.operations.messages import Letter, Messages
from workers.means import Means, Send
from workers.notifications.smtp import Server, read_sender, read_server
from workers.settings import ChannelSettings

# Less in all than a delivery may take.
SECONDS = 10.0

Post = Callable[[EmailMessage, Letter], Awaitable[str]]


@asynccontextmanager
async def email(means: Means) -> AsyncIterator[Send]:
    """The channel ``email``, by a server or into a folder: one of the two is set."""
    messages, settings = Messages(means.database, means.sealer, means.clock), means.settings
    post, sender = _post(settings), read_sender(settings.mail_from)

    async def send(delivery: Delivery) -> str:
        letter = await messages.letter(delivery)
        return await post(composed(letter, sender, format_datetime(means.clock())), letter)

    yield send


def composed(letter: Letter, sender: Address, date: str) -> EmailMessage:
    """The letter as a mail. Raises Permanent if the address can't stand in one."""
    mail = EmailMessage(policy=SMTP if letter.address.isascii() else SMTPUTF8)
    try:
        mail["To"] = Address(addr_spec=letter.address)
    except (ValueError, IndexError):
        raise Permanent("the address can't be written into a mail") from None
    mail["From"] = sender
    mail["Subject"] = letter.content.subject
    mail["Date"] = date
    mail["Message-ID"] = f"<{letter.delivery_id}@{sender.domain}>"
    # Nobody's holiday answers this.
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(letter.content.text)
    if letter.content.html:
        mail.add_alternative(letter.content.html, subtype="html")
    mail["Content-Language"] = letter.language
    return mail


def _post(settings: ChannelSettings) -> Post:
    if url := settings.smtp_url.get_secret_value():
        server, sender = read_server(url), read_sender(settings.mail_from)

        async def by_smtp(mail: EmailMessage, letter: Letter) -> str:
            return await _by_smtp(server, sender, mail, letter)

        return by_smtp
    folder = Path(settings.mail_folder)

    async def to_folder(mail: EmailMessage, letter: Letter) -> str:
        await asyncio.to_thread(_keep, folder, mail, letter)
        return "kept"

    return to_folder


async def _by_smtp(server: Server, sender: Address, mail: EmailMessage, letter: Letter) -> str:
    """The server's reply code, and no more of what it says: that may quote the address. Raises NotSent."""
    try:
        _, reply = await aiosmtplib.send(
            mail,
            sender=sender.addr_spec,
            recipients=[letter.address],
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.tls,
            start_tls=server.starttls,
            local_hostname=sender.domain,
            timeout=SECONDS,
        )
    except aiosmtplib.SMTPRecipientsRefused as refused:
        raise _judged(refused.recipients[0].code, "the recipient was refused") from None
    except aiosmtplib.SMTPDataError as refused:
        raise _judged(refused.code, "the mail was refused") from None
    except aiosmtplib.SMTPResponseException as refused:
        # Of our own name or password: somebody has to mend that, and then it goes out.
        raise Temporary("the mail server refused us", str(refused.code)) from None
    except (aiosmtplib.SMTPException, OSError, smtplib.SMTPException) as error:
        raise Temporary(f"no mail server: {type(error).__name__}") from None
    return reply[:3] if reply[:3].isdigit() else "250"


def _judged(code: int, why: str) -> Temporary | Permanent:
    return Permanent(why, str(code)) if code >= 500 else Temporary(why, str(code))


def _keep(folder: Path, mail: EmailMessage, letter: Letter) -> None:
    """One file a delivery: sent again, it takes the place of the first."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{letter.delivery_id}.eml"
    half = path.with_suffix(f".{os.getpid()}")
    half.write_bytes(mail.as_bytes())
    half.chmod(0o600)
    half.replace(path)
