"""The health of gRPC, whose watchers don't keep a server from ending."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

# Anybody may watch; each holds a stream open.
MOST_WATCHERS = 1000


class Health(health.aio.HealthServicer):
    """The standard service, with a bound on its watchers and an end to their watch."""

    def __init__(self) -> None:
        super().__init__()
        self._watching: set[asyncio.Task[None]] = set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - its name
        """Tell of each change, until the watcher goes or the server ends."""
        if len(self._watching) >= MOST_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch the health already")
        task = asyncio.create_task(super().Watch(request, context))
        self._watching.add(task)
        try:
            await asyncio.wait([task])
        finally:
            self._watching.discard(task)
            task.cancel()

    def end_watches(self) -> None:
        """Let every watcher go; they have been told what is last."""
        for task in self._watching:
            task.cancel()
