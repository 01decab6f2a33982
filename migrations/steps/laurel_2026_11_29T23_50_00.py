from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-29T23:50:00"
VERSION = "1.38.0"
DESCRIPTION = "Members as rows"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0023_members_as_rows.sql")
