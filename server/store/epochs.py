"""Epochs of the event log: a restore into another cluster starts a new one.

Transaction ids begin again in another cluster, so a reader that compared them with those of before
would take what is new for what is long done. Every connection looks, because that is what a restored
database sees first of anybody.
"""

from contextlib import suppress

import asyncpg

RESTORED = """SELECT last.epoch + 1, here.system_identifier
                FROM (SELECT epoch, system_identifier FROM log_epoch ORDER BY epoch DESC LIMIT 1) AS last,
                     pg_control_system() AS here
               WHERE here.system_identifier <> last.system_identifier"""


async def begin_if_restored(connection: asyncpg.Connection) -> None:
    """Begin a new epoch if this cluster isn't the one in which the last began. Raises what asyncpg raises."""
    # There is no such table in a database without migrations; whoever needs it will say so.
    with suppress(asyncpg.UndefinedTableError):
        if await connection.fetchval(f"SELECT EXISTS ({RESTORED})"):
            await connection.execute(
                f"INSERT INTO log_epoch (epoch, system_identifier) {RESTORED} ON CONFLICT DO NOTHING"
            )
