from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-24T03:54:00"
VERSION = "1.38.0"
DESCRIPTION = "Schedules"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0014_schedules.sql")
