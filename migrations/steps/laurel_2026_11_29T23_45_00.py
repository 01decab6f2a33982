from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-29T23:45:00"
VERSION = "1.38.0"
DESCRIPTION = "Timelines"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0022_timelines.sql")
