from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-24T03:13:00"
VERSION = "1.38.0"
DESCRIPTION = "Read models and daily figures"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0013_projections.sql")
