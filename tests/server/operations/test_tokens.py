"""Whose a token is, and for how long it is believed."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from server.domain.actor import CallerKind
from server.domain.errors import NotFound, PermissionDenied, Unauthenticated, Unavailable
from server.domain.members import Status
from server.store import programs as program_store
from server.store.database import Database
from tests.support.issuers import (
    JWKS,
    SYSTEM,
    entry,
    published,
    rsa_key,
)
from tests.support.programs import new_program
from tests.support.tokens import World, believing, refused


@pytest.fixture
async def world(database: Database, secrets_file: Path) -> AsyncIterator[World]:
    async with believing(database, secrets_file) as made:
        yield made


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
