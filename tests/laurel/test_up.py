import contextlib
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from laurel.stack.processes import command_of
from tests.support.processes import Foreground, environment, run, up, wait_until

pytestmark = pytest.mark.long


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    """A folder to start stacks in; what they left running in it would show at the end."""
    path = Path(tempfile.mkdtemp(prefix="laurel-test-"))
    yield path
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(path) not in listing
    shutil.rmtree(path)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder for a stack of the test's own."""
    with fresh_folder() as path:
        yield path


class Office(NamedTuple):
    """A stack that runs, and the folder in which it was started."""

    home: Path
    stack: Foreground


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    """For tests that stop nothing: a start takes seconds."""
    with fresh_folder() as home, up(home, "--servers", "2") as stack:
        yield Office(home, stack)


def _is_ready(place: str) -> bool:
    try:
        return httpx.get(f"http://{place}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def runtime(home: Path, name: str = ".laurel") -> dict[str, object]:
    return json.loads((home / name / "stack.json").read_text())


def test_what_it_promises_works_and_ctrl_c_keeps_the_data(home: Path) -> None:
    with up(home) as stack:
        commands = [line.strip() for line in stack.lines if " members " in line or " points " in line]
        assert len(commands) == 3
        shown = [
            subprocess.run(
                shlex.split(c), cwd=home, env=environment(), capture_output=True, text=True, check=True
            )
            for c in commands
        ]
        assert "points" in shown[2].stdout
        card = shlex.split(commands[0])[-1]
        before = run("points", "balance", card, "--json", cwd=home).stdout
        assert json.loads(before)["wallets"][0]["balance"] != "0"
        assert stack.wait_for("terminal key").split()[-1] in (home / ".laurel" / "keys.json").read_text()
        secrets = (home / ".laurel" / "secrets.json").read_bytes()
        assert stack.end(signal.SIGINT) == 0
        ends = [line.split()[0] for line in stack.lines if line.endswith("stopped")]
        assert ends == ["servers", "workers", "Redis", "PostgreSQL"]
    assert not (home / ".laurel" / "stack.json").exists()

    with up(home) as stack:
        assert run("points", "balance", card, "--json", cwd=home).stdout == before
        assert (home / ".laurel" / "secrets.json").read_bytes() == secrets
        assert "added" not in stack.text
        assert "made" not in stack.text


@pytest.fixture
def ordinary(home: Path) -> dict[str, Any]:
    """An ordinary account, as subprocess takes it, to which the folder belongs."""
    if os.geteuid() != 0:
        pytest.skip("all tests of this file run as an ordinary user already")
    entry = pwd.getpwnam("nobody")
    os.chown(home, entry.pw_uid, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@pytest.fixture
def python(home: Path, ordinary: dict[str, Any]) -> Path:
    """An interpreter with all that ours has, which that account may run in ``home``."""
    if _runs(sys.executable, ordinary):
        return Path(sys.executable)
    # Ours may lie in a home that is closed to others; a copy of it doesn't.
    base, library = Path(sys.base_prefix), Path(sysconfig.get_path("stdlib"))
    copy = home / "copy" / library.relative_to(base)
    shutil.copytree(library, copy, ignore=shutil.ignore_patterns("site-packages", "test", "*.a"))
    (home / "copy" / "bin").mkdir()
    shared = Path(sysconfig.get_config_var("LIBDIR")) / sysconfig.get_config_var("INSTSONAME")
    if shared.suffix != ".a":
        shutil.copy2(shared, home / "copy" / "lib")
    binary = shutil.copy2(os.path.realpath(sys.executable), home / "copy" / "bin")
    (copy / "site-packages").mkdir()
    ours = sysconfig.get_path("purelib")
    (copy / "site-packages" / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    if not _runs(binary, ordinary, "import laurel.commands.up"):
        pytest.skip("an ordinary user can't read this checkout, or can't run a copy of this interpreter")
    return Path(binary)


def _runs(python: Path | str, account: dict[str, Any], code: str = "") -> bool:
    try:
        ran = subprocess.run(
            [str(python), "-c", code],
            check=False,
            cwd="/",
            env=environment(**_library_path(Path(python))),
            **account,
        )
        return ran.returncode == 0
    except PermissionError:
        return False


def _library_path(python: Path) -> dict[str, str]:
    """Where a copied interpreter finds its own library."""
    return {"LD_LIBRARY_PATH": str(python.parents[1] / "lib")}


def test_an_ordinary_user_runs_it_and_the_next_start_finds_the_data(
    home: Path, ordinary: dict[str, Any], python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free = ["--port", "0", "--http-port", "0", "--ops-port", "0"]
    command = [str(python), "-c", "from laurel.cli import laurel; laurel()", "up", *free]
    took = []
    for _ in range(2):
        began = time.monotonic()
        stack = Foreground(command, home, {"HOME": str(home), **_library_path(python)}, ordinary)
        try:
            stack.wait_for("Ctrl-C stops the stack", 120.0)
            took.append(time.monotonic() - began)
            if len(took) == 1:
                assert run("members", "register", "--card", "4711471147", cwd=home).returncode == 0
            bought = run(
                "points", "accrue", "4711471147", "500", "INR", "--order", f"R-{len(took)}", cwd=home
            )
            assert bought.returncode == 0, bought.stderr
        finally:
            assert stack.end() == 0, stack.text
            assert stack.process.stdout is not None
            stack.process.stdout.close()
        owners = {path.stat().st_uid for path in (home / ".laurel").rglob("*")}
        assert owners == {ordinary["user"]}
    with capsys.disabled():
        print(f" [the first start took {took[0]:.1f} s, the second {took[1]:.1f} s] ", end="", flush=True)


def test_points_are_earned_spent_and_explained_by_command(office: Office) -> None:
    assert run("members", "register", "--email", "asha@example.com", cwd=office.home).returncode == 0
    mails = office.home / ".laurel" / "mail"
    assert wait_until(lambda: any("asha@example.com" in m.read_text() for m in mails.glob("*.eml")), 60)

    def reply(*arguments: str) -> dict[str, Any]:
        shown = run("points", *arguments, "--json", cwd=office.home)
        assert shown.returncode == 0, shown.stderr
        return json.loads(shown.stdout)

    bought = reply("accrue", "asha@example.com", "2500.00", "INR", "--order", "R-1", "--store", "mumbai-3")
    base, bonus = 20 * 25, 250
    assert int(bought["points"]) in (base + bonus, 2 * base + bonus)  # twice the base while it is Diwali
    reviewed = reply(
        "event", "asha@example.com", "REVIEW_SUBMITTED", "--reference", "r-1", "--attribute", "stars=5"
    )
    assert int(reviewed["points"]) == 50
    spent = reply("redeem", "asha@example.com", "100", "--reason", "coffee")
    assert int(spent["balance"]) == int(bought["points"]) + 50 - 100
    assert spent["value"] == {"currencyCode": "INR", "units": "10", "nanos": 0}

    rows = reply("history", "asha@example.com")
    assert rows[0]["transactionId"] == spent["transactionId"]
    earned = bought["awards"][0]["transactionId"]
    assert reply("show", earned)["transaction"]["orderReference"] == "R-1"
    assert {rule["rule"] for rule in reply("explain", earned)["rules"]} >= {"base", "first-purchase"}
    [order] = reply("find", "R-1", "--store", "mumbai-3")["orders"]
    assert [row["transactionId"] for row in order["transactions"]] == [earned]
    told = reply("statement", "asha@example.com", "--from", "2026-01-01", "--to", "2126-01-01")
    assert {row["transactionId"] for row in told["transactions"]} == {r["transactionId"] for r in rows}
    assert told["closing"][0]["balance"] == spent["balance"]
    then = reply("balance", "asha@example.com", "--as-of", "2026-11-01")
    assert then["wallets"][0]["balance"] == "0"
    for command in (
        "history asha@example.com",
        "find R-1",
        "statement asha@example.com --from 2026-01-01 --to 2126-01-01",
        f"show {earned}",
        f"explain {earned}",
        "balance asha@example.com",
        "balance asha@example.com --as-of 2026-11-01T12:00+05:30",
    ):
        assert run("points", *command.split(), cwd=office.home).returncode == 0

    too_much = run("points", "redeem", "asha@example.com", "1000000", cwd=office.home)
    assert too_much.returncode == 1
    assert too_much.stderr.startswith("Error: FAILED_PRECONDITION (INSUFFICIENT_POINTS): ")


def test_two_run_side_by_side_but_not_in_one_folder_or_on_one_port(office: Office) -> None:
    home, port = office.home, str(runtime(office.home)["address"]).rpartition(":")[2]
    free = ("--http-port", "0", "--ops-port", "0")
    with up(home, "--data-folder", "two"):
        assert runtime(home, "two")["address"] != runtime(home)["address"]
    same_folder = run("up", "--port", "0", *free, cwd=home)
    assert same_folder.returncode == 1
    assert "another `laurel up`" in same_folder.stderr
    same_port = run("up", "--port", port, *free, "--data-folder", "three", cwd=home)
    assert same_port.returncode == 1
    assert f"port {port}" in same_port.stderr


@pytest.mark.faults
def test_whoever_dies_is_started_again(home: Path) -> None:
    with up(home, "--servers", "2") as stack:
        first = runtime(home)["servers"]
        assert isinstance(first, list)
        postmaster = int((home / ".laurel/postgres/data/postmaster.pid").read_text().splitlines()[0])
        [worker] = runtime(home)["workers"]  # type: ignore[misc]
        for pid in (first[0], worker, postmaster):
            subprocess.run(["kill", "-9", str(pid)], check=True)
        stack.wait_for("server 1 was started again")
        stack.wait_for("the worker was started again")
        stack.wait_for("PostgreSQL was started again")
        assert wait_until(lambda: run("members", "list", cwd=home).returncode == 0)
        assert runtime(home)["servers"] != first
        assert runtime(home)["workers"] != [worker]
        places = runtime(home)["ops"]
        assert isinstance(places, list)
        assert len(set(places)) == 2
        for place in places:
            assert f"http://{place}/readyz" in stack.text
            assert wait_until(lambda place=place: _is_ready(place))
        [place] = runtime(home)["worker_ops"]  # type: ignore[misc]
        assert wait_until(lambda: _is_ready(place), 30.0)
        found = json.loads(run("doctor", "--json", cwd=home).stdout)
        assert [f["state"] for f in found if f["check"] == "worker"] == ["ok"]
        assert [f["state"] for f in found if f["check"] == "readiness"] == ["ok", "ok"]


@pytest.mark.faults
def test_after_kill_9_of_the_whole_the_next_start_takes_over(home: Path) -> None:
    with up(home) as stack:
        servers = [int(pid) for pid in runtime(home)["servers"]]  # type: ignore[attr-defined]
        workers = [int(pid) for pid in runtime(home)["workers"]]  # type: ignore[attr-defined]
        stack.end(signal.SIGKILL)
    with up(home):
        assert all("-m laurel.process" not in command_of(pid) for pid in servers)
        assert all("-m workers" not in command_of(pid) for pid in workers)
        assert run("doctor", cwd=home).returncode == 0


def test_secrets_that_are_lost_are_not_replaced_over_data_they_seal(home: Path) -> None:
    with up(home):
        pass
    (home / ".laurel" / "secrets.json").unlink()
    refused = run("up", "--port", "0", "--http-port", "0", "--ops-port", "0", cwd=home)
    assert refused.returncode == 1
    assert "secrets.json is missing" in refused.stderr
    assert not (home / ".laurel" / "secrets.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_given_servers_are_used_instead_of_embedded_ones(office: Office) -> None:
    host = runtime(office.home)
    given = {
        "LAUREL_DATABASE_URL": str(host["database_url"]).replace("/laurel?", "/guest?"),
        "LAUREL_REDIS_URL": str(host["redis_url"]),
    }
    with up(office.home, "--data-folder", "guest", **given):
        assert not (office.home / "guest" / "postgres").exists()
        assert not (office.home / "guest" / "redis").exists()
        listed = run("programs", "list", "--json", cwd=office.home, LAUREL_DATA="guest")
        assert {program["name"] for program in json.loads(listed.stdout)} == {"demo", "online-retail"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="what is shown is shown with curl")
def test_the_people_of_the_demo_log_in_and_reach_what_is_theirs(office: Office) -> None:
    shown = next(line.strip() for line in office.stack.lines if "login --user asha" in line)

    def answer(command: str, *more: str) -> Any:
        done = subprocess.run(
            ["/bin/sh", "-c", " ".join([command.replace("curl ", "curl -s "), *more])],
            cwd=office.home,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    own = answer(shown)
    assert int(own["wallets"][0]["balance"]) > 500
    assert answer(shown.replace("asha", "ravi"))["details"][0]["reason"] == "OUT_OF_REACH"
    assert answer(shown.replace("asha", "meera")) == own

    redeem = re.sub(r"/api/points/\S+", "/transactions/redeem", shown)
    body = json.dumps({"requestId": "r-1", "memberId": own["memberId"], "points": "501"})
    sent = ("-H", "'Content-Type: application/json'", "-d", shlex.quote(body))
    assert answer(redeem, *sent)["details"][0]["reason"] == "STEP_UP_REQUIRED"
    assert answer(redeem.replace("--user asha", "--user asha --step-up"), *sent)["points"] == "501"

    page = office.stack.wait_for("demo logins").split()[2]
    assert "Asha Rao" in httpx.get(page, trust_env=False).text


def test_beside_a_real_issuer_the_stack_has_none_of_its_own(home: Path) -> None:
    settings = {
        "LAUREL_OIDC_ISSUER": "https://login.example.com",
        "LAUREL_OIDC_AUDIENCE": "laurel",
        "LAUREL_OIDC_PROGRAM": "demo",
        "LAUREL_OIDC_ACR_VALUES": "2",
    }
    with up(home, **settings) as stack:
        assert "no demo logins: LAUREL_OIDC_ISSUER" in stack.text
        assert "login --user" not in stack.text
        address = runtime(home)["http_address"]
        assert httpx.get(f"http://{address}/issuer/", trust_env=False).status_code == 404
    assert not (home / ".laurel" / "issuer.json").exists()
