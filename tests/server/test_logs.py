"""Nothing fails because a line can't be logged."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import asyncpg
import pytest
import structlog

from server import logs
from server.store.database import Database
from tests.server.operations.test_committer import opened, sabotaged


def full() -> TextIO:
    """A file on a disk without room."""
    return open("/dev/full", "w", buffering=1)


def unread() -> TextIO:
    """A pipe whose reader is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return open(writing, "w", buffering=1)


def closed() -> TextIO:
    """A file that takes nothing more."""
    with open("/dev/null", "w", buffering=1) as stream:
        return stream


@contextmanager
def standard_error(stream: TextIO) -> Iterator[None]:
    """Log everything there."""
    before, sys.stderr = sys.stderr, stream
    logs.configure("DEBUG")
    try:
        yield
    finally:
        sys.stderr = before
        structlog.reset_defaults()
        with suppress(OSError):
            stream.close()


UNWILLING = pytest.mark.parametrize("stream", [full, unread, closed])


@UNWILLING
def test_a_line_that_nobody_takes_is_lost_and_no_more(stream: Callable[[], TextIO]) -> None:
    with standard_error(stream()):
        with pytest.raises((OSError, ValueError)):
            sys.stderr.write("nobody takes this\n")
        structlog.get_logger().warning("lost")
        logging.getLogger("library").error("lost too", exc_info=ValueError("nobody knows"))


async def test_points_are_earned_while_no_line_can_be_logged(
    database: Database, redis_url: str, secrets_file: Path
) -> None:
    async with opened(database, redis_url, secrets_file) as shop:
        unlucky, lucky = [await shop.member() for _ in range(2)]
        with standard_error(full()):
            async with sabotaged(shop, "check_violation"):
                # The batch is split, and a line is to say so.
                told = await shop.together(
                    [shop.purchase(unlucky, 7, reference="unlucky"), shop.purchase(lucky, 7)]
                )
            assert isinstance(told[0], asyncpg.CheckViolationError)
            assert (await shop.submit(shop.purchase(lucky, 7), seconds=5)).points == 7
        assert await shop.balance(lucky) == 14
