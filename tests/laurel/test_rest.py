"""REST as its users meet it: the tour of the README against `laurel up`, and the shim alone."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest
from google.rpc import code_pb2

from server.store import locks
from tests.server.test_drain import until_nobody_listens, until_somebody_waits_for_a_lock
from tests.support.processes import ROOT, gateway, run, up
from tests.support.servers import Laurel

BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that another account can be let through to: PostgreSQL won't run as root."""
    path = Path(tempfile.mkdtemp(prefix="laurel-test-"))
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour is made with curl")
def test_the_tour_of_the_readme_works(home: Path) -> None:
    section = (ROOT / "README.md").read_text().partition("\n## Over REST\n")[2]
    found = BLOCK.search(section)
    assert found is not None
    with up(home) as stack:
        address = json.loads((home / ".laurel" / "stack.json").read_text())["http_address"]
        tour = found[1].replace("127.0.0.1:8080", address).replace(".venv/bin/python", sys.executable)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", tour], cwd=home, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        member, bought, reviewed, spent, left, history = map(json.loads, done.stdout.split())
        assert member["member"]["givenName"] == "Asha"
        earned = int(bought["points"]) + int(reviewed["points"])
        assert earned >= 150
        assert spent["points"] == "40"
        balance = next(w["balance"] for w in left["wallets"] if w["pointType"] == "points")
        assert int(balance) == earned - 40 == int(spent["balance"])
        kinds = [row["kind"] for row in history["transactions"]]
        assert kinds[0] == "TRANSACTION_KIND_REDEEM"
        assert set(kinds[1:]) == {"TRANSACTION_KIND_EARN"}

        shown = stack.wait_for("curl ")
        card = re.search(r'cardNumber": "(\d+)"', shown)
        assert card is not None
        registered = run("members", "register", "--given-name", "Asha", "--card", card[1], cwd=home)
        assert registered.returncode == 0
        told = subprocess.run(shown, shell=True, capture_output=True, text=True, check=True).stdout
        assert int(json.loads(told)["points"]) > 0
        examples_work(f"http://{address}", json.loads((home / ".laurel" / "keys.json").read_text()))

        taken = run(
            "up", "--port", "0", "--ops-port", "0", "--http-port", address.rpartition(":")[2],
            "--data-folder", "other", cwd=home,
        )  # fmt: skip
        assert taken.returncode == 1
        assert "--http-port" in taken.stderr
        assert "LAUREL_HTTP_PORT" in taken.stderr


def examples_work(url: str, keys: dict[str, dict[str, str]]) -> None:
    """What the page to try it in suggests succeeds as it stands, in this order and twice."""
    headers = {"Authorization": f"Bearer {keys['demo']['terminal']}"}
    with httpx.Client(base_url=url, headers=headers, timeout=10, trust_env=False) as http:
        assert http.get("/docs").status_code == 200
        paths = http.get("/openapi.json").json()["paths"]
        replies = []
        for path in (
            "/members/register",
            "/transactions/accrue",
            "/events",
            "/transactions/redeem",
        ) * 2:
            body = paths[path]["post"]["requestBody"]["content"]["application/json"]
            reply = http.post(path, json=body["example"])
            assert reply.status_code == 200, (path, reply.text)
            replies.append(reply.json())
        # A member is shown as of now, movements as they were then.
        assert replies[1:4] == replies[5:]


async def test_the_shim_alone_passes_calls_on_and_ends_when_asked(laurel: Laurel, tmp_path: Path) -> None:
    with gateway(laurel.address, tmp_path) as (shim, ready):
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{ready['http_port']}", trust_env=False, timeout=20
        ) as http:
            headers = {"authorization": f"Bearer {laurel.terminal.key}", "idempotency-key": uuid4().hex}
            body = {"member": {"email": f"{uuid4().hex}@example.com"}}
            first = await http.post("/members/register", json=body, headers=headers)
            assert first.status_code == 200, first.text
            again = await http.post("/members/register", json=body, headers=headers)
            assert again.json() == first.json()
            refused = await http.get("/api/points/x")
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Bearer")
            member_id = first.json()["member"]["memberId"]
            balance = await http.get(f"/api/points/{member_id}", headers=headers)
            assert balance.json()["memberId"] == member_id
            ops = f"http://127.0.0.1:{ready['ops_port']}"
            told = (await http.get(f"{ops}/readyz")).json()
            assert told == {"ready": True, "checks": {"serving": "ok", "server": "ok"}}
            counted = (await http.get(f"{ops}/metrics")).text
            assert 'http_response_status_code="200",http_route="/members/register"} 2.0' in counted
        assert shim.end(signal.SIGTERM) == 0


def test_a_shim_whose_server_is_away_lives_and_is_not_ready(tmp_path: Path) -> None:
    with gateway("127.0.0.1:1", tmp_path) as (shim, ready):
        ops = f"http://127.0.0.1:{ready['ops_port']}"
        assert httpx.get(f"{ops}/livez", timeout=10, trust_env=False).status_code == 200
        told = httpx.get(f"{ops}/readyz", timeout=10, trust_env=False)
        assert (told.status_code, told.json()["checks"]["server"]) == (503, "can't be reached")
        assert shim.end(signal.SIGTERM) == 0


async def test_a_shim_that_stops_under_load_cuts_nobody_off(laurel: Laurel, tmp_path: Path) -> None:
    """Its callers go elsewhere when readiness says so, as a balancer would send them."""
    member_id = await laurel.register()
    answers: Counter[int] = Counter()
    gone = asyncio.Event()
    with gateway(laurel.address, tmp_path, LAUREL_GRACE_SECONDS="6") as (shim, ready):
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{ready['http_port']}",
            headers={"authorization": f"Bearer {laurel.service.key}", "x-request-timeout": "60"},
            trust_env=False,
            timeout=60,
        ) as http:

            async def caller() -> None:
                while not gone.is_set():
                    answers[(await http.get(f"/api/points/{member_id}")).status_code] += 1

            async def answered(more: int) -> None:
                enough = answers.total() + more
                while answers.total() < enough:  # noqa: ASYNC110 - they are many
                    await asyncio.sleep(0.01)

            async with laurel.database.transaction() as connection:
                await locks.take(connection, [locks.member_lock(UUID(member_id))])
                redeem = {"requestId": uuid4().hex, "memberId": member_id, "points": "1"}
                under_way = asyncio.create_task(http.post("/transactions/redeem", json=redeem))
                await until_somebody_waits_for_a_lock(laurel.database)
                callers = [asyncio.create_task(caller()) for _ in range(8)]
                await answered(50)
                shim.process.send_signal(signal.SIGTERM)
                readiness = f"http://127.0.0.1:{ready['ops_port']}/readyz"
                while (told := await http.get(readiness)).status_code == 200:
                    pass
                assert told.json()["checks"]["serving"] == "stopping"
                await answered(8)
                gone.set()
                await asyncio.gather(*callers)
                await until_nobody_listens(ready["http_port"])
                assert not under_way.done()
            answer = await under_way
            assert (answer.status_code, answer.json()["code"]) == (400, code_pb2.FAILED_PRECONDITION)
        assert await asyncio.to_thread(shim.process.wait, 20) == 0
    assert set(answers) == {200}


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = str(held.getsockname()[1])
        refused = run("gateway", "--address", "127.0.0.1:1", "--http-port", port, cwd=tmp_path)
    assert refused.returncode == 1
    assert "LAUREL_HTTP_PORT" in refused.stderr
    assert port in refused.stderr
    wrong = run("gateway", "--address", "127.0.0.1:1", cwd=tmp_path, LAUREL_HTTP_STREAMS="hunter2")
    assert wrong.returncode == 1
    assert "LAUREL_HTTP_STREAMS" in wrong.stderr
    assert "hunter2" not in wrong.stderr
