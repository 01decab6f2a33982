from piccolo.apps.migrations.auto.migration_manager import MigrationManager

from migrations.sql_file import from_file

ID = "2026-11-23T00:00:00"
VERSION = "1.38.0"
DESCRIPTION = "The foundation: programs, members, the ledger, rules, credentials, the event log"


async def forwards() -> MigrationManager:
    return from_file(ID, DESCRIPTION, "0001_foundation.sql")
