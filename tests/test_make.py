"""`make run` and `make test` for an ordinary user with a bare environment, where nothing was set up yet."""

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.support.processes import ROOT, Foreground

pytestmark = pytest.mark.toolchains

PATH = "/usr/local/bin:/usr/bin:/bin"
SET_UP_SECONDS = 600.0
FREE_PORTS = "ARGS=--port 0 --http-port 0 --ops-port 0"
SOME_TESTS = "ARGS=tests/laurel/test_redis.py tests/workers/test_start.py tests/server/store"
NEW_ENOUGH = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"


class User(NamedTuple):
    """Somebody without rights of their own, and their copy of this checkout."""

    account: Mapping[str, Any]
    checkout: Path

    def command(self, *command: str) -> list[str]:
        """With a bare environment."""
        return ["env", "-i", f"HOME={self.checkout.parent}", f"PATH={PATH}", *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command),
            cwd=self.checkout,
            capture_output=True,
            text=True,
            timeout=SET_UP_SECONDS,
            check=False,
            **self.account,
        )

    @contextlib.contextmanager
    def make(self, *arguments: str) -> Iterator[Foreground]:
        """`make` in a session of its own, as in a terminal; ended at the latest with the block."""
        wishes = {**self.account, "start_new_session": True}
        begun = Foreground(self.command("make", *arguments), self.checkout, {}, wishes)
        try:
            yield begun
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(begun.process.pid, signal.SIGTERM)
            begun.process.wait(40)
            assert begun.process.stdout is not None
            begun.process.stdout.close()


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    account: Mapping[str, Any] = MappingProxyType({})
    if os.geteuid() == 0:
        entry = pwd.getpwnam("nobody")
        account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    home = Path(tempfile.mkdtemp(prefix="laurel-test-"))
    user = User(account, home / "laurel")
    _copy_checkout(user.checkout)
    if account:
        subprocess.run(["chown", "-R", f"{account['user']}:{account['group']}", str(home)], check=True)
    if not any(user.run(name, "-c", NEW_ENOUGH).returncode == 0 for name in ("python3.11", "python3")):
        pytest.skip(f"there is no Python 3.11 or newer in {PATH}")
    yield user
    shutil.rmtree(home)


def _copy_checkout(folder: Path) -> None:
    """What is under version control here, and what is about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def shown(lines: Sequence[str]) -> list[list[str]]:
    """The three commands that are printed to be tried."""
    return [shlex.split(line) for line in lines if " members register " in line or " points " in line]


def test_run_sets_up_stops_on_ctrl_c_and_finds_its_data_again(user: User) -> None:
    with user.make("run", FREE_PORTS) as stack:
        stack.wait_for("Ctrl-C stops the stack", SET_UP_SECONDS)
        register, accrue, balance = shown(stack.lines)
        for command in (register, accrue):
            done = user.run(*command)
            assert done.returncode == 0, done.stderr
        before = user.run(*balance).stdout
        assert before.splitlines()[1].split()[:2] == ["points", "100"]
        os.killpg(stack.process.pid, signal.SIGINT)
        stack.process.wait(40)
        stack.wait_for("stopped; the data is kept in")
    kept = sorted(user.checkout.glob(".laurel/*"))
    assert {path.stat().st_uid for path in kept} == {user.account.get("user", os.geteuid())}
    with user.make("run", FREE_PORTS) as stack:
        stack.wait_for("Ctrl-C stops the stack")
        assert "setting up" not in stack.text
        assert "made" not in stack.text
        assert user.run(*balance).stdout == before


def test_tests_pass(user: User) -> None:
    done = user.run("make", "test", SOME_TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
