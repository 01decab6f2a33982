"""Bearer tokens of people: whose they are, by the word of an issuer that is trusted.

A token is a JWT access token (RFC 9068). Everything about the caller comes from it:
program, kind, member, scopes, how and when the person logged in.
"""

import asyncio
import hashlib
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard
from uuid import NAMESPACE_URL, UUID, uuid5

import jwt

from server.domain import members as rules
from server.domain.actor import Actor, CallerKind, Login, StepUp
from server.domain.errors import NotFound, PermissionDenied, Unauthenticated
from server.domain.members import ExternalId, Status
from server.domain.scopes import expand
from server.issuers import Issuer, MemberTerms, StaffTerms
from server.operations.caches import keep
from server.operations.flights import Flights
from server.operations.signing_keys import SigningKey, SigningKeys
from server.store import members as member_store
from server.store import merges
from server.store import programs as program_store
from server.store.database import Connection, Database
from server.store.sealing import Sealer

MAX_TOKEN = 8 * 1024
MAX_KID = 256
MAX_SUBJECT = 255
MAX_NAME = 64
MAX_KNOWN = 10_000
MAX_REFUSED = 10_000
REFUSED_SECONDS = 5.0
# Somebody may just be becoming a member.
STRANGER_SECONDS = 1.0
# Look-ups of tokens not seen before, at a time: they must not take every connection.
LOOKUPS_AT_ONCE = 2
REQUIRED = ["exp", "iat", "iss", "aud", "sub"]
# Only ID tokens hold them (OpenID Connect Core 3.1.3.6, 3.3.2.11, financial-grade API).
OF_ID_TOKENS = frozenset({"at_hash", "c_hash", "s_hash"})


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that was found good: the issuer's terms, the claims they read, the key that signed it.

    ``until`` in seconds since 1970.
    """

    issuer: Issuer
    claims: Mapping[str, Any]
    key: SigningKey
    until: float


@dataclass(frozen=True, slots=True)
class _Known:
    verified: Verified
    actor: Actor
    until: float


class Tokens:
    """Verifies tokens, from memory where it can.

    A signature is verified once and trusted until the token expires or its key is
    replaced; who the person is to Laurel, membership and terms, is looked up again after
    ``cache_seconds``. Issuers that share a URL share ``keys``. ``hits`` counts the calls that
    were let in from memory, ``lookups`` the tokens that were looked at.
    """

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        issuers: Sequence[Issuer],
        declared_scopes: Collection[str],
        cache_seconds: float = 20.0,
        keys: Mapping[str, SigningKeys] | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._declared = frozenset(declared_scopes)
        self._cache_seconds = cache_seconds
        self._keys = keys or {i.issuer: SigningKeys(i.issuer, i.jwks_uri) for i in issuers}
        self._issuers: dict[str, list[Issuer]] = {}
        for issuer in issuers:
            self._issuers.setdefault(issuer.issuer, []).append(issuer)
        self._known: dict[bytes, _Known] = {}
        self._refused: dict[bytes, float] = {}
        self._strangers: dict[bytes, float] = {}
        self._flights: Flights[bytes, Actor] = Flights()
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self.hits = 0
        self.lookups = 0

    def knows(self, token: str) -> bool:
        """Whether it was found good lately; the person may have left since."""
        return len(token) <= MAX_TOKEN and _digest(token) in self._known

    async def verify(self, token: str) -> Actor:
        """Whose token it is.

        Raises Unauthenticated, with one answer for every kind of wrong; PermissionDenied
        for a login that is nobody's here; Unavailable if the issuer or the database is
        needed and away.
        """
        if len(token) > MAX_TOKEN:
            raise _refusal()
        digest = _digest(token)
        known = self._known.get(digest)
        now = time.monotonic()
        if known is not None and now < known.until:
            self.hits += 1
            return known.actor
        if now < self._refused.get(digest, now):
            raise _refusal()
        if now < self._strangers.get(digest, now):
            raise _nobody()
        return await self._flights.join(digest, lambda: self._look(digest, token, known))

    def count(self) -> tuple[int, int]:
        """How many tokens are remembered as good, and as bad or a stranger's."""
        return len(self._known), len(self._refused) + len(self._strangers)

    async def close(self) -> None:
        """End look-ups and connections."""
        await self._flights.close()
        for keys in self._keys.values():
            await keys.close()

    async def _look(self, digest: bytes, token: str, known: _Known | None) -> Actor:
        self.lookups += 1
        self._known.pop(digest, None)
        verified = await self._verified(digest, token, known.verified if known else None)
        try:
            async with self._lookups, self._database.connection() as connection:
                actor = await self._actor(connection, verified)
        except PermissionDenied:
            keep(self._strangers, digest, time.monotonic() + STRANGER_SECONDS, MAX_REFUSED)
            raise
        seconds = min(self._cache_seconds, verified.until - time.time())
        keep(self._known, digest, _Known(verified, actor, time.monotonic() + seconds), MAX_KNOWN)
        return actor

    async def _verified(self, digest: bytes, token: str, before: Verified | None) -> Verified:
        header, issuer = self._read(token)
        key = await self._keys[issuer.issuer].find(header["kid"])
        if key is None or header["alg"] not in key.fits:
            raise _refusal()
        if before is not None and before.key is key and time.time() < before.until:
            return before
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=issuer.algorithms,
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=issuer.clock_skew_seconds,
                options={"require": REQUIRED},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            claims = {}
        if not claims or not _is_access_token(claims, issuer):
            keep(self._refused, digest, time.monotonic() + REFUSED_SECONDS, MAX_REFUSED)
            raise _refusal()
        read = {name: claims[name] for name in _claims_read(issuer) if name in claims}
        return Verified(issuer, read, key, float(claims["exp"]) + issuer.clock_skew_seconds)

    def _read(self, token: str) -> tuple[Mapping[str, Any], Issuer]:
        """The header, and the issuer whose terms apply; nothing of it is believed yet."""
        try:
            parts = jwt.decode_complete(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise _refusal() from None
        header, claims = parts["header"], parts["payload"]
        kid, typ = header.get("kid"), header.get("typ")
        named = claims.get("iss")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        meant = [i for i in self._issuers.get(named, ()) if i.audience in audiences] if _text(named) else []
        # With two audiences of ours in one token nobody could say whose terms apply.
        if len(meant) != 1 or not _text(kid) or len(kid) > MAX_KID or not _text(typ):
            raise _refusal()
        issuer = meant[0]
        kind = typ.lower().removeprefix("application/")
        if (
            header.get("alg") not in issuer.algorithms
            or kind not in [t.lower() for t in issuer.token_types]
            or "crit" in header
            or "b64" in header
        ):
            raise _refusal()
        return header, issuer

    async def _actor(self, connection: Connection, verified: Verified) -> Actor:
        issuer, claims = verified.issuer, verified.claims
        name = issuer.program or claims.get(issuer.program_claim or "")
        found = await program_store.step_up_of(connection, name) if _text(name) else None
        if found is None:
            raise NotFound("PROGRAM_NOT_FOUND", "the login names no program")
        program_id, redeem_points = found
        step_up = StepUp(issuer.step_up.acr_values, issuer.step_up.max_age_seconds, redeem_points)
        acr, auth_time = claims.get("acr"), claims.get("auth_time")
        login = Login(acr if _text(acr) else "", auth_time if _number(auth_time) else None, step_up)
        if issuer.staff is not None and (scopes := self._staff_scopes(issuer.staff, claims)):
            return _staff(issuer.staff, claims, program_id, scopes, login)
        member_id = await self._member(connection, program_id, issuer.members, claims)
        scopes, _ = expand(issuer.members.scopes if issuer.members else (), self._declared)
        return Actor(
            kind=CallerKind.MEMBER,
            program_id=program_id,
            credential_id=_credential_id(claims),
            name=str(member_id),
            # A space of their own: a member can't use up the request_ids and orders of a till.
            source_system=f"member:{member_id}",
            scopes=scopes | self._declared.intersection(_scopes(claims)),
            member_id=member_id,
            login=login,
        )

    def _staff_scopes(self, terms: StaffTerms, claims: Mapping[str, Any]) -> frozenset[str]:
        value: Any = claims
        for step in (terms.roles_claim,) if isinstance(terms.roles_claim, str) else terms.roles_claim:
            value = value.get(step) if isinstance(value, Mapping) else None
        held = [value] if _text(value) else value if isinstance(value, list) else []
        patterns = [p for role in held if _text(role) for p in terms.roles.get(role, ())]
        return expand(patterns, self._declared)[0]

    async def _member(
        self,
        connection: Connection,
        program_id: UUID,
        terms: MemberTerms | None,
        claims: Mapping[str, Any],
    ) -> UUID:
        """The member who logged in; a suspended one too, whom the ledger lets spend nothing."""
        member_id: UUID | None = None
        if terms is not None and terms.claim is not None:
            member_id = _uuid(claims.get(terms.claim))
        elif terms is not None and terms.external_id_system is not None:
            external = ExternalId(terms.external_id_system, claims["sub"])
            lookup = member_store.lookup(self._sealer, program_id, rules.external_identifier(external))
            wanted = (program_id, *lookup)
            member_id = (await member_store.owners(connection, [wanted])).get(wanted)
        status = await member_store.status(connection, program_id, member_id) if member_id else None
        if member_id is None or status is None or status is Status.CLOSED:
            raise _nobody()
        if status is Status.MERGED:
            wanted_member = (program_id, member_id)
            member_id = (await merges.survivors(connection, [wanted_member]))[wanted_member]
        return member_id


def _staff(
    terms: StaffTerms, claims: Mapping[str, Any], program_id: UUID, scopes: frozenset[str], login: Login
) -> Actor:
    credential_id = _credential_id(claims)
    name = claims.get(terms.name_claim)
    printable = name if _text(name) and name.isprintable() else str(credential_id)
    return Actor(
        kind=CallerKind.STAFF,
        program_id=program_id,
        credential_id=credential_id,
        name=printable[:MAX_NAME],
        source_system=f"staff:{credential_id}",
        scopes=scopes,
        login=login,
    )


def _is_access_token(claims: Mapping[str, Any], issuer: Issuer) -> bool:
    """Whether the claims, whose signature is good, are those of an access token that makes sense."""
    subject, auth_time = claims["sub"], claims.get("auth_time")
    kind = str(claims.get("typ", "Bearer")).lower()
    use = claims.get("token_use", "access")
    says_so = "scope" in claims or "scp" in claims or "typ" in claims or "token_use" in claims
    return bool(
        1 <= len(subject) <= MAX_SUBJECT
        and math.isfinite(float(claims["exp"]))
        and (auth_time is None or _number(auth_time))
        and (auth_time is None or auth_time <= time.time() + issuer.clock_skew_seconds)
        # An ID token tells a client who logged in; it is no key to anything.
        and not OF_ID_TOKENS & claims.keys()
        # Bound to a key that the sender would have to show, which nobody asks for here.
        and "cnf" not in claims
        and not ("nonce" in claims and "typ" not in claims)
        and kind in ("bearer", "at+jwt")
        and use == "access"
        # Where access tokens have no header type of their own, they must show it otherwise.
        and (says_so or "jwt" not in [t.lower() for t in issuer.token_types])
    )


def _claims_read(issuer: Issuer) -> frozenset[str]:
    """What is kept of a token."""
    read: set[str | None] = {"iss", "sub", "scope", "scp", "acr", "auth_time", issuer.program_claim}
    if issuer.members is not None:
        read.add(issuer.members.claim)
    if issuer.staff is not None:
        roles = issuer.staff.roles_claim
        read |= {issuer.staff.name_claim, roles if isinstance(roles, str) else roles[0]}
    return frozenset(name for name in read if name)


def _scopes(claims: Mapping[str, Any]) -> list[str]:
    value = claims.get("scope", claims.get("scp", ""))
    return value.split() if isinstance(value, str) else [s for s in value if _text(s)] if _list(value) else []


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _credential_id(claims: Mapping[str, Any]) -> UUID:
    """One id for everything that this login does, whatever token it comes with."""
    return uuid5(NAMESPACE_URL, f"{claims['iss']}#{claims['sub']}")


def _text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value != ""


def _list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _nobody() -> PermissionDenied:
    return PermissionDenied("LOGIN_WITHOUT_MEMBER", "the login belongs to no member of the program")


def _refusal() -> Unauthenticated:
    return Unauthenticated("CREDENTIAL_INVALID", "the credential is not valid", {"error": "invalid_token"})
