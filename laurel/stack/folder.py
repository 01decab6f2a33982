"""The data folder of a local stack: who holds it, and what it says about itself."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from laurel.stack.processes import StackError

PRIVATE = 0o600


class DataFolder:
    """Paths below the folder of one stack, and the lock that keeps it to one `laurel up`."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.secrets = self.path / "secrets.json"
        self.keys = self.path / "keys.json"
        self.checkpoints = self.path / "checkpoints.jsonl"
        self.runtime = self.path / "stack.json"
        self.mail = self.path / "mail"
        self.postgres = self.path / "postgres"
        self.redis = self.path / "redis"
        self._lock: IO[str] | None = None

    def server_log(self, number: int) -> Path:
        """Where server process ``number``, from 1, writes its log."""
        return self.path / f"server-{number}.log"

    def worker_log(self, number: int) -> Path:
        """Where worker process ``number``, from 1, writes its log."""
        return self.path / f"worker-{number}.log"

    def hold(self) -> None:
        """Make the folder and take its lock, until ``release`` or our end. Raises StackError."""
        try:
            # Closed to others but for passing through, which PostgreSQL needs where we are root.
            self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise StackError(
                f"{self.path} can't be used: {error.strerror}; choose another with --data-folder"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise StackError(
                f"another `laurel up` (process {holder}) runs on {self.path}; stop it, or choose another "
                "folder with --data-folder and other ports with --port and --http-port"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def read_json(path: Path) -> dict[str, Any]:
    """What a file of ours holds; {} if it is missing or half-written."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file of ours, readable by its owner only, in one step."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
