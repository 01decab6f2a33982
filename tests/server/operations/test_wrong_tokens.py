"""Tokens that are not believed: wrong claims, headers and signatures, garbage."""

import hashlib
import hmac
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from server.domain.actor import CallerKind
from server.domain.errors import PermissionDenied
from server.operations.tokens import MAX_TOKEN
from server.store.database import Database
from tests.support.issuers import (
    AUDIENCE,
    JWKS,
    entry,
    public_pem,
    rsa_key,
    unsigned,
)
from tests.support.tokens import World, believing, refused


@pytest.fixture
async def world(database: Database, secrets_file: Path) -> AsyncIterator[World]:
    async with believing(database, secrets_file) as made:
        yield made


NOW = int(time.time())


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": None},
        {"exp": NOW - 3600},
        {"exp": math.inf},
        {"exp": math.nan},
        {"exp": "soon"},
        {"iat": None},
        {"iat": NOW + 3600},
        {"nbf": NOW + 3600},
        {"aud": None},
        {"aud": "another"},
        {"aud": ["another", "third"]},
        {"aud": {"laurel": True}},
        {"aud": ""},
        {"iss": None},
        {"iss": "https://elsewhere.example"},
        {"iss": 7},
        {"iss": {}},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"auth_time": NOW + 3600},
        {"auth_time": "yesterday"},
        {"auth_time": True},
        {"at_hash": "x", "nonce": "n"},
        {"nonce": "n"},
        {"c_hash": "x"},
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"typ": 7},
        {"token_use": "id"},
        {"cnf": {"jkt": "x"}},
    ],
)
async def test_claims_that_will_not_do(world: World, changes: dict[str, Any]) -> None:
    _, subject = await world.member()
    await world.tokens.verify(world.issuer.token(subject))
    await refused(world.tokens, world.issuer.token(subject, **changes))


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": None},
        {"typ": ""},
        {"typ": "id+jwt"},
        {"kid": "unknown"},
        {"kid": ""},
        {"kid": "x" * 300},
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": True},
        {"alg": "RS384"},
        {"alg": "PS512"},
    ],
)
async def test_headers_that_will_not_do(world: World, header: dict[str, Any]) -> None:
    _, subject = await world.member()
    await world.tokens.verify(world.issuer.token(subject, {"typ": "application/at+jwt"}))
    await refused(world.tokens, world.issuer.token(subject, header))


async def test_a_header_that_brings_its_own_key_gains_nothing(world: World) -> None:
    _, subject = await world.member()
    own, claims = rsa_key(77), world.issuer.claims(subject)
    jwk = jwt.get_algorithm_by_name("RS256").to_jwk(own.public_key(), as_dict=True)  # type: ignore[call-arg]
    for header in (
        {"jwk": jwk},
        {"jku": f"{world.issuer.url}/mine"},
        {"x5u": f"{world.issuer.url}/mine"},
        {"x5c": ["MII"]},
        {"jku": f"{world.issuer.url}/mine", "kid": "mine"},
    ):
        headers = {"kid": "key-1", "typ": "at+jwt", **header}
        await refused(world.tokens, jwt.encode(claims, own, "RS256", headers))
    assert set(world.issuer.fetches) == {"/.well-known/openid-configuration", JWKS}
    # The same in a token that is well signed changes nothing either.
    await world.tokens.verify(world.issuer.token(subject, {"jku": "https://elsewhere.example", "jwk": jwk}))


async def test_no_signature_and_a_signature_with_the_public_key_are_none(world: World) -> None:
    _, subject = await world.member()
    claims = world.issuer.claims(subject)
    for algorithm in ("none", "None", "NONE", "nOnE", ""):
        await refused(world.tokens, unsigned({"alg": algorithm, "typ": "at+jwt", "kid": "key-1"}, claims))
    for secret in (public_pem(rsa_key()), public_pem(rsa_key()).strip()):
        header = {"alg": "HS256", "typ": "at+jwt", "kid": "key-1"}
        token = unsigned(header, claims)
        body = token.rsplit(".", 1)[0]
        # By hand: PyJWT won't take a public key for a secret, which is what an attacker does.
        signature = jwt.utils.base64url_encode(
            hmac.new(secret, body.encode(), hashlib.sha256).digest()
        ).decode()
        await refused(world.tokens, f"{body}.{signature}")


async def test_a_key_signs_only_with_algorithms_of_its_kind(world: World) -> None:
    _, subject = await world.member()
    world.issuer.keys["curve"] = ec.generate_private_key(ec.SECP256R1())
    claims = world.issuer.claims(subject)
    for kid, key, algorithm in (
        ("curve", rsa_key(), "RS256"),
        ("key-1", world.issuer.keys["curve"], "ES256"),
    ):
        await refused(world.tokens, jwt.encode(claims, key, algorithm, {"kid": kid, "typ": "at+jwt"}))
    good = jwt.encode(claims, world.issuer.keys["curve"], "ES256", {"kid": "curve", "typ": "at+jwt"})
    await world.tokens.verify(good)


@pytest.mark.parametrize(
    "token",
    [
        "..",
        "a.b.c",
        "é.é.é",
        "\ud800..",
        "=.=.=",
        "eyJhbGciOiJSUzI1NiJ9.W10.",
        unsigned({"alg": {"a": 1}, "typ": ["at+jwt"], "kid": 3}, {"iss": []}),
        unsigned({}, {}),
        unsigned({"alg": "RS256"}, {"a": "x" * MAX_TOKEN}),
    ],
)
async def test_garbage_is_refused_like_anything_else(world: World, token: str) -> None:
    await refused(world.tokens, token)
    assert world.issuer.jwks_fetches == 0


async def test_what_is_nested_without_end_is_refused(world: World) -> None:
    deep = jwt.utils.base64url_encode(b"[" * 5000).decode()
    head = jwt.utils.base64url_encode(b'{"alg":"RS256","kid":"key-1","typ":"at+jwt"}').decode()
    await refused(world.tokens, f"{deep}.e30.")
    await refused(world.tokens, f"{head}.{deep}.")


async def test_an_issuer_that_calls_all_its_tokens_jwt_must_show_that_it_is_an_access_token(
    world: World,
) -> None:
    _, subject = await world.member()
    tokens = world.trusting(entry(world.issuer, world.program.name, token_types=["JWT"]))
    said: dict[str, Any]
    for said in ({"scope": "openid"}, {"scope": None, "typ": "Bearer"}, {"scope": None, "scp": "x"}):
        await tokens.verify(world.issuer.token(subject, {"typ": "JWT"}, **said))
    await tokens.verify(world.issuer.token(subject, {"typ": "JWT"}, typ="Bearer", nonce="n"))
    for said in ({"scope": None}, {"typ": "ID"}, {"nonce": "n"}, {"at_hash": "h"}, {"token_use": "id"}):
        await refused(tokens, world.issuer.token(subject, {"typ": "JWT"}, **said))
    await refused(tokens, world.issuer.token(subject, {"typ": "at+jwt"}))


async def test_members_and_staff_may_be_told_apart_by_audience(world: World) -> None:
    _, subject = await world.member()
    members, staff = (entry(world.issuer, world.program.name, audience=a) for a in (AUDIENCE, "office"))
    del members["staff"], staff["members"]
    tokens = world.trusting(members, staff)
    roles = {"realm_access": {"roles": ["support"]}}
    assert (await tokens.verify(world.issuer.token(subject, **roles))).kind is CallerKind.MEMBER
    token = world.issuer.token(subject, aud="office", **roles)
    assert (await tokens.verify(token)).kind is CallerKind.STAFF
    with pytest.raises(PermissionDenied):
        await tokens.verify(world.issuer.token(subject, aud="office"))
    await refused(tokens, world.issuer.token(subject, aud=["office", AUDIENCE], **roles))
    assert world.issuer.jwks_fetches == 1


async def test_an_audience_among_others_will_do(world: World) -> None:
    _, subject = await world.member()
    await world.tokens.verify(world.issuer.token(subject, aud=["account", AUDIENCE]))


async def test_clocks_may_differ_a_little(world: World) -> None:
    _, subject = await world.member()
    now = int(time.time())
    await world.tokens.verify(world.issuer.token(subject, iat=now + 20, nbf=now + 20, auth_time=now + 20))
    await world.tokens.verify(world.issuer.token(subject, exp=now - 20))
    await refused(world.tokens, world.issuer.token(subject, exp=now - 40))
