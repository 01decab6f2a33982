"""The one door: every call passes it before a handler sees anything of it.

In this order: deadline, size, credential, its rate limit, kind of caller, scope; only
then are the bytes read, the store and the member they name compared with the
credential's, the member's rate limit applied, and what they ask for compared with how
the person logged in. So nobody learns anything, not even whether something is there,
without being admitted.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2

from server.domain.actor import Actor, CallerKind
from server.domain.commands import Command
from server.domain.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Refused,
    ResourceExhausted,
    Unauthenticated,
)
from server.domain.limits import RateClass
from server.operations.limits import Limits
from server.operations.lines import Turn
from server.rpc.access import Declaration
from server.rpc.admission import allow, bind, member_of, step_up, uuid_of
from server.rpc.peers import network_of
from server.rpc.streams import Inbox, Outbox, Streams

AGAIN_SECONDS = 0.1
ANONYMOUS = Actor(
    kind=CallerKind.PUBLIC,
    program_id=UUID(int=0),
    credential_id=UUID(int=0),
    name="",
    source_system="",
    scopes=frozenset(),
)


@dataclass(slots=True)
class Call:
    """What a handler knows of a call besides its request.

    ``deadline`` is a time of the event loop, in seconds; infinite for a stream without one.
    Handlers append to ``touched`` the ids of members whose data the reply shows and whom
    the request did not name in the declared member field: before a member of staff gets
    the reply, it is recorded whom they looked at. ``turn`` is what a command of the call
    waits for at the committer, if it is an entry of a journal.
    """

    actor: Actor
    deadline: float
    method: str
    touched: list[UUID] = field(default_factory=list)
    rate_class: RateClass = RateClass.READ
    # None once the call has been counted against its member.
    uncounted: Limits | None = None
    turn: Turn | None = None
    # What it came in by, for requests within it.
    incoming: "Incoming | None" = None
    key: str | None = None
    # What is committed instead of the call's own command, and lets that one through.
    via: Callable[[Command], Command] | None = None

    async def count(self, member_id: UUID) -> None:
        """Apply the rate limit of the member whom the call turns out to be about.

        The gate has done so where the caller or the declared field said it. Raises
        ResourceExhausted (RATE_LIMITED).
        """
        limits, self.uncounted = self.uncounted, None
        if limits is None:
            return
        program_id, rate_class = self.actor.program_id, self.rate_class
        pending = limits.member(program_id, member_id, rate_class)
        if pending is not None:
            await _let_in(pending, self.turn, lambda: limits.member(program_id, member_id, rate_class))


class Verifier(Protocol):
    """Knows whose a credential is."""

    async def verify(self, key: str) -> Actor:
        """The holder; raises Unauthenticated, or Unavailable if that can't be found out now."""

    def knows(self, key: str) -> bool:
        """Whether it was verified lately, so that doing so again costs next to nothing."""


class Recorder(Protocol):
    """Keeps the record of what staff looked at."""

    async def record(self, actor: Actor, method: str, member_ids: Sequence[UUID]) -> None:
        """Written durably on return."""


class Incoming(Protocol):
    """What is known of a call before its bytes are read. gRPC's own context is one."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Names in lower case, and values."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None if it set none."""

    def peer(self) -> str:
        """Where the call comes from, as gRPC writes it: ``ipv4:127.0.0.1:4711``."""

    async def send_initial_metadata(self, metadata: tuple[()]) -> None:
        """Tell the caller of a stream that it was let in; once."""


class Failed(Exception):  # noqa: N818 - reads as the sentence it is
    """The call's answer is a status instead of a reply."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.code)
        self.status = status


Handler = Callable[[Any, Call], Awaitable[Message]]
# Of an RPC in which only the server streams.
Watching = Callable[[Any, Call], AsyncGenerator[Message, None]]
# A whole method behind the gate: the request's bytes in, the reply's out. Raises Failed.
Method = Callable[[bytes, Incoming], Awaitable[bytes]]
# The same of an RPC in which one side streams: replies are sent by the second.
Stream = Callable[[AsyncIterator[bytes], Callable[[bytes], Awaitable[None]], Incoming], Awaitable[None]]


class Gate:
    """What all guarded methods of a server share. Limits in seconds and bytes."""

    def __init__(
        self,
        verifier: Verifier,
        recorder: Recorder,
        limits: Limits | None = None,
        *,
        streams: Streams | None = None,
        default_deadline: float = 10.0,
        max_deadline: float = 60.0,
        max_message_bytes: int = 4 * 1024 * 1024,
        recheck_seconds: float = 20.0,
    ) -> None:
        self.under_way = 0
        self.streams = streams or Streams()
        self._verifier = verifier
        self._recorder = recorder
        self._limits = limits or Limits()
        self._default_deadline = default_deadline
        self._max_deadline = max_deadline
        self._max_message_bytes = max_message_bytes
        self._recheck_seconds = recheck_seconds
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Wait until no call is under way."""
        await self._idle.wait()

    def enter(self) -> None:
        """A call begins."""
        self.under_way += 1
        self._idle.clear()

    def leave(self) -> None:
        """A call has ended."""
        self.under_way -= 1
        if not self.under_way:
            self._idle.set()

    async def answer(
        self,
        declaration: Declaration,
        decode: Callable[[bytes], Message],
        handler: Handler,
        raw: bytes,
        incoming: Incoming,
    ) -> bytes:
        """The reply's bytes. Raises Refused, or whatever went wrong."""
        left = incoming.time_remaining()
        if left is not None and left <= 0:
            raise _too_late()
        self._check_size(raw)
        span = self._default_deadline if left is None else min(left, self._max_deadline)
        deadline = asyncio.get_running_loop().time() + span
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                key = _credential(incoming)
                actor = await self._admit(declaration, incoming, key)
                request = _decode(decode, raw)
                call = self._call(declaration, actor, deadline, incoming, key)
                return (await self._handle(declaration, handler, request, call)).SerializeToString()
        except TimeoutError:
            if limit.expired():
                raise _too_late() from None
            raise

    @asynccontextmanager
    async def stream(
        self,
        declaration: Declaration,
        decode: Callable[[bytes], Message],
        raws: AsyncIterator[bytes],
        incoming: Incoming,
    ) -> AsyncIterator[tuple[Inbox, Call]]:
        """A stream that was let in, for as long as the block lasts.

        Only the caller's own deadline ends it. What can't be read of it is given to its
        handler as a refusal. Raises Refused, or whatever went wrong.
        """
        left = incoming.time_remaining()
        if left is not None and left <= 0:
            raise _too_late()
        deadline = math.inf if left is None else asyncio.get_running_loop().time() + left
        limit = asyncio.timeout_at(None if left is None else deadline)
        try:
            async with limit:
                key = _credential(incoming)
                actor = await self._admit(declaration, incoming, key)
                await incoming.send_initial_metadata(())
                inbox = Inbox(raws, lambda raw: self._read(decode, raw), self.streams.idle_seconds)
                try:
                    with self.streams.opened(inbox, actor.credential_id):
                        yield inbox, self._call(declaration, actor, deadline, incoming, key)
                finally:
                    inbox.close()
        except TimeoutError:
            if limit.expired():
                raise _too_late() from None
            raise

    @asynccontextmanager
    async def watch(
        self,
        declaration: Declaration,
        decode: Callable[[bytes], Message],
        handler: Watching,
        raws: AsyncIterator[bytes],
        incoming: Incoming,
    ) -> AsyncIterator[AsyncIterator[Message]]:
        """The replies of an RPC in which only the server streams, for as long as the block lasts.

        Its one request passes as a call of its own would. Only the caller's own deadline ends
        it, and a credential that isn't good any more. Raises Refused, or whatever went wrong.
        """
        left = incoming.time_remaining()
        if left is not None and left <= 0:
            raise _too_late()
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout_at(loop.time() + (self._default_deadline if left is None else left))
        try:
            async with limit:
                key = _credential(incoming)
                actor = await self._admit(declaration, incoming, key)
                await incoming.send_initial_metadata(())
                raw = await anext(raws, b"")
                if isinstance(raws, AsyncGenerator):
                    await raws.aclose()
                self._check_size(raw)
                request = _decode(decode, raw)
                call = self._call(declaration, actor, math.inf, incoming, key)
                await self._bound(declaration, request, call)
                outbox = Outbox(lambda: self._recheck(declaration, incoming), self._recheck_seconds)
                with self.streams.opened(outbox, actor.credential_id), outbox:
                    limit.reschedule(None if left is None else limit.when())
                    async with aclosing(handler(request, call)) as replies:
                        if actor.kind is CallerKind.STAFF:
                            yield self._on_record(declaration, request, call, replies)
                        else:
                            yield replies
        except TimeoutError:
            if limit.expired():
                raise _too_late() from None
            raise

    async def _on_record(
        self, declaration: Declaration, request: Message, call: Call, replies: AsyncIterator[Message]
    ) -> AsyncIterator[Message]:
        """The replies; before staff get the first one, it is on record that they asked."""
        first = True
        async for reply in replies:
            if first:
                await self._record(declaration, request, call)
                first = False
            yield reply

    async def _recheck(self, declaration: Declaration, incoming: Incoming) -> None:
        """Raises Refused unless the caller would be let in now."""
        if (key := _credential(incoming)) is not None:
            allow(declaration, await self._verifier.verify(key))

    async def within(
        self, call: Call, declaration: Declaration, handler: Handler, request: Message, turn: Turn
    ) -> Message:
        """The reply to a request that another call brought, as if it had come by itself.

        The credential is looked at anew: one that was revoked meanwhile brings nothing
        more in. Raises Refused, or whatever went wrong.
        """
        assert call.incoming is not None
        actor = await self._admit(declaration, call.incoming, call.key, turn)
        inner = self._call(declaration, actor, call.deadline, call.incoming, call.key)
        inner.turn = turn
        return await self._handle(declaration, handler, request, inner)

    def _call(
        self, declaration: Declaration, actor: Actor, deadline: float, incoming: Incoming, key: str | None
    ) -> Call:
        return Call(
            actor,
            deadline,
            declaration.method,
            rate_class=declaration.rate_class,
            uncounted=self._limits,
            incoming=incoming,
            key=key,
        )

    def _read(self, decode: Callable[[bytes], Message], raw: bytes) -> Message | Refused:
        try:
            self._check_size(raw)
            return _decode(decode, raw)
        except Refused as refusal:
            return refusal

    def _check_size(self, raw: bytes) -> None:
        if len(raw) > self._max_message_bytes:
            raise ResourceExhausted(
                "MESSAGE_TOO_LARGE",
                f"a request has at most {self._max_message_bytes:,} bytes",
                {"limit_bytes": str(self._max_message_bytes)},
            )

    async def _handle(
        self, declaration: Declaration, handler: Handler, request: Message, call: Call
    ) -> Message:
        """The reply to whom the gate has let in, if this very request is theirs to make."""
        await self._bound(declaration, request, call)
        if call.actor.kind is CallerKind.STAFF:
            return await self._answer_staff(declaration, handler, request, call)
        return await handler(request, call)

    async def _bound(self, declaration: Declaration, request: Message, call: Call) -> None:
        """Hold the caller to what is theirs, to the member's rate limit and to how they logged in."""
        actor = call.actor
        bind(declaration, actor, request)
        if (member_id := member_of(declaration, actor, request)) is not None:
            await call.count(member_id)
        step_up(declaration, actor, request)

    async def _admit(
        self, declaration: Declaration, incoming: Incoming, key: str | None, turn: Turn | None = None
    ) -> Actor:
        if key is None and declaration.public:
            return ANONYMOUS
        try:
            actor = await self._verify(key, incoming)
        except Unauthenticated:
            self._limits.failed(network_of(incoming.peer()))
            raise
        credential_id, rate_class = actor.credential_id, declaration.rate_class
        pending = self._limits.credential(credential_id, rate_class)
        if pending is not None:
            await _let_in(pending, turn, lambda: self._limits.credential(credential_id, rate_class))
        allow(declaration, actor)
        return actor

    async def _verify(self, key: str | None, incoming: Incoming) -> Actor:
        if key is None:
            raise Unauthenticated(
                "CREDENTIAL_INVALID",
                "send a token or key as `authorization: Bearer ...`, or a key as `x-api-key: ...`",
            )
        if self._limits.wary and not self._verifier.knows(key):
            self._limits.hear(network_of(incoming.peer()))
        return await self._verifier.verify(key)

    async def _answer_staff(
        self, declaration: Declaration, handler: Handler, request: Message, call: Call
    ) -> Message:
        """Staff get no answer about a member before it is on record that they asked."""
        try:
            reply = await handler(request, call)
        except (FailedPrecondition, AlreadyExists, Aborted):
            # These tell of the member too; a member who isn't there leaves no trace.
            await self._record(declaration, request, call)
            raise
        await self._record(declaration, request, call)
        return reply

    async def _record(self, declaration: Declaration, request: Message, call: Call) -> None:
        member_ids = list(dict.fromkeys(call.touched))
        named = declaration.member_of(request) if declaration.member_of else ""
        member_id = uuid_of(named)
        if member_id is not None and member_id not in member_ids:
            member_ids.append(member_id)
        if member_ids:
            await self._recorder.record(call.actor, declaration.method, member_ids)


async def _let_in(
    pending: Awaitable[None], turn: Turn | None, again: Callable[[], Awaitable[None] | None]
) -> None:
    """Wait for a limit. An entry that can wait comes again where others are refused."""
    while True:
        try:
            await pending
        except ResourceExhausted as refusal:
            if turn is None or not turn.patient:
                raise
            await asyncio.sleep(refusal.retry_after_seconds or AGAIN_SECONDS)
        else:
            return
        taken = again()
        if taken is None:
            return
        pending = taken


def _credential(incoming: Incoming) -> str | None:
    """The key that the caller sent. Two different ones, or another scheme, are as good as a wrong one."""
    found: str | None = None
    for name, value in incoming.invocation_metadata() or ():
        if name == "authorization":
            text = value if isinstance(value, str) else ""
            scheme, _, key = text.partition(" ")
            key = key.strip() if scheme.lower() == "bearer" else ""
        elif name == "x-api-key":
            key = value if isinstance(value, str) else ""
        else:
            continue
        found = key if found is None or found == key else ""
    return found


def _decode(decode: Callable[[bytes], Message], raw: bytes) -> Message:
    try:
        return decode(raw)
    except (DecodeError, ValueError):
        raise InvalidArgument(
            (),
            "UNDECODABLE_MESSAGE",
            "the bytes are no message of this method, or hold text that is not UTF-8",
        ) from None


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("DEADLINE_EXCEEDED", "the call's time was over before the work was done")
