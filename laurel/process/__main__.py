"""`python -m laurel.process`: gRPC and REST in one process, set up by LAUREL_* in the environment."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop
from pydantic import ValidationError

from gateway.settings import GatewaySettings
from laurel.process.main import serve
from server import logs
from server.serving import Broken, StartError
from server.settings import Settings


def main() -> int:
    """Serve until told to stop; 0 then, 1 if it couldn't start or go on."""
    try:
        settings, http = Settings(), GatewaySettings()  # type: ignore[call-arg] # the environment fills it in
    except ValidationError as error:
        return complain(error)
    return run(lambda: serve(settings, http), settings.log_level)


def complain(error: ValidationError) -> int:
    """Name the settings that are wrong; the exit code."""
    for mistake in error.errors():
        # The value is not shown: it may be a secret in the wrong place.
        name = "_".join(str(part) for part in mistake["loc"]).upper()
        print(f"laurel: LAUREL_{name}: {mistake['msg']}", file=sys.stderr)
    return 1


def run(work: Callable[[], Coroutine[Any, Any, None]], log_level: str) -> int:
    """Do the work of a process in a loop of its own; the exit code."""
    logs.configure(log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work())
    except (StartError, Broken) as error:
        print(f"laurel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
