"""`laurel webhooks`, as operators type it."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from click.testing import CliRunner, Result

from laurel.cli import laurel as command
from server.domain.actor import CallerKind
from server.settings import Settings
from server.store.database import Database
from tests.support import processes
from tests.support.programs import worker_settings_for
from tests.support.receivers import listening
from tests.support.servers import Laurel, started
from workers.deliveries import Pace
from workers.main import running


@pytest.fixture(scope="module")
async def office(settings: Settings, database: Database) -> AsyncIterator[tuple[Laurel, str]]:
    """A server that calls this machine, and a key of staff."""
    async with started(settings.model_copy(update={"webhook_loopback": True}), database) as laurel:
        yield laurel, await laurel.new_key(CallerKind.STAFF, scopes=["webhooks.*"])


async def cli(office: tuple[Laurel, str], *arguments: str) -> CompletedProcess[str]:
    laurel, key = office
    settings = {"LAUREL_ADDRESS": laurel.address, "LAUREL_API_KEY": key}
    return await asyncio.to_thread(partial(processes.run, "webhooks", *arguments, cwd=Path("/"), **settings))


async def inside(office: tuple[Laurel, str], *arguments: str) -> Result:
    """The same in this process, which takes less."""
    laurel, key = office
    runner = CliRunner(env={"LAUREL_ADDRESS": laurel.address, "LAUREL_API_KEY": key})
    return await asyncio.to_thread(partial(runner.invoke, command, ["webhooks", *arguments]))


async def told(office: tuple[Laurel, str], *arguments: str) -> Any:
    """What the command prints with --json."""
    done = await cli(office, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_the_life_of_an_endpoint(office: tuple[Laurel, str]) -> None:
    settings = worker_settings_for(office[0].settings)
    async with listening() as receiver, running(settings, pace=Pace(poll_seconds=0.1)):
        added = await told(office, "add", receiver.url(), "--event", "points.*", "--description", "Partner")
        endpoint_id, secret = added["webhook"]["endpointId"], added["secret"]
        shown = await inside(office, "test", endpoint_id)
        assert (shown.exit_code, "webhook.test" in shown.output, " 204 " in shown.output) == (0, True, True)
        receiver.received[0].verified(secret)

        rotated = await told(office, "rotate", endpoint_id, "--overlap", "2h")
        (delivery,) = await told(office, "deliveries", endpoint_id)
        assert (await inside(office, "redeliver", delivery["deliveryId"])).exit_code == 0
        await receiver.has(2)
        receiver.received[1].verified(secret)
        receiver.received[1].verified(rotated["secret"])
        assert receiver.received[1].message_id == delivery["deliveryId"]

        receiver.status = 500
        shown = await inside(office, "test", endpoint_id)
        assert (shown.exit_code, "answered 500" in shown.output) == (1, True)
        assert "did not take it" in shown.output

    for arguments, words in (
        (("list",), ("points.*", "Partner", "failing since")),
        (("show", endpoint_id), (receiver.url(), "failing since", "until the next", "registered")),
        (("disable", endpoint_id, "--reason", "moving"), ("disabled: moving",)),
        (("enable", endpoint_id), ("enabled",)),
        (("rotate", endpoint_id, "--at-once"), ("whsec_",)),
        (("deliveries", endpoint_id, "--status", "sent"), ("webhook.test", "204")),
        (("remove", endpoint_id), ("removed",)),
    ):
        shown = await inside(office, *arguments)
        assert (shown.exit_code, [w for w in words if w not in shown.output]) == (0, []), shown.output
    assert endpoint_id not in (await inside(office, "list")).output


async def test_without_a_worker_a_test_says_so(office: tuple[Laurel, str]) -> None:
    added = await told(office, "add", "http://127.0.0.1:9009/")
    shown = await inside(office, "test", added["webhook"]["endpointId"], "--seconds", "0")
    assert (shown.exit_code, "does a worker run?" in shown.output) == (1, True)


async def test_an_endpoint_that_is_not_called_is_refused(office: tuple[Laurel, str]) -> None:
    shown = await inside(office, "add", "https://10.0.0.1/", "--event", "orders.*")
    assert shown.exit_code == 1
    assert "url: must lead to a public address" in shown.output
    assert "event_types[0]: matches no type of event" in shown.output
