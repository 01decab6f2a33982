"""Which migrations the database has."""

from server.store.database import Connection


async def applied(connection: Connection) -> frozenset[str]:
    """The ids of the migrations applied."""
    if not await connection.fetchval("SELECT to_regclass('migration') IS NOT NULL"):
        return frozenset()
    rows = await connection.fetch("SELECT name FROM migration WHERE app_name = 'laurel'")
    return frozenset(row[0] for row in rows)
