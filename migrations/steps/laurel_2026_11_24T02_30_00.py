from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-24T02:30:00"
VERSION = "1.38.0"
DESCRIPTION = "Entries that came too late wait for a person"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0009_reviews.sql")
