"""Processes of ours that the local stack runs: each with a log, started again when it dies."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from laurel.stack.processes import end_child, open_log, spawn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGKILL)


class Child:
    """One process and its log. It is given ``stop_seconds`` to end when asked to."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, stop_seconds: float
    ) -> None:
        self.log = log
        self._command = command
        self._environment = environment
        self._stop_seconds = stop_seconds
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, 0 if it never ran."""
        return 0 if self._child is None else self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._child is not None and self._child.poll() is None

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        code = None if self._child is None else self._child.poll()
        if code is None:
            return "still runs"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def start(self) -> None:
        """Start the process; it isn't ready yet. Call it from the main thread."""
        with open_log(self.log) as log:
            self._child = spawn(self._command, log=log, dies_by=signal.SIGTERM, environment=self._environment)

    def ask_to_stop(self) -> None:
        """Ask it to begin nothing new, to finish what is under way and to end."""
        if self.running and self._child is not None:
            self._child.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask, wait until it is done, and end it if it takes too long."""
        if self._child is not None:
            end_child(self._child, STOP_SIGNALS, self._stop_seconds)
