"""What happens to members, told to those who watch them as it happens.

A hint wakes the streams of a member; they read what was committed since the last event they told of. So
nothing is buffered for slow readers, they read later, and a hint that went missing costs a delay: all
streams of a process look together, once in a while, whether there is something that they weren't told of.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.domain.errors import NotFound, Refused
from server.domain.ledger import Wallet
from server.domain.live import Happened, MessageCame, Place, Update, told
from server.domain.members import all_wallets
from server.ending import ended
from server.operations.coalesced import Coalesced
from server.operations.messages import Messages
from server.operations.programs import Programs
from server.operations.wallets import members_as_due
from server.store import live as store
from server.store import merges
from server.store.database import Connection, Database
from server.store.hints import member_changes, name_of
from server.store.ledger import MemberOf
from server.store.live import PAGE, Came, Since
from server.store.together import Question, ask

# How long a hint that went missing delays what it was about; shorter while none can come.
LOOK_SECONDS = 5.0
LOOK_ALONE_SECONDS = 1.0
LOOK_AT_ONCE = 500
# So often a stream on which nothing happens gives a sign of life: to whatever stands between, and to learn
# that nobody is there any more.
HEARTBEAT_SECONDS = 60.0
RETRY_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """A member as they stand. ``merged_into``: who lives on, if they don't."""

    status: str
    tier: str
    version: int
    wallets: tuple[Wallet, ...]
    merged_into: UUID | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """Something to be told to who watches, of a moment, and the place up to which they know then.

    ``update`` is None where the stream begins, or begins anew, with ``standing``; both are None in a sign
    of life. With an update comes how the member stood when it was read.
    """

    place: Place
    at: datetime
    standing: Standing | None = None
    update: Update | None = None


@dataclass(frozen=True, slots=True)
class _Present:
    """How a member stands, and what happened since the place asked for, all of one moment."""

    epoch: int
    newest: Place
    standing: Standing
    happened: list[Happened]
    came: list[Came]


class _Watcher:
    """A stream that is open: the last place it told of, and what wakes it."""

    __slots__ = ("place", "wake")

    def __init__(self) -> None:
        self.place: Place | None = None
        self.wake = asyncio.Event()


class Live:
    """The open streams of one process. ``clock`` tells the time, aware, in UTC.

    ``messages`` makes text of what came into inboxes; None where nobody is to be told of it.
    """

    def __init__(
        self,
        database: Database,
        programs: Programs,
        redis: Redis,
        clock: Callable[[], datetime],
        *,
        messages: Messages | None = None,
        look_seconds: float = LOOK_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._database = database
        self._programs = programs
        self._redis = redis
        self._clock = clock
        self._messages = messages
        self._look_seconds = look_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._watchers: dict[str, tuple[MemberOf, set[_Watcher]]] = {}
        self._some = asyncio.Event()
        self._listening = False
        self._look_now = asyncio.Event()
        self._present: Coalesced[tuple[MemberOf, Place | None], _Present] = Coalesced(database, self._read)
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._look_for_ever())]

    async def watch(
        self, program_id: UUID, member_id: UUID, since: Place | None, *, inbox: bool = False
    ) -> AsyncGenerator[Told, None]:
        """How the member stands, or else everything since a place, and then what happens, for ever.

        What comes into the member's ``inbox`` too, if that is wanted.
        Raises NotFound, and Unavailable or ResourceExhausted when the database can't be asked.
        """
        member = program_id, member_id
        with self._watching(member) as watcher:
            while True:
                watcher.wake.clear()
                found = await self._present.get((member, since))
                if found is None:
                    raise NotFound("MEMBER_NOT_FOUND", "no such member")
                if since is None or since.epoch != found.epoch:
                    # What it was told of before a restore may not have happened in this history.
                    since, happened, came = found.newest, [], []
                    yield Told(since, self._clock(), found.standing)
                else:
                    happened, came = found.happened, found.came
                    if since.message is None:
                        since = since._replace(message=found.newest.message)
                program = (await self._programs.at_hand(self._database, [program_id]))[program_id].program
                for event in happened:
                    since = event.place._replace(message=since.message)
                    update = told(event, member_id, program)
                    if update is not None:
                        yield Told(since, event.recorded_at, found.standing, update)
                async for position, at, message in self._shown(member, came if inbox else []):
                    since = since._replace(message=position)
                    yield Told(since, at, found.standing, message)
                if came:
                    since = since._replace(message=came[-1].position)
                watcher.place = since
                while max(len(happened), len(came)) < PAGE and not watcher.wake.is_set():
                    if not await self._woken(watcher):
                        yield Told(since, self._clock())

    async def _shown(
        self, member: MemberOf, came: Sequence[Came]
    ) -> AsyncGenerator[tuple[int, datetime, MessageCame], None]:
        """What these say, each with its position and when it was made."""
        if not came or self._messages is None:
            return
        shown = await self._messages.shown(*member, [one.message_id for one in came])
        for message_id, position in came:
            if (one := shown.get(message_id)) is not None:
                made, content = one
                update = MessageCame(message_id, made.occasion, content.subject, content.text, made.language)
                yield position, made.created_at, update

    async def close(self) -> None:
        """Listen and look no more."""
        await ended(self._tasks)

    @contextmanager
    def _watching(self, member: MemberOf) -> Iterator[_Watcher]:
        name, watcher = name_of(member), _Watcher()
        _, watchers = self._watchers.setdefault(name, (member, set()))
        watchers.add(watcher)
        self._some.set()
        try:
            yield watcher
        finally:
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[name]
            if not self._watchers:
                self._some.clear()

    async def _woken(self, watcher: _Watcher) -> bool:
        """Wait for something to happen; false if it is time for a sign of life."""
        try:
            async with asyncio.timeout(self._heartbeat_seconds):
                await watcher.wake.wait()
        except TimeoutError:
            return False
        return True

    def _wake(self, name: str) -> None:
        if (entry := self._watchers.get(name)) is not None:
            for watcher in entry[1]:
                watcher.wake.set()

    async def _listen(self) -> None:
        """Follow hints as long as anybody watches."""
        while True:
            await self._some.wait()
            try:
                async for names in member_changes(self._redis):
                    if not self._listening:
                        # What happened before this process listened has to be looked for.
                        self._listening = True
                        self._look_now.set()
                    for name in names:
                        self._wake(name)
                    if not self._watchers:
                        break
            except (RedisError, OSError) as error:
                log.debug("live_alone", error=type(error).__name__)
                if self._listening:
                    self._listening = False
                    self._look_now.set()
                await asyncio.sleep(RETRY_SECONDS)
            self._listening = False

    async def _look_for_ever(self) -> None:
        """Find what no hint told of."""
        while True:
            await self._some.wait()
            self._look_now.clear()
            with contextlib.suppress(Refused, asyncpg.PostgresError):
                await self._look()
            seconds = self._look_seconds if self._listening else min(LOOK_ALONE_SECONDS, self._look_seconds)
            with contextlib.suppress(TimeoutError):
                # Processes that were started together don't ask together.
                async with asyncio.timeout(seconds * random.uniform(0.75, 1.25)):  # noqa: S311 - no secret
                    await self._look_now.wait()

    async def _look(self) -> None:
        """Wake the streams to whose members something has happened; many with one query. Raises Refused."""
        wanted: list[Since] = [
            (member, place)
            for member, watchers in self._watchers.values()
            for place in {watcher.place for watcher in watchers if not watcher.wake.is_set()}
            if place is not None
        ]
        for first in range(0, len(wanted), LOOK_AT_ONCE):
            some = wanted[first : first + LOOK_AT_ONCE]
            async with self._database.connection() as connection:
                (behind,) = await ask(connection, store.behind(some))
            for member in behind:
                self._wake(name_of(member))

    async def _read(
        self, connection: Connection, wanted: Collection[tuple[MemberOf, Place | None]]
    ) -> Mapping[tuple[MemberOf, Place | None], _Present]:
        """How members stand and what has happened to them, of one moment."""
        members = list({member for member, _ in wanted})
        places: list[Since] = [(member, place) for member, place in wanted if place is not None]
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            questions: list[Question[Any]] = [
                store.epoch(),
                store.newest(members),
                store.newest_message(members),
            ]
            if places:
                questions += [store.since(places), store.messages_since(places)]
            epoch, newest, last, *happened = await ask(connection, *questions)
            states = await members_as_due(connection, self._programs, members, self._clock())
            ended = [member for member, state in states.items() if state.status == "merged"]
            survivors = await merges.survivors(connection, ended) if ended else {}
        standings = {}
        for member, state in states.items():
            snapshot = self._programs.known(member[0])
            assert snapshot is not None  # they were asked for as due
            standings[member] = Standing(
                state.status,
                state.facts.tier,
                state.version,
                all_wallets(tuple(state.wallets.values()), snapshot.program.point_types),
                survivors.get(member),
            )
        beginning = Place(epoch, 0, 0, UUID(int=0))
        since: Mapping[Since, list[Happened]] = happened[0] if places else {}
        came: Mapping[Since, list[Came]] = happened[1] if places else {}
        return {
            (member, place): _Present(
                epoch,
                newest.get(member, beginning)._replace(message=last.get(member, 0)),
                standings[member],
                since.get((member, place), []) if place is not None else [],
                came.get((member, place), []) if place is not None else [],
            )
            for member, place in wanted
            if member in standings
        }
