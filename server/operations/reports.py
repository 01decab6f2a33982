"""Reports: figures that follow what happens."""

from datetime import datetime

from server.domain.figures import Figures
from server.store import figures, projections
from server.store.database import Database
from server.store.figures import PROJECTION, Place, Wanted


class Reports:
    """What all programs add up to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def daily(
        self, wanted: Wanted, after: Place | None, size: int
    ) -> tuple[dict[Place, Figures], bool, datetime]:
        """The figures of ``size`` days and stores after that one; whether there are more; as of when."""
        async with self._database.connection() as connection:
            # Before they are read: so nothing that is said to be in them can be missing.
            moment = await projections.as_of(connection, PROJECTION)
            found = await figures.page(connection, wanted, after, size + 1)
        more = len(found) > size
        if more:
            found.popitem()
        return found, more, moment
