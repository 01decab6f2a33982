"""A mail server on a port of this machine: takes mails, refuses them, dies and comes back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP

from tests.support.waiting import eventually


@dataclass
class MailServer:
    """Answers recipients with ``rcpt``, mails with ``data``, and awaits ``taking`` before that."""

    rcpt: dict[str, str] = field(default_factory=dict)
    data: str = "250 taken"
    taking: Callable[[EmailMessage], Awaitable[None]] | None = None
    mails: list[EmailMessage] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"smtp://127.0.0.1:{self.port}"

    def to(self, address: str) -> list[EmailMessage]:
        """The mails to that address."""
        return [mail for mail in self.mails if mail["To"] == address]

    async def has(self, address: str, count: int = 1) -> list[EmailMessage]:
        """Wait until so many mails to the address have arrived."""

        async def arrived() -> bool:
            return len(self.to(address)) >= count

        await eventually(arrived, 60)
        return self.to(address)

    async def start(self) -> None:
        """Listen, again on the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, hostname="mail.test", enable_SMTPUTF8=True), "127.0.0.1", self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Be dead."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def handle_RCPT(  # noqa: N802 - as the library calls it
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        """Take a recipient or not."""
        answer = self.rcpt.get(address, "250 fine")
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        """Take a mail or not."""
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        if self.taking is not None:
            await self.taking(mail)
        return self.data


@asynccontextmanager
async def mail_server(**terms: Any) -> AsyncIterator[MailServer]:
    """A mail server for as long as the block lasts."""
    server = MailServer(**terms)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
