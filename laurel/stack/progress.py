"""What `laurel up` says while it works: one line a step, with the time it took."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console

from laurel.output import console


class Step:
    """A step under way; ``note`` stands behind its name when it is done."""

    def __init__(self) -> None:
        self.note = ""


class Progress:
    """Prints steps, remarks and what happened meanwhile."""

    def __init__(self, out: Console | None = None) -> None:
        self._out = out or console()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Say that a step is under way and, at its end, how long it took."""
        started = time.monotonic()
        step = Step()
        with self._out.status(f"{name} ...") if self._out.is_terminal else contextlib.nullcontext():
            yield step
        self.say(f"  {name:<14}{time.monotonic() - started:6.2f} s  {step.note}".rstrip())

    def say(self, line: str = "") -> None:
        """Print a line, if anybody still listens: a closed terminal must not keep us from stopping well."""
        with contextlib.suppress(OSError):
            self._out.print(line, soft_wrap=True)
