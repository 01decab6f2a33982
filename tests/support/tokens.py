"""A program whose members log in at an issuer, and the verifier of their tokens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from server import secrets
from server.domain.actor import Actor, CallerKind
from server.domain.errors import Unauthenticated
from server.domain.members import ExternalId, Profile, Status
from server.domain.program import Program
from server.issuers import Issuer
from server.main import now
from server.operations.members import Members
from server.operations.programs import Programs
from server.operations.signing_keys import Pace, SigningKeys
from server.operations.tokens import Tokens
from server.rpc.access import declared_scopes
from server.store.database import Database
from server.store.sealing import Sealer
from tests.support.issuers import (
    SYSTEM,
    Loopback,
    entry,
    loopback,
)
from tests.support.programs import new_program


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


@asynccontextmanager
async def believing(database: Database, secrets_file: Path) -> AsyncIterator[World]:
    """A program that trusts an issuer on loopback."""
    program = await new_program(database, step_up_redeem_points=500)
    with loopback() as issuer:
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
