from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-24T00:30:00"
VERSION = "1.38.0"
DESCRIPTION = "Lots that activate and expire, holds, returns and refunds"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0003_lots_and_holds.sql")
