"""An issuer's keys: when they are fetched, what is made of what comes, and what when nothing comes."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from server.domain.errors import Unavailable
from server.operations.signing_keys import Pace, SigningKeys, read_keys
from tests.support.issuers import DISCOVERY, JWKS, Loopback, loopback, published, rsa_key

PACE = Pace(refresh=600, cooldown=10, retry=1, absent=60, stale=86_400)


@pytest.fixture
def issuer() -> Iterator[Loopback]:
    with loopback() as running:
        yield running


class Keys:
    """Keys of the issuer with a clock that goes on when told to."""

    def __init__(self, issuer: Loopback, jwks_uri: str = "") -> None:
        self.seconds = 1000.0
        self.keys = SigningKeys(issuer.url, jwks_uri, PACE, lambda: self.seconds)

    async def has(self, kid: str) -> bool:
        return await self.keys.find(kid) is not None


@pytest.fixture
async def keys(issuer: Loopback) -> Any:
    made = Keys(issuer)
    yield made
    await made.keys.close()


async def test_keys_are_found_by_discovery_and_fetched_once(issuer: Loopback, keys: Keys) -> None:
    assert await keys.has("key-1")
    keys.seconds += 599
    assert await keys.has("key-1")
    assert issuer.fetches == {DISCOVERY: 1, JWKS: 1}


async def test_an_address_of_keys_that_is_configured_needs_no_discovery(issuer: Loopback) -> None:
    keys = Keys(issuer, issuer.url + JWKS)
    assert await keys.has("key-1")
    assert issuer.fetches == {DISCOVERY: 0, JWKS: 1}
    await keys.keys.close()


async def test_a_hundred_at_once_share_one_fetch(issuer: Loopback, keys: Keys) -> None:
    assert all(await asyncio.gather(*(keys.has("key-1") for _ in range(100))))
    assert issuer.jwks_fetches == 1


async def test_a_thousand_unknown_keys_cost_one_fetch_per_cooldown(issuer: Loopback, keys: Keys) -> None:
    await keys.has("key-1")
    for _ in range(500):
        assert not await keys.has(uuid4().hex)
    assert issuer.jwks_fetches == 1
    keys.seconds += PACE.cooldown
    found = await asyncio.gather(*(keys.has(uuid4().hex) for _ in range(500)), keys.has("key-1"))
    assert found == [False] * 500 + [True]
    assert issuer.jwks_fetches == 2


async def test_a_key_that_the_issuer_does_not_have_is_not_looked_for_again_soon(
    issuer: Loopback, keys: Keys
) -> None:
    assert not await keys.has("gone")
    for _ in range(5):
        keys.seconds += PACE.cooldown
        assert not await keys.has("gone")
    assert issuer.jwks_fetches == 1
    keys.seconds += PACE.absent
    assert not await keys.has("gone")
    assert issuer.jwks_fetches == 2


async def test_a_new_key_is_found_and_an_old_one_forgotten(issuer: Loopback, keys: Keys) -> None:
    assert await keys.has("key-1")
    issuer.rotate("key-2", rsa_key(2))
    assert not await keys.has("key-2"), "within the cooldown"
    keys.seconds += PACE.cooldown
    assert await keys.has("key-2")
    assert not await keys.has("key-1")


async def test_old_keys_are_refreshed_while_they_are_in_use(issuer: Loopback, keys: Keys) -> None:
    await keys.has("key-1")
    issuer.rotate("key-2", rsa_key(2))
    keys.seconds += PACE.refresh + 1
    assert await keys.has("key-1"), "nobody waits for the refresh"
    async with asyncio.timeout(5):
        while await keys.has("key-1"):  # noqa: ASYNC110 - the refresh is nobody's to wait for
            await asyncio.sleep(0.005)
    assert await keys.has("key-2")
    assert issuer.jwks_fetches == 2


async def test_known_keys_outlive_the_issuer_for_a_day_and_unknown_ones_get_told_so(
    issuer: Loopback, keys: Keys
) -> None:
    await keys.has("key-1")
    issuer.stop()
    keys.seconds += PACE.stale
    assert await keys.has("key-1")
    with pytest.raises(Unavailable) as caught:
        await keys.has("key-2")
    assert caught.value.reason == "ISSUER_UNAVAILABLE"
    assert caught.value.retry_after_seconds is not None
    keys.seconds += 1
    with pytest.raises(Unavailable):
        await keys.has("key-1")


async def test_an_issuer_that_is_away_is_asked_less_and_less_and_welcome_when_back(
    issuer: Loopback, keys: Keys
) -> None:
    issuer.answers[DISCOVERY] = (503, {}, b"")
    asked = []
    for _ in range(40):
        with pytest.raises(Unavailable):
            await keys.has("key-1")
        asked.append(issuer.fetches[DISCOVERY])
        keys.seconds += 1
    # At 0, 1, 3, 7, 15 seconds, then each cooldown.
    assert asked[-1] == 7
    del issuer.answers[DISCOVERY]
    keys.seconds += PACE.cooldown
    assert await keys.has("key-1")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (DISCOVERY, (302, {"location": "http://127.0.0.1:1/"}, b"")),
        (DISCOVERY, (200, {}, b'{"jwks_uri": 7}')),
        (JWKS, (200, {}, b"[]")),
        (JWKS, (200, {}, b"not json")),
        (JWKS, (200, {}, b'{"keys": ' + b"[" * 100_000)),
        (JWKS, (200, {}, b'{"keys": []' + b" " * 300_000 + b"}")),
        (JWKS, (200, {"content-encoding": "gzip"}, b"\x1f\x8b")),
        (JWKS, (200, {}, json.dumps({"keys": [{}] * 101}).encode())),
        (JWKS, (404, {}, b"")),
    ],
)
async def test_what_cannot_be_used_is_as_good_as_nothing(
    issuer: Loopback, keys: Keys, path: str, answer: Any
) -> None:
    issuer.answers[path] = answer
    with pytest.raises(Unavailable):
        await keys.has("key-1")


@pytest.mark.parametrize("uri", ["http://keys.example/", "ftp://127.0.0.1/", "{url}/keys?x=1", ""])
async def test_keys_come_by_https_or_from_this_machine(issuer: Loopback, keys: Keys, uri: str) -> None:
    document = {"issuer": issuer.url, "jwks_uri": uri.format(url=issuer.url)}
    issuer.answers[DISCOVERY] = (200, {}, json.dumps(document).encode())
    with pytest.raises(Unavailable):
        await keys.has("key-1")
    assert [path for path, times in issuer.fetches.items() if times] == [DISCOVERY]


async def test_a_discovery_document_of_another_issuer_is_not_believed(issuer: Loopback, keys: Keys) -> None:
    document = {"issuer": "https://elsewhere.example", "jwks_uri": issuer.url + JWKS}
    issuer.answers[DISCOVERY] = (200, {}, json.dumps(document).encode())
    with pytest.raises(Unavailable):
        await keys.has("key-1")


def test_only_keys_that_can_verify_are_taken() -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    edwards = ed25519.Ed25519PrivateKey.generate()
    private = jwt.get_algorithm_by_name("RS256").to_jwk(rsa_key(), as_dict=True) | {"kid": "private"}
    del private["key_ops"]
    good = [
        published("rsa", rsa_key()),
        published("rsa-pss", rsa_key(), alg="PS256"),
        published("ec", curve),
        published("ed", edwards),
        published("ops", rsa_key(), key_ops=["verify"]),
    ]
    bad = [
        published("encrypts", rsa_key(), use="enc"),
        published("signs", rsa_key(), key_ops=["sign"]),
        published("short", rsa_key(9, 1024)),
        published("symmetric", rsa_key(), alg="HS256"),
        published("curve", curve, crv="P-384"),
        published("weird", curve, crv="secp256k1"),
        private,
        {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
        published("broken", rsa_key(), n="!"),
        published("number", rsa_key()) | {"kid": 7},
        "no object",
        {},
    ]
    found = read_keys({"keys": good + bad})
    assert set(found) == {"rsa", "rsa-pss", "ec", "ed", "ops"}
    assert found["rsa-pss"].fits == {"PS256"}
    assert found["ec"].fits == {"ES256"}
    assert "ES256" not in found["rsa"].fits
