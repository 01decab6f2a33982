"""Whose a token is: what is believed, what is not, and for how long."""

import asyncio
import hashlib
import hmac
import json
import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from server import secrets
from server.domain.actor import Actor, CallerKind
from server.domain.errors import NotFound, PermissionDenied, Unauthenticated, Unavailable
from server.domain.members import ExternalId, Profile, Status
from server.domain.program import Program
from server.issuers import Issuer
from server.main import now
from server.operations.members import Members
from server.operations.programs import Programs
from server.operations.signing_keys import Pace, SigningKeys
from server.operations.tokens import MAX_TOKEN, Tokens
from server.rpc.access import declared_scopes
from server.store import programs as program_store
from server.store.database import Database
from server.store.sealing import Sealer
from tests.support.issuers import (
    AUDIENCE,
    JWKS,
    SYSTEM,
    Loopback,
    entry,
    loopback,
    public_pem,
    published,
    rsa_key,
    unsigned,
)
from tests.support.programs import new_program


@pytest.fixture
def issuer() -> Iterator[Loopback]:
    with loopback() as running:
        yield running


class World:
    """A program, its members, and a verifier that trusts the issuer."""

    def __init__(self, database: Database, sealer: Sealer, program: Program, issuer: Loopback) -> None:
        self.database, self.sealer, self.program, self.issuer = database, sealer, program, issuer
        self.members = Members(database, sealer, Programs(), now)
        self.opened: list[Tokens] = []
        self.tokens = self.trusting(entry(issuer, program.name))

    def trusting(self, *entries: dict[str, Any], cache_seconds: float = 0.0) -> Tokens:
        """A verifier. It looks people up for every call, unless it is told to cache."""
        issuers = [Issuer.model_validate(e) for e in entries]
        keys = {i.issuer: SigningKeys(i.issuer, i.jwks_uri, Pace(cooldown=0.2)) for i in issuers}
        tokens = Tokens(self.database, self.sealer, issuers, declared_scopes(), cache_seconds, keys)
        self.opened.append(tokens)
        return tokens

    async def member(self, subject: str = "") -> tuple[UUID, str]:
        """A new member's id, and the subject that it logs in with."""
        subject = subject or uuid4().hex
        profile = Profile(external_ids=(ExternalId(SYSTEM, subject),))
        actor = Actor(CallerKind.SERVICE, self.program.program_id, uuid4(), "s", "s", frozenset())
        member = await self.members.register(actor, uuid4().hex, profile)
        return member.member_id, subject

    async def become(self, member_id: UUID, status: Status) -> None:
        actor = Actor(CallerKind.SERVICE, self.program.program_id, uuid4(), "s", "s", frozenset())
        await self.members.change_status(actor, uuid4().hex, member_id, status, "")


@pytest.fixture
async def world(database: Database, secrets_file: Any, issuer: Loopback) -> AsyncIterator[World]:
    program = await new_program(database, step_up_redeem_points=500)
    made = World(database, Sealer(secrets.load(secrets_file)), program, issuer)
    yield made
    for tokens in made.opened:
        await tokens.close()


async def refused(tokens: Tokens, token: str) -> None:
    """The one answer that every wrong token gets."""
    with pytest.raises(Unauthenticated) as caught:
        await tokens.verify(token)
    answer = caught.value
    assert (answer.reason, answer.message) == ("CREDENTIAL_INVALID", "the credential is not valid")
    assert answer.metadata == {"error": "invalid_token"}


async def test_a_members_token_says_everything_about_its_holder(world: World) -> None:
    member_id, subject = await world.member()
    actor = await world.tokens.verify(world.issuer.token(subject, acr="2", auth_time=1_000))
    assert (actor.kind, actor.program_id, actor.member_id) == (
        CallerKind.MEMBER,
        world.program.program_id,
        member_id,
    )
    assert actor.scopes == {"points.read", "points.redeem", "members.read", "members.write"}
    assert actor.label == f"member:{member_id}"
    assert actor.login is not None
    assert (actor.login.acr, actor.login.auth_time) == ("2", 1_000)
    assert (actor.login.step_up.acr_values, actor.login.step_up.redeem_points) == (("2",), 500)
    again = await world.tokens.verify(world.issuer.token(subject))
    assert again.credential_id == actor.credential_id


async def test_two_members_share_no_request_ids(world: World) -> None:
    actors = [await world.tokens.verify(world.issuer.token((await world.member())[1])) for _ in range(2)]
    assert actors[0].source_system != actors[1].source_system
    assert actors[0].credential_id != actors[1].credential_id


async def test_the_member_may_stand_in_a_claim_instead(world: World) -> None:
    member_id, _ = await world.member()
    tokens = world.trusting(entry(world.issuer, world.program.name, members={"claim": "laurel_member"}))
    actor = await tokens.verify(world.issuer.token("whoever", laurel_member=str(member_id)))
    assert actor.member_id == member_id
    for wrong in (str(uuid4()), "not-an-id", 7, ["x"], None):
        with pytest.raises(PermissionDenied):
            await tokens.verify(world.issuer.token("whoever", laurel_member=wrong))


async def test_the_program_may_stand_in_a_claim(world: World) -> None:
    _, subject = await world.member()
    terms = entry(world.issuer, world.program.name)
    del terms["program"]
    tokens = world.trusting({**terms, "program_claim": "shop"})
    actor = await tokens.verify(world.issuer.token(subject, shop=world.program.name))
    assert actor.program_id == world.program.program_id
    other = await new_program(world.database)
    with pytest.raises(PermissionDenied):
        await tokens.verify(world.issuer.token(subject, shop=other.name))
    for nothing in ("no-such-program", None, 7, {}):
        with pytest.raises(NotFound):
            await tokens.verify(world.issuer.token(subject, shop=nothing))


async def test_staff_get_the_scopes_of_their_roles_and_nothing_by_asking(world: World) -> None:
    token = world.issuer.token("meera", realm_access={"roles": ["support", "other"]}, scope="rules.write")
    actor = await world.tokens.verify(token)
    assert actor.kind is CallerKind.STAFF
    assert {"members.read", "points.read"} <= actor.scopes
    assert "rules.write" not in actor.scopes
    assert actor.member_id is None
    assert actor.label == "staff:meera"
    for roles in ("other", ["other"], 7, None, {"support": True}, [["support"]]):
        with pytest.raises(PermissionDenied):
            await world.tokens.verify(world.issuer.token("meera", realm_access={"roles": roles}))


async def test_scopes_come_from_the_token_and_from_the_issuers_terms(world: World) -> None:
    _, subject = await world.member()
    terms = {"external_id_system": SYSTEM, "scopes": ["points.read"]}
    tokens = world.trusting(entry(world.issuer, world.program.name, members=terms))
    for said, scopes in (
        ({"scope": "openid"}, {"points.read"}),
        ({"scope": "openid members.read points.mint"}, {"points.read", "members.read"}),
        ({"scope": None, "scp": ["members.read"]}, {"points.read", "members.read"}),
        ({"scope": ["members.read", 7]}, {"points.read", "members.read"}),
        ({"scope": {"members.read": 1}}, {"points.read"}),
    ):
        assert (await tokens.verify(world.issuer.token(subject, **said))).scopes == scopes


async def test_who_is_no_member_or_was_one_is_told_so_and_who_is_suspended_is_let_in(world: World) -> None:
    member_id, subject = await world.member()
    with pytest.raises(PermissionDenied) as nobody:
        await world.tokens.verify(world.issuer.token("nobody"))
    assert nobody.value.reason == "LOGIN_WITHOUT_MEMBER"
    await world.become(member_id, Status.SUSPENDED)
    assert (await world.tokens.verify(world.issuer.token(subject))).member_id == member_id
    await world.become(member_id, Status.CLOSED)
    with pytest.raises(PermissionDenied) as closed:
        await world.tokens.verify(world.issuer.token(subject))
    assert (closed.value.reason, closed.value.message) == (nobody.value.reason, nobody.value.message)


async def test_who_closes_is_out_though_the_token_is_good_for_longer(world: World) -> None:
    tokens = world.trusting(entry(world.issuer, world.program.name), cache_seconds=0.3)
    member_id, subject = await world.member()
    token = world.issuer.token(subject)
    await tokens.verify(token)
    await world.become(member_id, Status.CLOSED)

    async def until_refused() -> None:
        while True:
            await tokens.verify(token)
            await asyncio.sleep(0.02)

    with pytest.raises(PermissionDenied):
        await asyncio.wait_for(until_refused(), 10)


async def test_a_change_of_the_limit_reaches_those_who_are_logged_in(world: World) -> None:
    _, subject = await world.member()
    token = world.issuer.token(subject)
    await world.tokens.verify(token)
    async with world.database.connection() as connection:
        assert await program_store.set_step_up(connection, world.program.name, 7)
    actor = await world.tokens.verify(token)
    assert actor.login is not None
    assert actor.login.step_up.redeem_points == 7


async def test_a_token_is_verified_once_and_looked_up_once_while_it_is_cached(world: World) -> None:
    tokens = world.trusting(entry(world.issuer, world.program.name), cache_seconds=60)
    _, subject = await world.member()
    token = world.issuer.token(subject)
    first = await asyncio.gather(*(tokens.verify(token) for _ in range(50)))
    assert len({id(actor) for actor in first}) == 1
    assert await tokens.verify(token) is first[0]
    assert (tokens.lookups, tokens.hits, tokens.count()) == (1, 1, (1, 0))
    await refused(tokens, world.issuer.token(subject, exp=1))
    assert (tokens.lookups, tokens.count()) == (2, (1, 1))


async def test_a_token_that_was_good_is_refused_once_it_has_expired(world: World) -> None:
    terms = entry(world.issuer, world.program.name, clock_skew_seconds=0)
    tokens = world.trusting(terms, cache_seconds=60)
    _, subject = await world.member()
    expires = math.ceil(time.time()) + 1
    token = world.issuer.token(subject, exp=expires)
    await tokens.verify(token)
    await asyncio.sleep(expires - time.time() + 0.01)
    await refused(tokens, token)


async def test_a_token_falls_with_the_key_that_signed_it(world: World) -> None:
    tokens = world.trusting(entry(world.issuer, world.program.name), cache_seconds=0)
    _, subject = await world.member()
    token = world.issuer.token(subject)
    await tokens.verify(token)
    world.issuer.rotate("key-2", rsa_key(2))
    fresh = world.issuer.token(subject)
    async with asyncio.timeout(10):
        while True:
            try:
                await tokens.verify(fresh)
                break
            except Unauthenticated:  # the cooldown
                await asyncio.sleep(0.02)
    await refused(tokens, token)


async def test_a_key_that_is_replaced_under_its_name_takes_its_tokens_along(world: World) -> None:
    _, subject = await world.member()
    token = world.issuer.token(subject)
    await world.tokens.verify(token)
    world.issuer.rotate("key-1", rsa_key(3))
    await asyncio.sleep(0.21)
    await refused(world.tokens, world.issuer.token(subject, {"kid": "unknown"}))
    await refused(world.tokens, token)
    await world.tokens.verify(world.issuer.token(subject))


async def test_a_key_for_one_algorithm_is_for_no_other(world: World) -> None:
    _, subject = await world.member()
    keys = {"keys": [published("key-1", rsa_key(), alg="PS256")]}
    world.issuer.answers[JWKS] = (200, {}, json.dumps(keys).encode())
    await world.tokens.verify(world.issuer.token(subject, {"alg": "PS256"}))
    await refused(world.tokens, world.issuer.token(subject, {"alg": "RS256"}))


async def test_the_issuer_is_not_needed_for_keys_that_are_known(world: World) -> None:
    _, subject = await world.member()
    with_key, stranger = world.issuer.token(subject), world.issuer.token(subject, {"kid": "key-9"})
    await world.tokens.verify(with_key)
    world.issuer.stop()
    await world.tokens.verify(world.issuer.token(subject, jti="another"))
    await asyncio.sleep(0.21)
    with pytest.raises(Unavailable):
        await world.tokens.verify(stranger)


async def test_before_the_first_keys_have_come_nobody_is_called_wrong(world: World) -> None:
    world.issuer.stop()
    with pytest.raises(Unavailable) as caught:
        await world.tokens.verify(world.issuer.token("asha"))
    assert caught.value.reason == "ISSUER_UNAVAILABLE"


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
