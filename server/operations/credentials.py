"""API keys: made, listed, revoked and, on every call, verified.

A key reads ``lrl_<id>_<secret>``: a prefix for scanners of leaked secrets to match,
the credential's id as 32 hex digits, 256 random bits as 52 characters of base32.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from server.domain.actor import Actor, CallerKind
from server.domain.errors import InvalidArgument, ResourceExhausted, Unauthenticated, Violation, invalid
from server.domain.scopes import expand
from server.ids import new_id
from server.operations.caches import keep
from server.operations.flights import Flights
from server.store import credentials as store
from server.store.credentials import Credential
from server.store.database import Database

PREFIX = "lrl"
ID_LENGTH = 32
SECRET_LENGTH = 52
KEY_LENGTH = len(PREFIX) + ID_LENGTH + SECRET_LENGTH + 2
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")

# What a key may do if nothing else is said. A pattern is expanded when the key is made:
# a scope that a later version adds is never granted by itself.
DEFAULT_SCOPES: Mapping[CallerKind, tuple[str, ...]] = MappingProxyType(
    {
        CallerKind.TERMINAL: (
            "members.read",
            "members.write",
            "points.accrue",
            "points.redeem",
            "points.return",
            "points.read",
            "households.read",
        ),
        CallerKind.SERVICE: ("*",),
        CallerKind.STAFF: (
            "members.*",
            "points.read",
            "reports.read",
            "rules.*",
            "schedules.*",
            "templates.*",
            "households.*",
        ),
    }
)
# Terminals of one till system share the space of their request_ids and receipts.
TERMINALS_SOURCE = "pos"

MAX_KNOWN = 10_000
MAX_REFUSED = 10_000
REFUSED_SECONDS = 5.0
# Keys never seen before are looked up a few at a time, so that a flood of invented ones
# can't take the connections from those who are known.
STRANGERS_AT_ONCE = 2
STRANGERS_WAITING = 200


async def create(
    database: Database,
    program_id: UUID,
    kind: CallerKind,
    name: str,
    *,
    declared_scopes: Collection[str],
    now: datetime,
    source_system: str = "",
    store_id: str = "",
    scopes: Sequence[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[Credential, str]:
    """Make a key; returns it once, it can't be read again.

    ``scopes`` may hold patterns such as ``members.*``; None gives the kind's default.
    ``source_system`` is ``pos`` for terminals and the name for others, if empty. Raises
    InvalidArgument: a scope that no contract declares, a name in use, a time that is past.
    """
    source_system = source_system or (TERMINALS_SOURCE if kind is CallerKind.TERMINAL else name)
    wrong: list[Violation] = []
    if kind not in DEFAULT_SCOPES:
        wrong.append(Violation("kind", f"must be one of {', '.join(DEFAULT_SCOPES)}"))
    for field, value in (("name", name), ("source_system", source_system)):
        if not 1 <= len(value) <= 64 or not NAME_CHARACTERS.issuperset(value):
            wrong.append(Violation(field, "must be 1 to 64 letters, digits, hyphens, dots and underscores"))
    if len(store_id) > 64 or not store_id.isprintable():
        wrong.append(Violation("store", "must be at most 64 printable characters"))
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= now):
        wrong.append(Violation("expires_at", "must be a time to come, with its zone"))
    patterns = DEFAULT_SCOPES.get(kind, ()) if scopes is None else scopes
    granted, unknown = expand(patterns, declared_scopes)
    if unknown or not granted:
        wrong.append(
            Violation("scopes", f"must match scopes of the contracts: {', '.join(sorted(declared_scopes))}")
        )
    if wrong:
        raise InvalidArgument(wrong)
    secret = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    credential = Credential(
        credential_id=new_id(),
        program_id=program_id,
        kind=kind,
        name=name,
        source_system=source_system,
        store=store_id,
        scopes=granted,
        secret_hash=hashlib.sha256(secret.encode()).digest(),
        created_at=now,
        expires_at=expires_at,
    )
    async with database.connection() as connection:
        if not await store.insert(connection, credential):
            raise invalid(
                "name", "is the name of another key in force; revoke that one or choose another name"
            )
    return credential, f"{PREFIX}_{credential.credential_id.hex}_{secret}"


async def listed(database: Database, program_id: UUID) -> Sequence[Credential]:
    """All keys of a program, the revoked too, oldest first."""
    async with database.connection() as connection:
        return await store.of_program(connection, program_id)


async def revoke(database: Database, program_id: UUID, name: str, now: datetime) -> Credential:
    """Revoke the key of that name. Servers refuse it within ``credential_cache_seconds``."""
    async with database.connection() as connection:
        revoked = await store.revoke(connection, program_id, name, now)
    if revoked is None:
        raise invalid("name", f"no key in force is called {name}")
    return revoked


@dataclass(frozen=True, slots=True)
class _Known:
    actor: Actor
    until: float


class Credentials:
    """Verifies keys, from memory where it can.

    A key found good is trusted for ``cache_seconds`` and never beyond its expiry, also
    while the database is away; one found bad is refused for a few seconds without asking
    again. ``monotonic`` counts seconds; ``clock`` is UTC. ``hits`` counts the calls that
    were let in from memory, ``lookups`` the keys that were looked up.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], datetime],
        cache_seconds: float = 20.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._cache_seconds = cache_seconds
        self._monotonic = monotonic
        self._known: dict[bytes, _Known] = {}
        self._refused: dict[bytes, float] = {}
        self._looking: Flights[bytes, Actor] = Flights()
        self._strangers = asyncio.Semaphore(STRANGERS_AT_ONCE)
        self._strangers_waiting = 0
        self.hits = 0
        self.lookups = 0

    def knows(self, key: str) -> bool:
        """Whether it was found good lately; it may have been revoked since."""
        return _digest(key) in self._known

    async def verify(self, key: str) -> Actor:
        """Whose key it is.

        Raises Unauthenticated, with the same answer for every kind of wrong; Unavailable
        if the database is needed and away; ResourceExhausted if too many unknown keys wait.
        """
        digest = _digest(key)
        known = self._known.get(digest)
        now = self._monotonic()
        if known is not None and now < known.until:
            self.hits += 1
            return known.actor
        if now < self._refused.get(digest, now):
            raise _refusal()
        credential_id = _credential_id(key)
        if credential_id is None:
            raise _refusal()
        seen_before = known is not None
        return await self._looking.join(digest, lambda: self._look(digest, key, credential_id, seen_before))

    def count(self) -> tuple[int, int]:
        """How many keys are remembered as good, and as bad."""
        return len(self._known), len(self._refused)

    async def close(self) -> None:
        """End look-ups that nobody waits for any more."""
        await self._looking.close()

    async def _look(self, digest: bytes, key: str, credential_id: UUID, seen_before: bool) -> Actor:
        self.lookups += 1
        if seen_before:
            credential = await self._fetch(credential_id)
        else:
            if self._strangers_waiting >= STRANGERS_WAITING:
                raise ResourceExhausted(
                    "OVERLOADED", "too many unknown keys at once", retry_after_seconds=1.0
                )
            self._strangers_waiting += 1
            try:
                async with self._strangers:
                    credential = await self._fetch(credential_id)
            finally:
                self._strangers_waiting -= 1
        self._known.pop(digest, None)
        secret = key[-SECRET_LENGTH:].encode()
        now, instant = self._monotonic(), self._clock()
        if (
            credential is None
            or not hmac.compare_digest(hashlib.sha256(secret).digest(), credential.secret_hash)
            or credential.revoked_at is not None
            or (credential.expires_at is not None and credential.expires_at <= instant)
        ):
            keep(self._refused, digest, now + REFUSED_SECONDS, MAX_REFUSED)
            raise _refusal()
        seconds = self._cache_seconds
        if credential.expires_at is not None:
            seconds = min(seconds, (credential.expires_at - instant).total_seconds())
        actor = _actor(credential)
        keep(self._known, digest, _Known(actor, now + seconds), MAX_KNOWN)
        return actor

    async def _fetch(self, credential_id: UUID) -> Credential | None:
        async with self._database.connection() as connection:
            return await store.get(connection, credential_id)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _credential_id(key: str) -> UUID | None:
    """The id in a key of the right form, None for anything else."""
    if len(key) != KEY_LENGTH or not key.isascii():
        return None
    parts = key.split("_")
    if len(parts) != 3 or parts[0] != PREFIX or len(parts[1]) != ID_LENGTH:
        return None
    try:
        return UUID(bytes=bytes.fromhex(parts[1]))
    except ValueError:
        return None


def _actor(credential: Credential) -> Actor:
    return Actor(
        kind=credential.kind,
        program_id=credential.program_id,
        credential_id=credential.credential_id,
        name=credential.name,
        source_system=credential.source_system,
        scopes=credential.scopes,
        store=credential.store,
    )


def _refusal() -> Unauthenticated:
    return Unauthenticated("CREDENTIAL_INVALID", "the credential is not valid", {"error": "invalid_token"})
