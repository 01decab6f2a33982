from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-24T03:12:00"
VERSION = "1.38.0"
DESCRIPTION = "Templates, messages, and how programs write to their members"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0012_notifications.sql")
