"""`python -m server`: one server process, set up by LAUREL_* in the environment."""

import asyncio
import sys

import uvloop
from pydantic import ValidationError

from server import logs
from server.main import serve
from server.serving import Broken, StartError
from server.settings import Settings


def main() -> int:
    """Serve until told to stop; 0 then, 1 if it couldn't start or go on."""
    try:
        settings = Settings()  # type: ignore[call-arg] # the environment fills it in
    except ValidationError as error:
        for mistake in error.errors():
            # The value is not shown: it may be a secret in the wrong place.
            name = "_".join(str(part) for part in mistake["loc"]).upper()
            print(f"laurel server: LAUREL_{name}: {mistake['msg']}", file=sys.stderr)
        return 1
    logs.configure(settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except (StartError, Broken) as error:
        print(f"laurel server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
