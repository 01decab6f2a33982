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
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.domain.books import MemberState
from server.domain.errors import NotFound, Refused
from server.domain.ledger import Wallet
from server.domain.live import (
    NOWHERE,
    Happened,
    MessageCame,
    Place,
    Update,
    after,
    together,
    told,
)
from server.domain.members import all_wallets
from server.ending import ended
from server.operations.coalesced import Coalesced
from server.operations.messages import Messages
from server.operations.programs import Programs
from server.operations.wallets import members_as_due
from server.store import households, merges
from server.store import live as store
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


class Standing(NamedTuple):
    """A member as they stand. ``merged_into``: who lives on, if they don't.

    ``household_id`` and what its pool holds: where they sit. Only where a stream begins.
    """

    status: str
    tier: str
    version: int
    wallets: tuple[Wallet, ...]
    merged_into: UUID | None = None
    household_id: UUID | None = None
    pool: tuple[Wallet, ...] = ()


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
    """How a member stands, and what happened since the place asked for, all of one moment.

    ``pooled``: what happened to the pool that the place names.
    """

    epoch: int
    newest: Place
    standing: Standing
    happened: list[Happened]
    pooled: list[Happened]
    came: list[Came]

    @property
    def full(self) -> bool:
        """Whether there may be more of it."""
        return max(len(self.happened), len(self.pooled), len(self.came)) >= PAGE


class _Watcher:
    """A stream that is open: the last place it told of, by whose it is, and what wakes it."""

    __slots__ = ("places", "wake")

    def __init__(self) -> None:
        self.places: Mapping[MemberOf, Place | None] = {}
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
        self._watchers: dict[str, set[_Watcher]] = {}
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
        with self._watching() as watcher:
            while True:
                watcher.wake.clear()
                self._follow(watcher, _followed(member, since))
                found = await self._present.get((member, since))
                if found is None:
                    raise NotFound("MEMBER_NOT_FOUND", "no such member")
                if since is not None and since.epoch != found.epoch:
                    # What it was told of before a restore may not have happened in this history.
                    since = None
                    continue
                if since is None:
                    since = found.newest
                    yield Told(since, self._clock(), found.standing)
                since = since.filled(found.newest, more=found.full)
                program = (await self._programs.at_hand(self._database, [program_id]))[program_id].program
                home = None if since.pool is None else since.pool.household_id
                for event, pooled in together(found.happened, found.pooled, PAGE):
                    of_pool = home if pooled else None
                    before, since = since, after(since, event, of_pool)
                    update = told(event, member_id, program, of_pool)
                    if update is not None and since != before:
                        yield Told(since, event.recorded_at, found.standing, update)
                async for position, at, message in self._shown(member, found.came if inbox else []):
                    since = since._replace(message=position)
                    yield Told(since, at, found.standing, message)
                if found.came:
                    since = since._replace(message=found.came[-1].position)
                # What happens to a pool that it didn't follow as it read it may have missed.
                if not self._follow(watcher, _followed(member, since)) or found.full:
                    continue
                while not watcher.wake.is_set():
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
    def _watching(self) -> Iterator[_Watcher]:
        watcher = _Watcher()
        try:
            yield watcher
        finally:
            self._follow(watcher, {})

    def _follow(self, watcher: _Watcher, places: Mapping[MemberOf, Place | None]) -> bool:
        """Wake the stream for these from now on, of which it knows so much; whether it was for all before."""
        before, watcher.places = watcher.places, places
        for member in before.keys() - places.keys():
            watchers = self._watchers[name_of(member)]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[name_of(member)]
        for member in places.keys() - before.keys():
            self._watchers.setdefault(name_of(member), set()).add(watcher)
        if self._watchers:
            self._some.set()
        else:
            self._some.clear()
        return places.keys() <= before.keys()

    async def _woken(self, watcher: _Watcher) -> bool:
        """Wait for something to happen; false if it is time for a sign of life."""
        try:
            async with asyncio.timeout(self._heartbeat_seconds):
                await watcher.wake.wait()
        except TimeoutError:
            return False
        return True

    def _standing(
        self, member: MemberOf, states: Mapping[MemberOf, MemberState], pool: MemberOf | None
    ) -> Standing:
        snapshot = self._programs.known(member[0])
        assert snapshot is not None  # they were asked for as due
        state, point_types = states[member], snapshot.program.point_types
        standing = Standing(
            state.status,
            state.facts.tier,
            state.version,
            all_wallets(tuple(state.wallets.values()), point_types),
        )
        if pool is None or pool not in states:
            return standing
        held = all_wallets(tuple(states[pool].wallets.values()), point_types)
        return standing._replace(household_id=pool[1], pool=held)

    def _wake(self, name: str) -> None:
        for watcher in self._watchers.get(name, ()):
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
        idle = {w for watchers in self._watchers.values() for w in watchers if not w.wake.is_set()}
        followed = {one for watcher in idle for one in watcher.places.items()}
        wanted: list[Since] = [(member, place) for member, place in followed if place is not None]
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
        pools: Mapping[Any, Since] = {since: pool for since in places if (pool := _pool(*since)) is not None}
        unseated = {member for member, place in wanted if place is None or place.pool is None}
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            questions: list[Question[Any]] = [
                store.epoch(),
                store.newest(members),
                store.newest_message(members),
                households.seats_open(list(unseated), []),
            ]
            if places:
                questions += [store.since([*places, *set(pools.values())]), store.messages_since(places)]
            epoch, newest, last, seats, *news = await ask(connection, *questions)
            homes: dict[MemberOf, MemberOf] = {
                member: (member[0], seat.household_id) for member, seat in seats.items()
            }
            if homes:
                newest |= (await ask(connection, store.newest(list(set(homes.values())))))[0]
            everybody = list({*members, *homes.values()})
            states = await members_as_due(connection, self._programs, everybody, self._clock())
            ended = [member for member in members if member in states and states[member].status == "merged"]
            survivors = await merges.survivors(connection, ended) if ended else {}
        happened: Mapping[Any, list[Happened]] = news[0] if news else {}
        came: Mapping[Any, list[Came]] = news[1] if news else {}
        beginning = Place(epoch, 0, 0, UUID(int=0))
        found: dict[tuple[MemberOf, Place | None], _Present] = {}
        for member, place in wanted:
            if member not in states:
                continue
            one = member, place
            known = newest.get(member, beginning).within(epoch)._replace(message=last.get(member, 0))
            if (home := homes.get(member)) is not None:
                known = known._replace(pool=newest.get(home, beginning).within(epoch).in_pool(home[1]))
            found[one] = _Present(
                epoch,
                known,
                self._standing(member, states, home)._replace(merged_into=survivors.get(member)),
                happened.get(one, []),
                happened.get(pools.get(one), []),
                came.get(one, []),
            )
        return found


def _pool(member: MemberOf, place: Place) -> Since | None:
    """The pool that a member knows of, and how much of it they do."""
    if place.pool is None or place.pool == NOWHERE:
        return None
    return (member[0], place.pool.household_id), place.of_pool()


def _followed(member: MemberOf, place: Place | None) -> Mapping[MemberOf, Place | None]:
    """What a stream is to be woken for, and how much of each it knows."""
    pool = None if place is None else _pool(member, place)
    return {member: place} if pool is None else {member: place, pool[0]: pool[1]}
