"""Every workload of bench/ghz, as users run it: one line, an address and a key."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from loyalty.v1 import rules_pb2

from bench import load, tools
from laurel.clients import Missing
from tests.support.processes import environment
from tests.support.servers import Laurel
from tests.support.shop import BASE

pytestmark = pytest.mark.toolchains
# Those that need members come after the one that registers them, spending after earning.
IN_ORDER = ("register", "find-member", "get-member", "get-balance", "accrue", "redeem")


@pytest.fixture(scope="module")
def ghz() -> Path:
    try:
        return tools.ghz()
    except Missing as reason:
        pytest.skip(str(reason))


def test_every_workload_is_run() -> None:
    assert set(IN_ORDER) == {path.stem for path in load.WORKLOADS.glob("*.json")}


async def test_workloads_run_against_a_server(ghz: Path, laurel: Laurel) -> None:
    create = rules_pb2.CreateRuleRequest()
    json_format.ParseDict(BASE, create.definition)
    rule = (await laurel.service.rules.CreateRule(create)).rule
    version = rules_pb2.RuleVersion(name=rule.name, version=rule.version)
    await laurel.service.rules.PublishRules(rules_pb2.PublishRulesRequest(publish=[version]))
    variables = environment(LAUREL_API_KEY=laurel.service.key, LAUREL_MEMBER_ID=await laurel.register())
    for name in IN_ORDER:

        def run(path: Path = load.WORKLOADS / f"{name}.json") -> dict[str, Any]:
            command = [ghz, "--config", path, "--format", "json", "--duration", "0", "--total", "1000"]
            done = subprocess.run(
                [*command, laurel.address],
                env=variables,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            report: dict[str, Any] = json.loads(done.stdout)
            return report

        report = await asyncio.to_thread(run)
        assert report["statusCodeDistribution"] == {"OK": 1000}, (name, report["errorDistribution"])
