"""Rate limits as the gate applies them: nothing per call but a dictionary and arithmetic.

Per credential and per member, for each rate class, and for failed credentials per peer.
Allowances are settled with Redis in the background, many at a time; a call waits for
that only if its allowance has nothing left. While Redis is away each process holds the
same limits by itself.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from types import MappingProxyType
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from server.domain.errors import ResourceExhausted
from server.domain.limits import SECOND, Allowance, Limit, RateClass
from server.ending import ended
from server.store.limits import Charge, LimitStore

# Of each kind and class; at most twice as many are remembered, about 400 bytes each.
SUBJECTS = 10_000
# What nobody waits for is settled this often; so many subjects with one call of Redis.
GATHER_SECONDS = 0.02
MOST_AT_ONCE = 500
# A Redis that hangs holds up nobody for longer.
PATIENCE_SECONDS = 0.25
RETRY_SECONDS = 1.0
NO_LIMITS: Mapping[RateClass, Limit] = MappingProxyType({})

log = structlog.get_logger()


class _Shared(Allowance):
    """An allowance with its name in Redis, and the future of those who wait for it to be settled."""

    __slots__ = ("answered", "asked", "name")

    def __init__(self, name: str, limit: Limit) -> None:
        super().__init__(limit)
        self.name = name
        self.asked = False
        self.answered: asyncio.Future[None] | None = None


class _Subjects:
    """The allowances of one kind and class; who wasn't seen for long is forgotten."""

    __slots__ = ("_old", "_size", "kind", "limit", "rate_class", "young")

    def __init__(self, kind: str, rate_class: str, limit: Limit, size: int) -> None:
        self.kind = kind
        self.rate_class = rate_class
        self.limit = limit
        self._size = size
        self.young: dict[Hashable, _Shared] = {}
        self._old: dict[Hashable, _Shared] = {}

    def find(self, subject: Hashable, name: str) -> _Shared:
        """The subject's allowance, made if need be; in ``young`` from then on."""
        found = self._old.pop(subject, None) or _Shared(f"{self.kind}:{self.rate_class}:{name}", self.limit)
        if len(self.young) >= self._size:
            self._old = self.young
            self.young = {}
        self.young[subject] = found
        return found

    def refusal(self, microseconds: int) -> ResourceExhausted:
        """The answer to one call too many."""
        return ResourceExhausted(
            "RATE_LIMITED",
            f"too many calls of this {self.kind}",
            {"limit": self.kind, "rate_class": self.rate_class},
            retry_after_seconds=microseconds / SECOND,
        )


def _microseconds() -> int:
    return time.monotonic_ns() // 1000


class Limits:
    """The limits of one process. Without any it lets everything through.

    ``clock`` counts microseconds; it need not agree with anybody else's. What is named
    in Redis are ids, never an address or anything else of a person.
    """

    def __init__(
        self,
        store: LimitStore | None = None,
        credential: Mapping[RateClass, Limit] = NO_LIMITS,
        member: Mapping[RateClass, Limit] = NO_LIMITS,
        failures: Limit | None = None,
        *,
        subjects: int = SUBJECTS,
        clock: Callable[[], int] = _microseconds,
    ) -> None:
        self._wary_until = 0
        self._store = store
        self._credentials = {
            c: _Subjects("credential", c, limit, subjects) for c, limit in credential.items()
        }
        self._members = {c: _Subjects("member", c, limit, subjects) for c, limit in member.items()}
        self._failures = _Subjects("peer", "failure", failures, subjects) if failures else None
        self._clock = clock
        self._alone = store is None
        self._asked: deque[_Shared] = deque()
        self._some = asyncio.Event()
        self._urgent = asyncio.Event()
        self._settling = None if store is None else asyncio.create_task(self._settle_for_ever(store))

    def credential(self, credential_id: UUID, rate_class: RateClass) -> Awaitable[None] | None:
        """Count a call of a credential.

        None: it may go on. Else await what is returned; it raises ResourceExhausted, or not.
        """
        subjects = self._credentials.get(rate_class)
        if subjects is None:
            return None
        held = subjects.young.get(credential_id) or subjects.find(credential_id, credential_id.hex)
        return self._take(subjects, held)

    def member(self, program_id: UUID, member_id: UUID, rate_class: RateClass) -> Awaitable[None] | None:
        """Count a call about a member, or about nobody of that id. As ``credential``."""
        subjects = self._members.get(rate_class)
        if subjects is None:
            return None
        # Whose member it is is part of the name: nobody uses up what is another program's.
        subject = (program_id, member_id)
        held = subjects.young.get(subject)
        if held is None:
            held = subjects.find(subject, f"{program_id.hex}:{member_id.hex}")
        return self._take(subjects, held)

    def failed(self, network: str) -> None:
        """Count a wrong credential from there. Raises ResourceExhausted after too many. Per process."""
        subjects = self._failures
        if subjects is None:
            return
        held = subjects.young.get(network) or subjects.find(network, "")
        now = self._clock()
        if not held.take(now) and not held.wait(now):
            held.settle_alone(now)
            held.take(now)
        if wait := held.wait(now):
            self._wary_until = max(self._wary_until, now + wait)
            raise subjects.refusal(wait)

    @property
    def wary(self) -> bool:
        """Whether there may be peers from whom only known credentials are heard."""
        return self._wary_until > 0 and self._clock() < self._wary_until

    def hear(self, network: str) -> None:
        """Raises ResourceExhausted if too many wrong credentials have come from there lately."""
        subjects = self._failures
        held = None if subjects is None else subjects.young.get(network)
        if subjects is not None and held is not None and (wait := held.wait(self._clock())):
            raise subjects.refusal(wait)

    async def close(self) -> None:
        """Settle no more."""
        if self._settling is not None:
            await ended([self._settling])

    def _take(self, subjects: _Subjects, held: _Shared) -> Awaitable[None] | None:
        if not held.left:
            return self._wait(subjects, held)
        held.left -= 1
        held.owed += 1
        if held.owed >= held.limit.due and not held.asked:
            self._ask(held)
        return None

    async def _wait(self, subjects: _Subjects, held: _Shared) -> None:
        """Settle, then take; again, because others wait for the same."""
        while True:
            now = self._clock()
            if held.take(now):
                return
            if wait := held.wait(now):
                raise subjects.refusal(wait)
            self._ask(held)
            if held.asked:
                held.answered = held.answered or asyncio.get_running_loop().create_future()
                self._urgent.set()
                # Who gives up must not end it for the others.
                await asyncio.shield(held.answered)

    def _ask(self, held: _Shared) -> None:
        """Have it settled soon; at once without Redis."""
        if self._alone:
            held.settle_alone(self._clock())
        elif not held.asked:
            held.asked = True
            self._asked.append(held)
            self._some.set()

    async def _settle_for_ever(self, store: LimitStore) -> None:
        while True:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._urgent.wait()
            self._urgent.clear()
            while self._asked and not self._alone:
                await self._settle(
                    store, [self._asked.popleft() for _ in range(min(len(self._asked), MOST_AT_ONCE))]
                )
            self._some.clear()
            if self._alone:
                await self._back(store)

    async def _settle(self, store: LimitStore, batch: list[_Shared]) -> None:
        now = self._clock()
        charges = [Charge(held.name, held.limit, held.owed, max(0, held.tat - now)) for held in batch]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answers = await store.charge(charges)
        except Exception as error:  # noqa: BLE001 - whatever it is, no call may wait for it
            log.warning("limits_alone", error=type(error).__name__)
            self._alone = True
            batch += self._asked
            self._asked.clear()
            now = self._clock()
            for held in batch:
                held.settle_alone(now)
        else:
            for held, charge, ahead in zip(batch, charges, answers, strict=True):
                held.settled(ahead, charge.used, now)
        for held in batch:
            held.asked = False
            if held.answered is not None:
                held.answered.set_result(None)
                held.answered = None
            if held.owed >= held.limit.due:
                self._ask(held)

    async def _back(self, store: LimitStore) -> None:
        """Wait for Redis to answer again."""
        while self._alone:
            await asyncio.sleep(RETRY_SECONDS)
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await store.answers()
                self._alone = False
        log.warning("limits_shared")
