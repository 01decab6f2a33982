"""A partner's server: it takes webhooks, and verifies them with the library that partners use."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks.webhooks import Webhook

from tests.support.waiting import eventually
from tests.support.web import serving


@dataclass(frozen=True)
class Received:
    """One call that arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        """By which a repetition is told."""
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> Any:
        """The content, if the signature is one by this secret; raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, dict(self.headers))


@dataclass
class Receiver:
    """Answers every call with ``status`` and ``content``, unless ``answer`` gives another status for it."""

    status: int = 204
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: Callable[[Received], Awaitable[int | None]] | None = None
    received: list[Received] = field(default_factory=list)
    place: str = ""

    def url(self, path: str = "/hooks") -> str:
        """Where it listens."""
        return f"http://{self.place}{path}"

    def types(self) -> list[str]:
        """The types of event, in the order in which they arrived."""
        return [json.loads(call.body)["type"] for call in self.received]

    async def has(self, count: int, seconds: float = 60.0) -> None:
        """Wait until so many calls have arrived."""

        async def arrived() -> bool:
            return len(self.received) >= count

        await eventually(arrived, seconds)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return  # who called was killed in the middle of it
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        call = Received(scope["raw_path"].decode(), headers, body)
        self.received.append(call)
        status = await self.answer(call) if self.answer else None
        said = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": status or self.status, "headers": said})
        await send({"type": "http.response.body", "body": self.content})


@asynccontextmanager
async def listening(**terms: Any) -> AsyncIterator[Receiver]:
    """A receiver on a port of this machine."""
    receiver = Receiver(**terms)
    async with serving(receiver) as place:
        receiver.place = place
        yield receiver
