"""A worker does by itself what the clock brings, and whoever asks sees it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from google.type import date_pb2, money_pb2
from loyalty.v1 import member_pb2, points_pb2, rules_pb2

from server import secrets
from server.serving import StartError
from server.store import schedules as store
from server.store.checkpoint_file import lines, public_keys
from tests.support import processes
from tests.support.servers import Laurel
from tests.support.waiting import eventually
from workers.main import Process, running
from workers.settings import WorkerSettings

PATIENCE = 60.0
ALL = {
    "due",
    "warnings",
    "birthday",
    "tiers",
    "webhook_log",
    "message_log",
    "generations",
    "checkpoint",
}


def settings_of(laurel: Laurel, **changes: object) -> WorkerSettings:
    """Of a worker beside the server of the tests."""
    own = laurel.settings
    return WorkerSettings(
        **{
            "database_url": own.database_url,
            "redis_url": own.redis_url,
            "secrets_file": own.secrets_file,
            "worker_ops_port": None,
            **changes,
        }
    )


@asynccontextmanager
async def at_work(laurel: Laurel, **changes: object) -> AsyncIterator[Process]:
    async with running(settings_of(laurel, **changes)) as process:
        yield process


async def outcomes(laurel: Laurel) -> dict[str, str]:
    """How each schedule stands, of the installation and of the program."""
    async with laurel.database.connection() as connection:
        found = await store.standings(connection, laurel.program.program_id)
    return {standing.name: standing.outcome for standing in found}


async def buy(laurel: Laurel, member_id: str) -> None:
    request = points_pb2.AccrueRequest(
        request_id=uuid4().hex,
        member_id=member_id,
        order_reference=uuid4().hex,
        amount=money_pb2.Money(currency_code="INR", units=100),
    )
    await laurel.terminal.points.Accrue(request)


async def test_a_worker_does_what_the_clock_brings(laurel: Laurel, tmp_path: Path) -> None:
    definition = {"rule": "base", "when": {"event": "PURCHASE"}, "then": [{"fixed": {"points": 7}}]}
    draft = await laurel.service.rules.CreateRule(
        rules_pb2.CreateRuleRequest(definition=ParseDict(definition, Struct()))
    )
    version = rules_pb2.RuleVersion(name=draft.rule.name, version=draft.rule.version)
    await laurel.service.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=[version]))
    today = laurel.program.business_date(datetime.now(UTC))
    born = date_pb2.Date(year=1992, month=today.month, day=today.day)
    member_id = await laurel.register(email=f"{uuid4().hex}@example.com", birth_date=born)
    await laurel.service.members.RecordConsent(
        member_pb2.RecordConsentRequest(
            request_id=uuid4().hex,
            member_id=member_id,
            consent=member_pb2.Consent(purpose="marketing", granted=True, policy_version="1", channel="web"),
        )
    )
    await buy(laurel, member_id)
    async with laurel.database.connection() as connection:
        # As if it had been earned long ago.
        await connection.execute(
            "UPDATE lot SET expires_at = now() - interval '1 day' WHERE member_id = $1", member_id
        )
        await connection.execute(
            "UPDATE wallet SET next_due = now() - interval '1 day' WHERE member_id = $1", member_id
        )
    path = tmp_path / "checkpoints.jsonl"

    async def all_done() -> bool:
        found = await outcomes(laurel)
        return set(found) == ALL and set(found.values()) == {"done"}

    async def happened(event_type: str) -> bool:
        async with laurel.database.connection() as connection:
            return bool(
                await connection.fetchval(
                    "SELECT count(*) FROM event_log WHERE member_id = $1 AND event_type = $2",
                    member_id,
                    event_type,
                )
            )

    def written() -> int:
        keys = secrets.load(laurel.settings.secrets_file).checkpoint
        assert keys is not None
        return sum(read.line is not None and read.authentic for read in lines(path, public_keys(keys)))

    async def written_again() -> bool:
        return written() >= 2

    async with at_work(laurel, checkpoint_file=str(path), checkpoint_seconds=1.0, due_seconds=1.0):
        await eventually(all_done, PATIENCE)
        await eventually(partial(happened, "points.expired"), PATIENCE)
        await eventually(partial(happened, "member.birthday"), PATIENCE)
        await buy(laurel, member_id)
        await eventually(written_again, PATIENCE)

    # Everybody may see it: staff over the command line, and who looks after the installation.
    environment = {
        "LAUREL_ADDRESS": laurel.address,
        "LAUREL_API_KEY": laurel.staff.key,
        "LAUREL_DATABASE_URL": laurel.settings.database_url.get_secret_value(),
    }
    run = partial(asyncio.to_thread, partial(processes.run, **environment))
    shown = await run("schedules")
    assert shown.returncode == 0, shown.stderr
    names = [line.split()[0] for line in shown.stdout.splitlines()]
    assert (names[0], set(names[1:])) == ("SCHEDULE", ALL)
    found = json.loads((await run("schedules", "--json")).stdout)
    assert {one["outcome"] for one in found} == {"SCHEDULE_OUTCOME_DONE"}

    async def diagnosed() -> dict[str, tuple[str, str]]:
        findings = json.loads((await run("doctor", "--json")).stdout)
        return {finding["check"]: (finding["state"], finding["detail"]) for finding in findings}

    well = await diagnosed()
    assert well["schedules"][0] == well["checkpoints"][0] == "ok"
    # And when no worker has been there for a while:
    async with laurel.database.connection() as connection:
        await connection.execute(
            "UPDATE schedule SET next_at = now() - interval '1 hour', done_period = now() - interval '1 hour'"
        )
    ill = await diagnosed()
    assert ill["schedules"][0] == ill["checkpoints"][0] == "warn"
    assert "8 of 8 late" in ill["schedules"][1]


async def test_where_nobody_wants_checkpoints_or_runs_there_are_none(laurel: Laurel) -> None:
    async def settled() -> bool:
        return set(await outcomes(laurel)) == ALL - {"due", "warnings", "checkpoint"}

    async with at_work(laurel, due_seconds=0):
        await eventually(settled, PATIENCE)


async def test_without_a_key_to_sign_with_it_does_not_start(laurel: Laurel, tmp_path: Path) -> None:
    content = json.loads(laurel.settings.secrets_file.read_text())
    del content["checkpoint"]
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps(content))
    with pytest.raises(StartError, match="no key to sign with"):
        async with at_work(laurel, secrets_file=path, checkpoint_file=str(tmp_path / "c")):
            pass
