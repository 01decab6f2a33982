import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from laurel.stack.postgres import EmbeddedPostgres
from laurel.stack.processes import StackError, command_of
from tests.support.processes import ROOT, wait_until

STARTER = """
import sys, time
from pathlib import Path
from laurel.stack.postgres import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
postgres.start()
print(postgres.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="laurel-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def postgres(home: Path) -> Iterator[EmbeddedPostgres]:
    embedded = EmbeddedPostgres(home / "postgres", notify=lambda line: None)
    embedded.start()
    yield embedded
    embedded.stop()


async def ask(postgres: EmbeddedPostgres, statement: str) -> Any:
    connection = await asyncpg.connect(postgres.url("postgres"))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_it_is_durable_private_and_speaks_utc_and_utf8(postgres: EmbeddedPostgres) -> None:
    for name, value in {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "",
        "TimeZone": "UTC",
        "server_encoding": "UTF8",
        "max_connections": "200",
        "max_locks_per_transaction": "256",
    }.items():
        assert await ask(postgres, f"SHOW {name}") == value
    assert int(await ask(postgres, "SHOW server_version_num")) >= 150000


async def test_what_was_committed_survives_kill_9_and_a_clean_stop(postgres: EmbeddedPostgres) -> None:
    await ask(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    postgres.kill()
    postgres.start()
    assert await ask(postgres, "SELECT answer FROM kept") == 42
    postgres.stop()
    postgres.start()
    assert await ask(postgres, "SELECT answer FROM kept") == 42


async def test_it_starts_beside_a_pid_file_whose_number_is_somebody_elses(postgres: EmbeddedPostgres) -> None:
    file = postgres.folder / "data" / "postmaster.pid"
    lines = file.read_text().splitlines()
    postgres.kill()
    file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    postgres.start()
    assert await ask(postgres, "SELECT 1") == 1


async def test_the_next_start_takes_over_from_one_that_was_left_running(postgres: EmbeddedPostgres) -> None:
    await ask(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    successor = EmbeddedPostgres(postgres.folder, notify=lambda line: None)
    successor.start()
    try:
        assert not postgres.running
        assert await ask(successor, "SELECT answer FROM kept") == 42
    finally:
        successor.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of the killed")
def test_it_ends_when_whoever_started_it_is_killed(home: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, home / "postgres"],
        env=os.environ | {"TMPDIR": str(home)},  # for the socket, which the killed leaves behind
        stdout=subprocess.PIPE,
        text=True,
    )
    with starter, starter.stdout as out:
        pid = int(out.readline())
        starter.kill()
    assert wait_until(lambda: "postgres" not in command_of(pid))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to let another account through")
def test_as_root_it_opens_the_way_to_its_data_no_further_than_needed_and_says_so(home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    said: list[str] = []
    embedded = EmbeddedPostgres(closed / "postgres", durable=False, notify=said.append)
    embedded.start()
    embedded.stop()
    assert [line.rpartition(" ")[2] for line in said] == [str(closed)]
    assert closed.stat().st_mode & 0o777 == 0o701
    assert (closed / "postgres" / "data").stat().st_uid != 0


def test_a_start_that_fails_says_what_the_log_says(home: Path) -> None:
    broken = EmbeddedPostgres(home / "postgres", {"shared_buffers": "much"}, notify=lambda line: None)
    with pytest.raises(StackError, match="shared_buffers"):
        broken.start()
    broken.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root is an ordinary user in all other tests")
def test_it_runs_for_an_ordinary_user(home: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    python = f"/usr/bin/python{sysconfig.get_python_version()}"
    theirs: dict[str, Any] = {
        "user": nobody.pw_uid,
        "group": nobody.pw_gid,
        "extra_groups": [],
        "env": {
            "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("platlib")]),
            "PATH": os.environ["PATH"],
            "TMPDIR": str(home / "theirs"),
        },
        "cwd": home,
        "text": True,
        "stdout": subprocess.PIPE,
    }
    if (
        not os.path.exists(python)
        or subprocess.run([python, "-c", "import laurel"], check=False, **theirs).returncode
    ):
        pytest.skip("no interpreter and checkout that others may read")
    folder = home / "theirs"
    folder.mkdir()
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    starter = subprocess.Popen([python, "-c", STARTER, folder / "postgres"], **theirs)
    with starter, starter.stdout as out:
        pid = int(out.readline())
        assert os.stat(f"/proc/{pid}").st_uid == nobody.pw_uid
        starter.send_signal(signal.SIGKILL)
    assert wait_until(lambda: "postgres" not in command_of(pid))
