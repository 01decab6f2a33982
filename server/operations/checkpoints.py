"""Taking checkpoints: what the ledger's chains end with goes into a file outside the database."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from server.domain.checkpoints import CheckpointError, Head, Line, Position
from server.store import checkpoints as store
from server.store.checkpoint_file import AWAY, CheckpointWriter
from server.store.database import UNHURRIED, Connection, Database


class Taken(NamedTuple):
    """What came of it. ``last`` is the file's last line, None of an empty one; ``heads`` were written.

    ``busy``: somebody else is taking one.
    """

    last: Line | None = None
    heads: int = 0
    busy: bool = False


async def take(
    database: Database,
    file: CheckpointWriter,
    clock: Callable[[], datetime],
    new_id: Callable[[], UUID],
) -> Taken:
    """Write down the end of every chain that changed since the last time; nothing if none did.

    Raises CheckpointError if the file isn't the one that was written, OSError if it can't be,
    Unavailable without the database.
    """
    async with database.transaction(UNHURRIED) as connection:
        if not await store.hold(connection):
            return Taken(busy=True)
        last = await asyncio.to_thread(file.last)
        now = clock()
        if last is not None:
            await _check_end(connection, file, last)
        # Asked before the heads: what commits in between is looked at again next time.
        position = await store.position(connection)
        said = None if last is None else last.checkpoint.position
        since = said if position.follows(said) else None
        written, heads = await _append(connection, file, last, new_id(), now, since, position)
        if written is not None and heads:
            await store.remember(connection, written)
        return Taken(written, heads)


async def _check_end(connection: Connection, file: CheckpointWriter, last: Line) -> None:
    """A file that ends before its end is gone on with by nobody: that would hide what was cut off."""
    known = await store.known(connection, last.checkpoint.chain)
    number = last.checkpoint.number
    if known is not None and known.number > number:
        raise CheckpointError(
            f"{file.path} ends with checkpoint {number}, and the database knows of {known.number}, taken at "
            f"{known.taken_at:%Y-%m-%d %H:%M:%SZ}: its end was cut off; {AWAY}"
        )


async def _append(
    connection: Connection,
    file: CheckpointWriter,
    last: Line | None,
    chain: UUID,
    now: datetime,
    since: Position | None,
    position: Position,
) -> tuple[Line | None, int]:
    """Write what changed; only the last of several lines says that all is written up to ``position``."""
    waiting: list[Head] = []
    heads = 0
    async for part in store.heads(connection, since):
        if waiting:
            last = await asyncio.to_thread(file.append, last, chain, now, since, waiting)
        waiting = part
        heads += len(part)
    if waiting:
        last = await asyncio.to_thread(file.append, last, chain, now, position, waiting)
    return last, heads
