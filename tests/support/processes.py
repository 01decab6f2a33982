"""Run the `laurel` command as its users do, and end what a test started."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LAUREL = str(Path(sys.executable).parent / "laurel")


def environment(**settings: str) -> dict[str, str]:
    """Ours, without any setting of Laurel's but these."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LAUREL_")} | settings


def run(
    *arguments: str, cwd: Path = Path("/"), seconds: float = 60, **settings: str
) -> subprocess.CompletedProcess[str]:
    """`laurel` with these arguments, its output and exit code; not in a folder that may hold a stack."""
    return subprocess.run(
        [LAUREL, *arguments],
        env=environment(**settings),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class Foreground:
    """A command that keeps running, and what it has printed so far."""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        settings: Mapping[str, str],
        account: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """``account``: whom to run as, as subprocess takes it; else as ourselves."""
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(**settings),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **account,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """Everything printed."""
        return "\n".join(self.lines)

    def wait_for(self, words: str, seconds: float = 90.0) -> str:
        """The first line with these words."""

        def line() -> str:
            return next((line for line in self.lines if words in line), "")

        assert wait_until(lambda: bool(line()) or self.process.poll() is not None, seconds), self.text
        assert line(), self.text
        return line()

    def end(self, number: signal.Signals = signal.SIGINT, seconds: float = 40.0) -> int:
        """Send the signal, wait, and give the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))


@contextlib.contextmanager
def up(folder: Path, *arguments: str, **settings: str) -> Iterator[Foreground]:
    """`laurel up` on a free port, in ``folder``, ready; ended at the latest with the block."""
    command = [LAUREL, "up", "--port", "0", "--http-port", "0", "--ops-port", "0", *arguments]
    stack = Foreground(command, folder, settings)
    try:
        stack.wait_for("Ctrl-C stops the stack", 120.0)
        yield stack
    finally:
        if stack.process.poll() is None:
            stack.end(signal.SIGTERM)
        if stack.process.stdout is not None:
            stack.process.stdout.close()


@contextlib.contextmanager
def gateway(address: str, folder: Path, **settings: str) -> Iterator[tuple[Foreground, dict[str, Any]]]:
    """`laurel gateway` before a server, ready, and where it listens; ended at the latest with the block."""
    command = [LAUREL, "gateway", "--address", address, "--http-port", "0"]
    shim = Foreground(command, folder, {"LAUREL_OPS_PORT": "0", **settings})
    try:
        yield shim, json.loads(shim.wait_for('"event": "ready"'))
    finally:
        if shim.process.poll() is None:
            shim.end(signal.SIGTERM)
        assert shim.process.stdout is not None
        shim.process.stdout.close()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
