"""The public keys of an issuer: found by discovery, fetched by one, kept while it is away."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from server.domain.errors import Unavailable
from server.issuers import is_loopback, is_safe
from server.operations.flights import Flights

MAX_BYTES = 256 * 1024
MAX_KEYS = 100
MAX_ABSENT = 1000
MIN_RSA_BITS = 2048
SECONDS = 5.0
WELL_KNOWN = "/.well-known/openid-configuration"

# Which algorithms a key can have signed with, by its type and curve.
FITS: Mapping[tuple[str, str], frozenset[str]] = MappingProxyType(
    {
        ("RSA", ""): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ("EC", "P-256"): frozenset({"ES256"}),
        ("EC", "P-384"): frozenset({"ES384"}),
        ("EC", "P-521"): frozenset({"ES512"}),
        ("OKP", "Ed25519"): frozenset({"EdDSA"}),
    }
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """When keys are fetched, in seconds.

    ``refresh``: known keys are fetched anew after this, while they go on being used.
    ``cooldown``: never two fetches within this, whatever keys tokens name; after a
    failure, the longest wait. ``retry``: the first wait after a failure. ``absent``: a
    key id that the issuer doesn't have is not looked for again within this. ``stale``:
    keys are trusted for this long while the issuer can't be asked.
    """

    refresh: float = 600.0
    cooldown: float = 10.0
    retry: float = 1.0
    absent: float = 60.0
    stale: float = 86_400.0


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key and the algorithms it can have signed with."""

    key: Any
    fits: frozenset[str]


class Unusable(Exception):  # noqa: N818 - reads as the sentence it is
    """What the issuer sent can't be used; the message says why."""


class SigningKeys:
    """The keys of one issuer. ``monotonic`` counts seconds."""

    def __init__(
        self,
        issuer: str,
        jwks_uri: str = "",
        pace: Pace | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._configured = jwks_uri
        self._discovered = ""
        self._pace = pace or Pace()
        self._monotonic = monotonic
        self._keys: dict[str, SigningKey] = {}
        self._fetched = -math.inf
        self._next = 0.0
        self._failures = 0
        self._absent: dict[str, float] = {}
        self._flights: Flights[None, None] = Flights()
        self._client: httpx.AsyncClient | None = None

    async def find(self, kid: str) -> SigningKey | None:
        """The key of that id, None if the issuer has none.

        Raises Unavailable if that can't be found out now. At most one fetch per cooldown,
        and none that a known key would have to wait for.
        """
        now = self._monotonic()
        known = self._known(kid, now)
        if known is not None:
            if now - self._fetched > self._pace.refresh and now >= self._next:
                self._flights.join(None, self._fetch)
            return known
        if now < self._absent.get(kid, now):
            return None
        ask = now >= self._next or self._flights.busy(None)
        if ask:
            await self._flights.join(None, self._fetch)
            known = self._known(kid, self._monotonic())
        if known is None and self._failures:
            raise self._unavailable()
        if known is None and ask:
            self._remember_absent(kid)
        return known

    async def count(self) -> int:
        """Ask the issuer now, whatever is known; how many keys it has.

        Raises Unusable, TimeoutError, OSError and what httpx raises.
        """
        async with asyncio.timeout(SECONDS):
            return len(await self._fetch_keys())

    async def close(self) -> None:
        """End a fetch under way and the connections."""
        await self._flights.close()
        if self._client is not None:
            await self._client.aclose()

    def _known(self, kid: str, now: float) -> SigningKey | None:
        return self._keys.get(kid) if now - self._fetched <= self._pace.stale else None

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                keys = await self._fetch_keys()
        except (Unusable, httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            self._failures += 1
            wait = min(self._pace.retry * 2 ** min(self._failures - 1, 16), self._pace.cooldown)
            self._next = self._monotonic() + wait
            # Asked again next time: the issuer may have moved its keys.
            self._discovered = ""
            why = str(error) if isinstance(error, Unusable) else type(error).__name__
            log.warning("issuer_keys_not_fetched", issuer=self._issuer, why=why, failures=self._failures)
            return
        self._keys, self._fetched, self._failures = keys, self._monotonic(), 0
        self._next = self._fetched + self._pace.cooldown
        log.info("issuer_keys_fetched", issuer=self._issuer, keys=len(keys))

    async def _fetch_keys(self) -> dict[str, SigningKey]:
        if not self._configured and not self._discovered:
            document = await self._get(self._issuer.rstrip("/") + WELL_KNOWN)
            uri = document.get("jwks_uri")
            if document.get("issuer") != self._issuer:
                raise Unusable("the discovery document is of another issuer")
            if not isinstance(uri, str) or not is_safe(uri):
                raise Unusable("the discovery document's jwks_uri is no https URL")
            self._discovered = uri
        return read_keys(await self._get(self._configured or self._discovered))

    async def _get(self, url: str) -> dict[str, Any]:
        """A JSON object of bounded size; redirects are refused."""
        if self._client is None:
            # Proxies of the environment are for the world outside.
            outside = not is_loopback(httpx.URL(url).host)
            self._client = httpx.AsyncClient(timeout=SECONDS, trust_env=outside, follow_redirects=False)
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        content = b""
        async with self._client.stream("GET", url, headers=headers) as reply:
            if reply.status_code != httpx.codes.OK:
                raise Unusable(f"answered with status {reply.status_code}")
            if reply.headers.get("content-encoding", "identity") != "identity":
                raise Unusable("answered in an encoding that wasn't asked for")
            async for chunk in reply.aiter_raw():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise Unusable(f"answered with more than {MAX_BYTES:,} bytes")
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise Unusable("answered with something else than a JSON object")
        return document

    def _remember_absent(self, kid: str) -> None:
        self._absent.pop(kid, None)
        while len(self._absent) >= MAX_ABSENT:
            del self._absent[next(iter(self._absent))]
        self._absent[kid] = self._monotonic() + self._pace.absent

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            "ISSUER_UNAVAILABLE",
            "the issuer of the token can't be asked for its keys",
            retry_after_seconds=max(1.0, self._next - self._monotonic()),
        )


def read_keys(document: Mapping[str, Any]) -> dict[str, SigningKey]:
    """The keys of a JWKS that can verify, by id; what is for another use or unknown is left out."""
    entries = document.get("keys")
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise Unusable(f"the key set has no list of at most {MAX_KEYS} keys")
    found: dict[str, SigningKey] = {}
    for entry in entries:
        key = _key(entry) if isinstance(entry, dict) else None
        if key is not None and isinstance(entry.get("kid"), str):
            found[entry["kid"]] = key
    return found


def _key(entry: dict[str, Any]) -> SigningKey | None:
    kty, crv, alg = (str(entry.get(name) or "") for name in ("kty", "crv", "alg"))
    operations = entry.get("key_ops")
    fits = FITS.get((kty, crv), frozenset())
    fits = fits & {alg} if alg else fits
    verifies = entry.get("use") in (None, "sig") and (
        operations is None or (isinstance(operations, list) and "verify" in operations)
    )
    # Whose private half is published is nobody's key any more.
    if not fits or not verifies or "d" in entry:
        return None
    try:
        key = jwt.PyJWK(entry, algorithm=min(fits)).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return None
    return SigningKey(key, fits)
