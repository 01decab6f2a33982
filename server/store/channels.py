"""Which channels some worker has open, or had of late."""

from collections.abc import Collection
from datetime import timedelta

from server.store.database import Connection


async def say_open(connection: Connection, names: Collection[str]) -> None:
    """These are open in the worker that says so."""
    await connection.execute(
        """INSERT INTO open_channel SELECT name, now() FROM unnest($1::text[]) AS name ORDER BY name
               ON CONFLICT (channel) DO UPDATE SET seen_at = now()""",
        sorted(names),
    )


async def open_of_late(connection: Connection, within: timedelta) -> frozenset[str]:
    """Those that some worker had open, at most so long ago."""
    rows = await connection.fetch(
        "SELECT channel FROM open_channel WHERE seen_at > now() - $1::interval", within
    )
    return frozenset(row[0] for row in rows)
