from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-24T01:10:00"
VERSION = "1.38.0"
DESCRIPTION = "Runs: what is due by program, and warnings of points that will expire"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0004_runs.sql")
