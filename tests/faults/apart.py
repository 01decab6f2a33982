"""Callers in a process of their own: one that starts others must not be amid gRPC calls."""

import asyncio
import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol, Self

END_SECONDS = 30.0


class Part(Protocol):
    """What works there. The test asks for its methods by name."""

    async def close(self) -> None:
        """End what is under way."""


class Apart:
    """``make`` is called there, in an event loop, for as long as the block lasts."""

    def __init__(self, make: Callable[..., Part], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, make, arguments), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send(None)
        self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._pipe.close()

    def ask(self, what: str, *arguments: object, seconds: float = 60.0) -> Any:
        """What its method of that name returns."""
        self._pipe.send((what, arguments))
        assert self._pipe.poll(seconds), f"{what}: not done after {seconds:.0f} s"
        return self._pipe.recv()


def _work(pipe: Connection, make: Callable[..., Part], arguments: tuple[object, ...]) -> None:
    async def obey() -> None:
        """Do what the test asks for, one thing after the other, until it asks for nothing more."""
        part = make(*arguments)
        while (asked := await asyncio.to_thread(pipe.recv)) is not None:
            what, about = asked
            pipe.send(await getattr(part, what)(*about))
        await part.close()

    asyncio.run(obey())
