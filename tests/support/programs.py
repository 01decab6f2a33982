"""Programs, keys and settings for tests."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from uuid_utils.compat import uuid7

from server.domain.actor import CallerKind
from server.domain.program import Program, Tier
from server.operations import credentials
from server.rpc.access import declared_scopes
from server.settings import Settings
from server.store import programs
from server.store.database import Database
from workers.settings import WorkerSettings


def demo_program(**changes: Any) -> Program:
    """Rupees, Kolkata, four tiers; under a name that no other has."""
    terms: Mapping[str, Any] = {
        "program_id": uuid7(),
        "name": f"demo-{uuid4().hex[:8]}",
        "currency": "INR",
        "time_zone": "Asia/Kolkata",
        "tiers": (Tier("bronze", 0), Tier("silver", 1000), Tier("gold", 5000), Tier("platinum", 10000)),
    }
    return Program(**{**terms, **changes})


async def new_program(database: Database, **changes: Any) -> Program:
    """A program in the database."""
    program = demo_program(**changes)
    async with database.transaction() as connection:
        assert await programs.create(connection, program)
    return program


async def new_key(database: Database, program: Program, kind: CallerKind, **wishes: Any) -> str:
    """A fresh key, named at random."""
    given = {"name": f"{kind}-{uuid4().hex[:8]}", "now": datetime.now(UTC), **wishes}
    _, key = await credentials.create(
        database, program.program_id, kind, declared_scopes=declared_scopes(), **given
    )
    return key


def settings_for(database_url: str, redis_url: str, secrets_file: Path, **changes: Any) -> Settings:
    """Settings of a server on a free port that forgets keys soon."""
    terms: Mapping[str, Any] = {
        "database_url": database_url,
        "redis_url": redis_url,
        "secrets_file": secrets_file,
        "port": 0,
        "ops_port": 0,
        "credential_cache_seconds": 1.0,
        "drain_seconds": 5.0,
        # Races need more calls about one member than anybody makes in a life.
        "member_limits": "",
    }
    return Settings(**{**terms, **changes})


def worker_settings_for(settings: Settings, **changes: Any) -> WorkerSettings:
    """Settings of a worker beside a server."""
    terms: Mapping[str, Any] = {
        "database_url": settings.database_url,
        "redis_url": settings.redis_url,
        "secrets_file": settings.secrets_file,
        "webhook_loopback": settings.webhook_loopback,
        "worker_ops_port": None,
    }
    return WorkerSettings(**{**terms, **changes})
