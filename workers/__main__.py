"""`python -m workers`: one worker process, set up by LAUREL_* in the environment."""

import asyncio
import sys
from collections.abc import Mapping

import uvloop
from pydantic import ValidationError

from server import logs
from server.serving import Broken, StartError
from workers.deliveries import Pace
from workers.main import work
from workers.settings import WorkerSettings
from workers.subscriptions import SUBSCRIPTIONS, Subscription


def main(subscriptions: Mapping[str, Subscription] = SUBSCRIPTIONS, pace: Pace | None = None) -> int:
    """Work until told to stop; 0 then, 1 if it couldn't start or go on."""
    try:
        settings = WorkerSettings()  # type: ignore[call-arg] # the environment fills it in
    except ValidationError as error:
        for mistake in error.errors():
            # The value is not shown: it may be a secret in the wrong place.
            name = "_".join(str(part) for part in mistake["loc"]).upper()
            print(f"laurel worker: LAUREL_{name}: {mistake['msg']}", file=sys.stderr)
        return 1
    logs.configure(settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work(settings, subscriptions, pace=pace))
    except (StartError, Broken) as error:
        print(f"laurel worker: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
