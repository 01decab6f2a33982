from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-29T23:30:00"
VERSION = "1.38.0"
DESCRIPTION = "Rows as a batch sends them"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0021_rows.sql")
