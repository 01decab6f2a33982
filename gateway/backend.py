"""What stands behind the shim: something that answers RPCs given and giving bytes."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from google.rpc import status_pb2

Metadata = tuple[tuple[str, str], ...]


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC to be made.

    ``path`` is ``/package.Service/Method``; ``timeout`` is in seconds, None for the
    server's own; ``peer`` is where the request came from, as gRPC writes it. ``admitted``
    is called when a stream's first words come from the server, its initial metadata: it has
    let the caller in.
    """

    path: str
    metadata: Metadata
    timeout: float | None
    peer: str
    admitted: Callable[[], None] = nothing


class Failed(Exception):  # noqa: N818 - reads as the sentence it is
    """The RPC's answer is a status.

    ``challenge`` is what WWW-Authenticate is to say, if the backend says so; ``http`` is the
    HTTP status where it isn't that of the table.
    """

    def __init__(self, status: status_pb2.Status, challenge: str | None = None) -> None:
        super().__init__(status.code)
        self.status = status
        self.challenge = challenge
        self.http: int | None = None


class Backend(Protocol):
    """Answers RPCs. Whoever stops waiting has cancelled the call."""

    async def unary(self, call: Call, request: bytes) -> bytes:
        """The reply to one message. Raises Failed."""

    def stream(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The replies to any number of messages. Iterating raises Failed."""
