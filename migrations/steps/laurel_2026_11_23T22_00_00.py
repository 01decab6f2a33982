from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-23T22:00:00"
VERSION = "1.38.0"
DESCRIPTION = "Step-up: from how many points on members need a stronger login"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0002_step_up.sql")
